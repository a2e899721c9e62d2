"""Triton kernels of the product with a rank for each row.

Rows come sorted by falling rank, as an order that the kernels follow: nothing is copied together.
A tile of rows computes up to the largest rank in it and no further, so that weights are read once
for a tile and what no row reaches is not read at all. Within a tile each row is masked at its own
rank. Order and ranks stay on the device and no grid depends on them: the launches can be recorded
once and serve all ranks.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lowrank_kernels._product_triton import accumulated
from lowrank_kernels._tiles import STAIRCASE, Tiles
from lowrank_kernels._tuner_triton import choose


@triton.jit(do_not_specialize=["N"])
def descend_kernel(  # type: ignore[no-untyped-def]
    X, D, C, H, ORDER, RANKS,
    N, n,
    x_row, x_col, d_row, d_col, h_row,
    HAS_INNER: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store `X Dᵀ + C` of one tile of sorted rows and directions, if one of the rows gets there."""
    places = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(ORDER + places, mask=places < N, other=0)
    ranks = tl.load(RANKS + places, mask=places < N, other=0)
    top = tl.max(ranks)
    first = tl.program_id(1).to(tl.int64) * COLUMNS
    if first >= top:
        return
    columns = first + tl.arange(0, COLUMNS)
    h = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    h = accumulated(
        h, X, D, rows, tl.where(ranks > first, n, 0), columns, columns < top, n, n,
        x_row, x_col, d_row, d_col, DEPTH, PRECISION,
    )  # fmt: skip
    if HAS_INNER:
        c = tl.load(C + columns, mask=columns < top, other=0.0)
        h += c.to(tl.float32)[None, :]
    tl.store(
        H + places[:, None] * h_row + columns[None, :],
        h.to(H.dtype.element_ty),
        mask=columns[None, :] < ranks[:, None],
    )


@triton.jit(do_not_specialize=["N"])
def climb_kernel(  # type: ignore[no-untyped-def]
    H, U, B, Y, ORDER, RANKS,
    N, m,
    h_row, u_row, u_col, y_row,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store `H Uᵀ + B` of one tile, each row up to its rank and back in its own place."""
    places = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.load(ORDER + places, mask=places < N, other=0)
    ranks = tl.load(RANKS + places, mask=places < N, other=0)
    top = tl.max(ranks)
    shortest = tl.min(tl.where(places < N, ranks, top))
    y = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    y = accumulated(
        y, H, U, places, ranks, columns, columns < m, shortest, top,
        h_row, 1, u_row, u_col, DEPTH, PRECISION,
    )  # fmt: skip
    if HAS_BIAS:
        b = tl.load(B + columns, mask=columns < m, other=0.0)
        y += b.to(tl.float32)[None, :]
    tl.store(
        Y + rows[:, None] * y_row + columns[None, :],
        y.to(Y.dtype.element_ty),
        mask=(places[:, None] < N) & (columns[None, :] < m),
    )


@triton.jit
def weigh_kernel(  # type: ignore[no-untyped-def]
    H, X, G, ORDER, RANKS, COUNTS,
    n, R,
    h_row, x_row, x_col, g_row, g_col,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store `Hᵀ X` of one tile of directions, over the rows that get there."""
    directions = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    count = tl.load(COUNTS + tl.program_id(0))
    g = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for p0 in range(0, count, DEPTH):
        places = p0 + tl.arange(0, DEPTH).to(tl.int64)
        rows = tl.load(ORDER + places, mask=places < count, other=0)
        ranks = tl.load(RANKS + places, mask=places < count, other=0)
        h = tl.load(
            H + places[None, :] * h_row + directions[:, None],
            mask=directions[:, None] < ranks[None, :],
            other=0.0,
        )
        x = tl.load(
            X + rows[:, None] * x_row + columns[None, :] * x_col,
            mask=(places[:, None] < count) & (columns[None, :] < n),
            other=0.0,
        )
        g = tl.dot(h, x, g, input_precision=PRECISION)
    tl.store(
        G + directions[:, None] * g_row + columns[None, :] * g_col,
        g.to(G.dtype.element_ty),
        mask=(directions[:, None] < R) & (columns[None, :] < n),
    )


def descend(
    x: Tensor,
    down: Tensor,
    inner: Tensor | None,
    order: Tensor,
    ranks: Tensor,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return the hidden rows in sorted order, `[N, R]`, unwritten beyond each rank.

    Args:
        x: `[N, n]` of any strides, in its own order.
        down: `[R, n]`, likewise.
        inner: `[R]`, contiguous, or None.
        order: `[N]`, the rows by falling rank.
        ranks: `[N]`, sorted, in 0..R.
        tiles: how it is cut into programs; None is the default.
    """
    (N, n), R = x.shape, down.shape[0]
    h = x.new_empty(N, R)
    if h.numel():

        def launch(t: Tiles) -> None:
            descend_kernel[(triton.cdiv(N, t.rows), triton.cdiv(R, t.columns))](
                x, down, h if inner is None else inner, h, order, ranks,
                N, n, *x.stride(), *down.stride(), h.stride(0),
                HAS_INNER=inner is not None, PRECISION="ieee",
                ROWS=t.rows, COLUMNS=t.columns, DEPTH=t.depth, **t.options(),
            )  # fmt: skip

        launch(tiles or choose(STAIRCASE, x, "descend", (N, n, R), launch))
    return h


def climb(
    h: Tensor,
    up: Tensor,
    bias: Tensor | None,
    order: Tensor,
    ranks: Tensor,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return the product of sorted hidden rows in the order of the input, `[N, m]`.

    Args:
        h: `[N, R]`, contiguous rows, what `descend` returns.
        up: `[m, R]` of any strides.
        bias: `[m]`, contiguous, or None.
        order: `[N]`, the rows by falling rank.
        ranks: `[N]`, sorted, in 0..R.
        tiles: how it is cut into programs; None is the default.
    """
    N, m = h.shape[0], up.shape[0]
    y = h.new_empty(N, m)
    if y.numel():

        def launch(t: Tiles) -> None:
            climb_kernel[(triton.cdiv(N, t.rows), triton.cdiv(m, t.columns))](
                h, up, y if bias is None else bias, y, order, ranks,
                N, m, h.stride(0), *up.stride(), y.stride(0),
                HAS_BIAS=bias is not None, PRECISION="ieee",
                ROWS=t.rows, COLUMNS=t.columns, DEPTH=t.depth, **t.options(),
            )  # fmt: skip

        launch(tiles or choose(STAIRCASE, h, "climb", (N, h.shape[1], m), launch))
    return y


def weigh(
    h: Tensor,
    x: Tensor,
    out: Tensor,
    order: Tensor,
    ranks: Tensor,
    tiles: Tiles | None = None,
) -> Tensor:
    """Fill `out [R, n]`, of any strides, with `(P h)ᵀ x` for sorted h and x in its own order."""
    R, n = out.shape
    if out.numel():

        def launch(t: Tiles) -> None:
            starts = torch.arange(0, R, t.rows, device=ranks.device)
            counts = (ranks > starts[:, None]).sum(1, dtype=torch.int32)
            weigh_kernel[(len(starts), triton.cdiv(n, t.columns))](
                h, x, out, order, ranks, counts,
                n, R, h.stride(0), *x.stride(), *out.stride(), PRECISION="ieee",
                ROWS=t.rows, COLUMNS=t.columns, DEPTH=t.depth, **t.options(),
            )  # fmt: skip

        launch(tiles or choose(STAIRCASE, x, "weigh", (len(order), R, n), launch))
    return out
