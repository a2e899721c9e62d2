"""Triton kernels of the low-rank product: one launch for few rows, two for many.

All take a batch of layers, one for the plain product. The rank is a run-time value, never
specialised on, so that each kernel is compiled once for all ranks: a length given by the host, or a
number that the kernel reads from the memory of the device, so that a recorded graph of launches
serves every rank. Loads are masked on every axis and addresses are 64-bit.
"""

import triton
import triton.language as tl
from torch import Tensor

from lowrank_kernels._tiles import FUSED, FUSED_BLOCK_RANK, PRODUCT, Tiles
from lowrank_kernels._tuner_triton import choose

EPILOGUES = {None: 0, "relu": 1, "gelu": 2, "silu": 3}
# which axis of a product is cut at the rank that the device holds
AXES = {None: 0, "rows": 1, "columns": 2, "depth": 3}


@triton.jit
def accumulated(  # type: ignore[no-untyped-def]
    acc, X, W, rows, lengths, columns, exist, shortest, depth, x_row, x_col, w_row, w_col,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return `acc + X Wᵀ` for rows of X, each up to its own length, and rows of W that exist.

    Rows of length 0 are not read; all others are at least `shortest` long.
    """
    X += rows[:, None] * x_row
    W += columns[None, :] * w_row
    # whole steps are not masked along their depth, so that they are loaded many numbers at a time
    whole = shortest // DEPTH * DEPTH
    for k0 in range(0, whole, DEPTH):
        ks = k0 + tl.arange(0, DEPTH).to(tl.int64)
        x = tl.load(X + ks[None, :] * x_col, mask=lengths[:, None] > 0, other=0.0)
        w = tl.load(W + ks[:, None] * w_col, mask=exist[None, :], other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    for k0 in range(whole, depth, DEPTH):
        ks = k0 + tl.arange(0, DEPTH).to(tl.int64)
        x = tl.load(X + ks[None, :] * x_col, mask=ks[None, :] < lengths[:, None], other=0.0)
        w = tl.load(W + ks[:, None] * w_col, mask=exist[None, :] & (ks[:, None] < depth), other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    return acc


@triton.jit
def activated(y, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the activation of y by its number in EPILOGUES; nan stays nan."""
    if ACTIVATION == 1:
        y = tl.where(y < 0, 0.0, y)
    if ACTIVATION == 2:
        y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    if ACTIVATION == 3:
        y = y / (1 + tl.exp(-y))
    return y


@triton.jit
def rank_of(RANKS, layer, R):  # type: ignore[no-untyped-def]
    """Return the rank of a layer, put into 0..R."""
    return tl.minimum(tl.maximum(tl.load(RANKS + layer).to(tl.int32), 0), R)


@triton.jit(do_not_specialize=["R"])
def fused_kernel(  # type: ignore[no-untyped-def]
    X, D, U, B, C, Y, RANKS,
    N, n, m, R,
    x_layer, x_row, x_col, d_layer, d_row, d_col, u_layer, u_row, u_col,
    b_layer, c_layer, y_layer, y_row,
    HAS_BIAS: tl.constexpr, HAS_INNER: tl.constexpr, ON_DEVICE: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Store `act((X Dᵀ + C) Uᵀ + B)` for one tile of rows and outputs, h kept in registers."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    outs = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    layer = tl.program_id(2).to(tl.int64)
    lengths = tl.where(rows < N, n, 0)
    rank = R
    if ON_DEVICE:
        rank = rank_of(RANKS, layer, R)
    y = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for r0 in range(0, rank, RANK):
        ranks = r0 + tl.arange(0, RANK).to(tl.int64)
        h = tl.zeros((ROWS, RANK), dtype=tl.float32)
        h = accumulated(
            h, X + layer * x_layer, D + layer * d_layer, rows, lengths, ranks, ranks < rank, n, n,
            x_row, x_col, d_row, d_col, DEPTH, PRECISION,
        )  # fmt: skip
        if HAS_INNER:
            c = tl.load(C + layer * c_layer + ranks, mask=ranks < rank, other=0.0)
            h += c.to(tl.float32)[None, :]
        # infinity times the zeros that stand for missing directions
        h = tl.where(ranks[None, :] < rank, h, 0.0)
        u = tl.load(
            U + layer * u_layer + outs[None, :] * u_row + ranks[:, None] * u_col,
            mask=(outs[None, :] < m) & (ranks[:, None] < rank),
            other=0.0,
        )
        y = tl.dot(h.to(u.dtype), u, y, input_precision=PRECISION)
    if HAS_BIAS:
        b = tl.load(B + layer * b_layer + outs, mask=outs < m, other=0.0)
        y += b.to(tl.float32)[None, :]
    tl.store(
        Y + layer * y_layer + rows[:, None] * y_row + outs[None, :],
        activated(y, ACTIVATION).to(Y.dtype.element_ty),
        mask=(rows[:, None] < N) & (outs[None, :] < m),
    )


@triton.jit(do_not_specialize=["N", "k", "m"])
def product_kernel(  # type: ignore[no-untyped-def]
    X, W, B, Y, RANKS,
    N, k, m,
    x_layer, x_row, x_col, w_layer, w_row, w_col, b_layer, y_layer, y_row,
    HAS_BIAS: tl.constexpr, CUT: tl.constexpr, WHOLE: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store `act(X Wᵀ + B)` for one tile, one axis cut at the rank; zeros beyond where WHOLE."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    layer = tl.program_id(2).to(tl.int64)
    last_row, last_column, depth = N, m, k
    if CUT == 1:
        last_row = rank_of(RANKS, layer, N)
        if tl.program_id(0) * ROWS >= last_row:
            if not WHOLE:
                return
            depth = 0
    if CUT == 2:
        last_column = rank_of(RANKS, layer, m)
        if tl.program_id(1) * COLUMNS >= last_column:
            if not WHOLE:
                return
            depth = 0
    if CUT == 3:
        depth = rank_of(RANKS, layer, k)
    y = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    y = accumulated(
        y, X + layer * x_layer, W + layer * w_layer, rows, tl.where(rows < last_row, depth, 0),
        columns, columns < last_column, depth, depth, x_row, x_col, w_row, w_col, DEPTH, PRECISION,
    )  # fmt: skip
    if HAS_BIAS:
        b = tl.load(B + layer * b_layer + columns, mask=columns < last_column, other=0.0)
        y += b.to(tl.float32)[None, :]
    tl.store(
        Y + layer * y_layer + rows[:, None] * y_row + columns[None, :],
        activated(y, ACTIVATION).to(Y.dtype.element_ty),
        mask=(rows[:, None] < N) & (columns[None, :] < m),
    )


INTERPRETED = not isinstance(fused_kernel, triton.JITFunction)


def fused(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    inner: Tensor | None = None,
    ranks: Tensor | None = None,
    activation: str | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return the product in one launch. Every tile of outputs computes its h anew.

    Args:
        x: `[L, N, n]` of any strides.
        down: `[L, R, n]`.
        up: `[L, m, R]`.
        bias: `[L, m]` or None, rows contiguous.
        inner: `[L, R]` or None, likewise.
        ranks: `[L]` on the device; None is R.
        activation: its name, or None.
        tiles: how it is cut; None is the default.
    """
    (L, N, n), (m, R) = x.shape, up.shape[1:]
    y = x.new_empty(L, N, m)
    if y.numel() == 0:
        return y

    def launch(t: Tiles) -> None:
        fused_kernel[(triton.cdiv(N, t.rows), triton.cdiv(m, t.columns), L)](
            x, down, up, y if bias is None else bias, y if inner is None else inner, y,
            y if ranks is None else ranks,
            N, n, m, R,
            *x.stride(), *down.stride(), *up.stride(),
            0 if bias is None else bias.stride(0), 0 if inner is None else inner.stride(0),
            *y.stride()[:2],
            HAS_BIAS=bias is not None, HAS_INNER=inner is not None, ON_DEVICE=ranks is not None,
            ACTIVATION=EPILOGUES[activation], PRECISION="ieee",
            ROWS=t.rows, COLUMNS=t.columns, DEPTH=t.depth, RANK=FUSED_BLOCK_RANK, **t.options(),
        )  # fmt: skip

    launch(tiles or choose(FUSED, x, "fused", (L, N, n, m, R), launch))
    return y


def product(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    ranks: Tensor | None = None,
    axis: str | None = None,
    *,
    whole: bool = True,
    activation: str | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return `x wᵀ + bias` in one launch, `[L, N, m]`.

    Args:
        x: `[L, N, k]` of any strides.
        w: `[L, m, k]`, likewise.
        bias: `[L, m]` or None, rows contiguous.
        ranks: `[L]` on the device, where an axis is cut.
        axis: `"rows"` (N), `"columns"` (m) or `"depth"` (k) is cut at the rank.
        whole: store zeros beyond the cut; False leaves there what was in memory.
        activation: its name, or None.
        tiles: how it is cut into programs; None is the default.
    """
    (L, N, k), m = x.shape, w.shape[1]
    y = x.new_empty(L, N, m)
    if y.numel() == 0:
        return y

    def launch(t: Tiles) -> None:
        product_kernel[(triton.cdiv(N, t.rows), triton.cdiv(m, t.columns), L)](
            x, w, y if bias is None else bias, y, y if ranks is None else ranks,
            N, k, m,
            *x.stride(), *w.stride(), 0 if bias is None else bias.stride(0), *y.stride()[:2],
            HAS_BIAS=bias is not None, CUT=AXES[axis], WHOLE=whole,
            ACTIVATION=EPILOGUES[activation], PRECISION="ieee",
            ROWS=t.rows, COLUMNS=t.columns, DEPTH=t.depth, **t.options(),
        )  # fmt: skip

    launch(tiles or choose(PRODUCT, x, "product", (L, N, k, m), launch))
    return y
