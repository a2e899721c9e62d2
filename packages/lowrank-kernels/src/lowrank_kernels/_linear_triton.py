"""The low-rank linear product in Triton: one launch for few rows, two for many.

The rank is a run-time value of both kernels, never specialised on, so that each is compiled once
for all ranks. Loads are masked on every axis and addresses are 64-bit.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lowrank_kernels._autocast import autocast_dtype, cast

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Tiles(NamedTuple):
    """The tile of one program, `[rows, columns]`, over steps of `depth`; and its pipeline."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# few rows: the weights are read once per tile of outputs, so that many small tiles run at once
FUSED_ROWS = 16
FUSED_RANK = 64
FUSED = {4: Tiles(16, 32, 32, 4, 2), 2: Tiles(16, 64, 64, 4, 3)}  # by bytes of an element
FUSED_BLOCK_RANK = 32
PRODUCT = {4: Tiles(32, 64, 32, 4, 2), 2: Tiles(64, 64, 32, 4, 3)}


@triton.jit(do_not_specialize=["rank"])
def fused_kernel(  # type: ignore[no-untyped-def]
    X, D, U, B, Y,
    N, n, m, rank,
    x_row, x_col, d_row, d_col, u_row, u_col, y_row,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """Store `X Dᵀ Uᵀ + B` for one tile of rows and outputs, h kept in registers."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    outs = tl.program_id(1).to(tl.int64) * OUTS + tl.arange(0, OUTS)
    y = tl.zeros((ROWS, OUTS), dtype=tl.float32)
    for r0 in range(0, rank, RANKS):
        ranks = r0 + tl.arange(0, RANKS).to(tl.int64)
        h = tl.zeros((ROWS, RANKS), dtype=tl.float32)
        for k0 in range(0, n, DEPTH):
            ks = k0 + tl.arange(0, DEPTH).to(tl.int64)
            x = tl.load(
                X + rows[:, None] * x_row + ks[None, :] * x_col,
                mask=(rows[:, None] < N) & (ks[None, :] < n),
                other=0.0,
            )
            d = tl.load(
                D + ranks[None, :] * d_row + ks[:, None] * d_col,
                mask=(ranks[None, :] < rank) & (ks[:, None] < n),
                other=0.0,
            )
            h = tl.dot(x, d, h, input_precision=PRECISION)
        u = tl.load(
            U + outs[None, :] * u_row + ranks[:, None] * u_col,
            mask=(outs[None, :] < m) & (ranks[:, None] < rank),
            other=0.0,
        )
        y = tl.dot(h.to(u.dtype), u, y, input_precision=PRECISION)
    if HAS_BIAS:
        y += tl.load(B + outs, mask=outs < m, other=0.0).to(tl.float32)[None, :]
    tl.store(
        Y + rows[:, None] * y_row + outs[None, :],
        y.to(Y.dtype.element_ty),
        mask=(rows[:, None] < N) & (outs[None, :] < m),
    )


@triton.jit(do_not_specialize=["k", "m"])
def product_kernel(  # type: ignore[no-untyped-def]
    X, W, B, Y,
    N, k, m,
    x_row, x_col, w_row, w_col, y_row,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, OUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Store `X Wᵀ + B` for one tile, `X [N, k]`, `W [m, k]`; k or m is the rank."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    outs = tl.program_id(1).to(tl.int64) * OUTS + tl.arange(0, OUTS)
    y = tl.zeros((ROWS, OUTS), dtype=tl.float32)
    for k0 in range(0, k, DEPTH):
        ks = k0 + tl.arange(0, DEPTH).to(tl.int64)
        x = tl.load(
            X + rows[:, None] * x_row + ks[None, :] * x_col,
            mask=(rows[:, None] < N) & (ks[None, :] < k),
            other=0.0,
        )
        w = tl.load(
            W + outs[None, :] * w_row + ks[:, None] * w_col,
            mask=(outs[None, :] < m) & (ks[:, None] < k),
            other=0.0,
        )
        y = tl.dot(x, w, y, input_precision=PRECISION)
    if HAS_BIAS:
        y += tl.load(B + outs, mask=outs < m, other=0.0).to(tl.float32)[None, :]
    tl.store(
        Y + rows[:, None] * y_row + outs[None, :],
        y.to(Y.dtype.element_ty),
        mask=(rows[:, None] < N) & (outs[None, :] < m),
    )


INTERPRETED = not isinstance(fused_kernel, triton.JITFunction)


def options(tiles: Tiles) -> dict[str, int | bool]:
    """Return how a kernel is compiled, whatever the defaults of the installed triton."""
    return {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}


def linear(x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, r: int) -> Tensor:
    """Return `x @ down[:r].T @ up[:, :r].T + bias`, `[..., m]`, by Triton."""
    dtype = autocast_dtype(x)
    _check(x, down, up, bias, dtype)
    x, down, up = cast(x, dtype), cast(down, dtype), cast(up, dtype)
    bias = None if bias is None else cast(bias, dtype).contiguous()
    rows = x.reshape(-1, x.shape[-1])  # [N, n]
    if rows.shape[0] <= FUSED_ROWS and r <= FUSED_RANK:
        y = fused(rows, down, up, bias, r)
    else:
        h = product(rows, down[:r], None)  # [N, r]
        y = product(h, up[:, :r], bias)
    return y.reshape(*x.shape[:-1], up.shape[0])


def fused(x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, r: int) -> Tensor:
    """Return the product in one launch; `x [N, n]`. Every tile of outputs computes its h anew."""
    (N, n), m = x.shape, up.shape[0]
    y = x.new_empty(N, m)
    if y.numel() == 0:
        return y
    t = FUSED[x.element_size()]
    grid = (triton.cdiv(N, t.rows), triton.cdiv(m, t.columns))
    fused_kernel[grid](
        x, down, up, y if bias is None else bias, y,
        N, n, m, r,
        *x.stride(), *down.stride(), *up.stride(), y.stride(0),
        HAS_BIAS=bias is not None, PRECISION="ieee",
        ROWS=t.rows, OUTS=t.columns, DEPTH=t.depth, RANKS=FUSED_BLOCK_RANK,
        **options(t),
    )  # fmt: skip
    return y


def product(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ w.T + bias` in one launch; `x [N, k]`, `w [m, k]` of any strides."""
    (N, k), m = x.shape, w.shape[0]
    y = x.new_empty(N, m)
    if y.numel() == 0:
        return y
    t = PRODUCT[x.element_size()]
    grid = (triton.cdiv(N, t.rows), triton.cdiv(m, t.columns))
    product_kernel[grid](
        x, w, y if bias is None else bias, y,
        N, k, m,
        *x.stride(), *w.stride(), y.stride(0),
        HAS_BIAS=bias is not None, PRECISION="ieee",
        ROWS=t.rows, OUTS=t.columns, DEPTH=t.depth,
        **options(t),
    )  # fmt: skip
    return y


def _check(x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
    if torch.compiler.is_compiling():
        raise ValueError("implementation must not be 'triton' inside torch.compile")
    if not (x.is_cuda or INTERPRETED):
        raise ValueError(f"implementation 'triton' needs tensors on a CUDA device, got {x.device}")
    if dtype not in _DTYPES or (INTERPRETED and dtype == torch.bfloat16):
        # the interpreter gives wrong numbers in bfloat16, silently
        raise TypeError(f"implementation 'triton' has no kernel for {dtype} here")
    factors = (x, down, up) if bias is None else (x, down, up, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in factors):
        raise ValueError("implementation 'triton' has no gradient: call it under torch.no_grad()")
