"""Products of packed spikes on a GPU: dense on tensor cores, over the columns in use, by additions.

`packed_mm` reads one bit for each element of S. `union_mm` leaves out what no row of a tile fired
in. `event_mm` adds up the rows of W that fired, for a batch of a few rows; its sums depend on
nothing but their own row. `mm_by_count` launches the first two, of which one runs.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from spike_ops._bits import bytes_needed
from spike_ops._triton._bits import count
from spike_ops._triton._device import EXACT, check_device, check_floats
from spike_ops._triton._product_kernels import (
    ABOVE,
    ALWAYS,
    UP_TO,
    compact_kernel,
    event_kernel,
    packed_kernel,
    union_kernel,
)
from spike_ops._triton._slices import CARRIER, is_sliced


class Tiles(NamedTuple):
    """The tile of one program, `[rows, columns]`, over steps of `depth`; and its pipeline."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def options(self) -> dict[str, Any]:
        """Return how a kernel is compiled, whatever the defaults of the installed triton."""
        return {"num_warps": self.warps, "num_stages": self.stages} | EXACT


# by bytes of an element of W
TILES = {4: Tiles(64, 64, 32, 4, 2), 2: Tiles(64, 128, 64, 8, 2)}
UNION = Tiles(64, 0, 64, 4, 1)
EVENT, EVENT_UNION = Tiles(8, 128, 0, 4, 1), Tiles(8, 0, 256, 4, 1)
AHEAD = 8  # rows of W that `event_kernel` has under way
CHUNK = 1024  # columns of S that one program adds up
# S is read through its transpose, or not: bits from row to row and from column to column
Strides = tuple[int, int]


def packed_mm(packed: Tensor, rows: int, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """Return S @ W on tensor cores, `weight` W [K, N] of any strides: [rows, N].

    Args:
        packed: Bits of S [rows, K]; of Sᵀ [K, rows] where `transposed`.
        rows: Rows of S.
        weight: float32 (three exact slices), float16 or bfloat16.
        transposed: As for a weight's gradient, where W is the gradient by S @ W.

    Raises:
        ValueError: The tensors are not on a CUDA device, or the bits are too few.
        TypeError: There is no kernel for the type.
    """
    y, bits = _prepared(packed, rows, weight, transposed)
    if y.numel():
        _packed(packed, weight, y, bits, packed, 0, ALWAYS)
    return y


def union_mm(packed: Tensor, rows: int, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """Return S @ W as `packed_mm` does, over those k alone that any row of a tile fired in."""
    y, bits = _prepared(packed, rows, weight, transposed)
    if y.numel():
        _union(packed, weight, y, bits, packed, 0, ALWAYS)
    return y


def mm_by_count(
    packed: Tensor, rows: int, weight: Tensor, limit: int, *, transposed: bool = False
) -> Tensor:
    """Return S @ W by `union_mm` for up to `limit` spikes, else by `packed_mm`.

    The spikes are counted on the device and the launches of both ways look at the count there: the
    host waits for nothing, and a recorded graph of launches serves any number of spikes.
    """
    y, bits = _prepared(packed, rows, weight, transposed)
    if y.numel():
        spikes = count(packed)
        _union(packed, weight, y, bits, spikes, limit, UP_TO)
        _packed(packed, weight, y, bits, spikes, limit, ABOVE)
    return y


def sparse_mm(packed: Tensor, rows: int, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """Return S @ W without what did not fire: by additions for a few rows, else over the union."""
    way = event_mm if rows <= EVENT.rows else union_mm
    return way(packed, rows, weight, transposed=transposed)


def event_mm(packed: Tensor, rows: int, weight: Tensor, *, transposed: bool = False) -> Tensor:
    """Return S @ W by additions of rows of W, in the order of k: [rows, N].

    Made for up to 8 rows, right for any number. Chunks of K are added up by programs of their own
    and then together in order: the same bits every time, and whatever the other rows are.
    """
    y, bits = _prepared(packed, rows, weight, transposed)
    (depth, width), tiles = weight.shape, triton.cdiv(rows, EVENT.rows)
    if not (y.numel() and depth):
        return y.zero_()
    chunks = triton.cdiv(depth, CHUNK)
    lists = [y.new_empty(tiles * depth, dtype=kind) for kind in (torch.int64, torch.int32)]
    found = y.new_empty(tiles * chunks, dtype=torch.int32)
    union_kernel[(tiles, chunks)](
        packed, lists[1], *lists, found, packed, 0, rows, depth, *bits, weight.stride(0), CHUNK,
        EVENTS=True, GUARD=ALWAYS, ROWS=EVENT.rows, DEPTH=EVENT_UNION.depth,
        **EVENT_UNION.options(),
    )  # fmt: skip
    parts = y[None] if chunks == 1 else y.new_empty(chunks, rows, width, dtype=torch.float32)
    event_kernel[(tiles, triton.cdiv(width, EVENT.columns), chunks)](
        weight, parts, *lists, found, rows, depth, width, weight.stride(1), CHUNK,
        ROWS=EVENT.rows, COLUMNS=EVENT.columns, AHEAD=AHEAD, **EVENT.options(),
    )  # fmt: skip
    return y if chunks == 1 else parts.sum(0).to(y.dtype)


def _prepared(
    packed: Tensor, rows: int, weight: Tensor, transposed: bool
) -> tuple[Tensor, Strides]:
    """Return the memory of the result, and the bits between rows and columns of S."""
    check_device(packed, weight)
    check_floats(weight)
    depth, width = weight.shape
    if packed.numel() < bytes_needed(rows * depth):
        raise ValueError(f"packed must hold {rows * depth} bits, got {packed.numel()} bytes")
    return weight.new_empty(rows, width), (1, rows) if transposed else (depth, 1)


def _grid(y: Tensor, t: Tiles) -> tuple[int, int]:
    return triton.cdiv(y.shape[0], t.rows), triton.cdiv(y.shape[1], t.columns)


def _packed(
    packed: Tensor, w: Tensor, y: Tensor, bits: Strides, spikes: Tensor, limit: int, guard: int
) -> None:
    t = TILES[w.element_size()]
    packed_kernel[_grid(y, t)](
        packed, w, y, spikes, limit, y.shape[0], *w.shape, *bits, *w.stride(),
        WHOLE_BYTES=bits[1] == 1 and w.shape[0] % 8 == 0, GUARD=guard, **_numbers(w, t),
    )  # fmt: skip


def _union(
    packed: Tensor, w: Tensor, y: Tensor, bits: Strides, spikes: Tensor, limit: int, guard: int
) -> None:
    t, depth = TILES[w.element_size()], w.shape[0]
    tiles = triton.cdiv(y.shape[0], t.rows)
    index = y.new_empty(tiles * depth, dtype=torch.int32)
    found = y.new_empty(tiles, dtype=torch.int32)
    union_kernel[(tiles, 1)](
        packed, index, index, index, found, spikes, limit, y.shape[0], depth, *bits, 0, depth,
        EVENTS=False, GUARD=guard, ROWS=t.rows, DEPTH=UNION.depth, **UNION.options(),
    )  # fmt: skip
    compact_kernel[_grid(y, t)](
        packed, w, y, index, found, spikes, limit, y.shape[0], *w.shape, *bits, *w.stride(),
        GUARD=guard, **_numbers(w, t),
    )  # fmt: skip


def _numbers(w: Tensor, t: Tiles) -> dict[str, Any]:
    cut = {"ROWS": t.rows, "COLUMNS": t.columns, "DEPTH": t.depth}
    return {"SLICED": is_sliced(w), "CARRIER": CARRIER} | cut | t.options()
