"""Tiles by measurement, where that is asked for.

Other tiles add numbers up in another order, so the default is one fixed choice for each dtype: the
same bits every time. With `LOWRANK_KERNELS_TUNE=1` in the environment the first product of a size
tries all tiles and keeps the fastest, for this process and all sizes of the same powers of two.
Nothing is tried while a CUDA graph is recorded.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from lowrank_kernels._tiles import Tiles

ENABLED = os.environ.get("LOWRANK_KERNELS_TUNE") == "1"
_chosen: dict[tuple[Any, ...], Tiles] = {}


def choose(
    table: dict[int, tuple[Tiles, ...]],
    x: Tensor,
    name: str,
    sizes: tuple[int, ...],
    launch: Callable[[Tiles], object],
) -> Tiles:
    """Return the default tiles, or the fastest where tuning is on.

    Args:
        table: tiles by the bytes of an element, the default first.
        x: gives dtype and device.
        name: which kernel.
        sizes: of the product; they share a choice with all up to the same powers of two.
        launch: runs the kernel with given tiles; may be called many times.
    """
    candidates = table[x.element_size()]
    if not ENABLED:
        return candidates[0]
    key = (name, x.dtype, x.device, *((size - 1).bit_length() for size in sizes))
    if key not in _chosen:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return candidates[0]
        _chosen[key] = min(candidates, key=lambda tiles: milliseconds(lambda: launch(tiles)))
    return _chosen[key]


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call on the device."""
    return float(triton.testing.do_bench(call, warmup=5, rep=20, return_mode="median"))
