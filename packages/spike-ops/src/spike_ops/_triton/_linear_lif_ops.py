"""A linear layer and its LIF neurons on a GPU as one operator, for compiled graphs too.

The input is dense, [T M, K], or its packed bits, which have `strides`: the bits from row to row and
from column to column. Numbers, flags and what is kept are those of `_lif_ops`.
"""

from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from spike_ops._bits import bytes_needed
from spike_ops._triton._bits import pack
from spike_ops._triton._device import check_device, check_floats
from spike_ops._triton._lif_kernels import KEPT
from spike_ops._triton._lif_ops import memory
from spike_ops._triton._linear_lif_kernel import linear_lif_kernel
from spike_ops._triton._products import Tiles
from spike_ops._triton._slices import CARRIER, is_sliced

# the widest first, by bytes of an element: programs share the neurons, never the time, so that a
# small layer needs narrow ones to be spread over the device
TILES = {
    4: (Tiles(64, 64, 32, 8, 2), Tiles(64, 32, 32, 4, 2)),
    2: (Tiles(64, 128, 64, 8, 3), Tiles(64, 64, 64, 4, 3), Tiles(64, 32, 64, 4, 3)),
}
STEPS = 4  # in one tile of the product
# for a single step, of which a tile has the more samples: they need registers
SINGLE = {4: (Tiles(32, 64, 32, 8, 2),), 2: (Tiles(64, 64, 64, 8, 3),)}


@torch.library.custom_op("spike_ops::triton_linear_lif", mutates_args=())
def linear_lif_forward(
    x: Tensor,
    strides: list[int],
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    steps: int,
    numbers: list[float],
    flags: list[int],
    kept: str,
    dense: bool,
    packed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return spikes [T, M N], bits, what is kept, v [M, N] from `v`; `weight` is W [K, N].

    Currents are float32 sums whatever the type of the weight, and are not rounded to it.
    """
    given = (x, weight, v) if bias is None else (x, weight, v, bias)
    check_device(*given)
    check_floats(*given[bool(strides) :])
    x, v, last = x.contiguous(), v.contiguous(), torch.empty_like(v.contiguous())
    whole = v.shape[1] % 8 == 0
    spikes, bits, saved = memory(v, steps, v.numel(), whole, kept, dense, packed)
    if v.numel() and steps:
        reset, _, strict, surrogate = flags
        grid, tiles = _launch(v, weight, 1 if steps == 1 else STEPS)
        linear_lif_kernel[grid](
            x, weight, weight if bias is None else bias.contiguous(), v, spikes, bits, saved, last,
            steps, len(v), *weight.shape, *(strides or (0, 0)), *weight.stride(), *numbers,
            BITS=bool(strides), IN_BYTES=_in_bytes(strides, weight.shape[0]),
            BIAS=bias is not None, SLICED=is_sliced(weight), CARRIER=CARRIER, RESET=reset,
            STRICT=bool(strict), SURROGATE=surrogate, KEEP=KEPT[kept], DENSE=dense, PACKED=packed,
            WHOLE_BYTES=whole, **tiles,
        )  # fmt: skip
    if not whole:
        bits = pack(bits) if packed else bits
        saved = pack(saved) if kept == "bits" else saved
    return spikes, bits, saved, last


@linear_lif_forward.register_fake
def _(
    x: Tensor,
    strides: list[int],
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    steps: int,
    numbers: list[float],
    flags: list[int],
    kept: str,
    dense: bool,
    packed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del x, strides, weight, bias, numbers, flags
    size = v.numel()
    held = v.new_empty(bytes_needed(steps * size), dtype=torch.uint8)
    shapes: dict[str, Any] = {"membrane": (steps, size), "bytes": (steps, size), "nothing": (0,)}
    kind = v.dtype if kept == "membrane" else torch.uint8
    return (
        v.new_empty((steps, size) if dense else (0,)),
        held if packed else held.new_empty(0),
        v.new_empty(shapes.get(kept, held.shape), dtype=kind),
        v.new_empty(v.shape),
    )


def _in_bytes(strides: list[int], depth: int) -> bool:
    """Say whether the rows of packed spikes are whole bytes."""
    return bool(strides) and strides[1] == 1 and depth % 8 == 0


def _launch(v: Tensor, weight: Tensor, steps: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """Return the programs and the tile of each: the widest that leaves no processor idle."""
    for t in (SINGLE if steps == 1 else TILES)[weight.element_size()]:
        batch = t.rows // steps
        grid = triton.cdiv(v.shape[0], batch), triton.cdiv(v.shape[1], t.columns)
        if grid[0] * grid[1] >= processors(v.device):
            break
    sizes = {"STEPS": steps, "BATCH": batch, "COLUMNS": t.columns, "DEPTH": t.depth}
    return grid, sizes | t.options()


@lru_cache
def processors(device: torch.device) -> int:
    """Return how many programs a device runs at the same time, at least."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
