"""The low-rank linear product by Triton, and its derivatives.

A product with one axis cut at the rank has derivatives of the same kind, so that gradients of any
order are launches of one kernel: no atomics, the same bits every time, zeros beyond the rank.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lowrank_kernels._activation import activate
from lowrank_kernels._autocast import autocast_dtype, cast
from lowrank_kernels._product_triton import INTERPRETED, fused, product
from lowrank_kernels._tiles import FUSED_RANK, FUSED_ROWS

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# the axis that is cut -> those of the derivatives in x and in w
_CUTS = {
    None: (None, None),
    "rows": ("rows", "depth"),
    "columns": ("depth", "rows"),
    "depth": ("columns", "columns"),
}


class Product(Function):
    """`x wᵀ + bias` with one axis cut at the rank; see `product`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, ranks: Tensor | None, axis: str | None
    ) -> Tensor:
        """Return the product."""
        ctx.save_for_backward(x, w, ranks)
        ctx.axis, ctx.has_bias = axis, bias is not None
        return product(x, w, bias, ranks, axis)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, w and bias."""
        (g,), (x, w, ranks) = grads, ctx.saved_tensors
        to_x, to_w, to_bias, *_ = ctx.needs_input_grad
        cut_x, cut_w = _CUTS[ctx.axis]
        return (
            cut_product(g, w.mT, None, ranks, cut_x) if to_x else None,
            cut_product(g.mT, x.mT, None, ranks, cut_w) if to_w else None,
            _summed(g, ranks, ctx.axis) if to_bias and ctx.has_bias else None,
            None,
            None,
        )


def cut_product(
    x: Tensor, w: Tensor, bias: Tensor | None, ranks: Tensor | None, axis: str | None
) -> Tensor:
    """Return `product` with its derivatives."""
    return Product.apply(x, w, bias, ranks, axis)  # type: ignore[no-any-return,no-untyped-call,unused-ignore]


def _summed(g: Tensor, ranks: Tensor | None, axis: str | None) -> Tensor:
    """Return the gradient of a bias: the sum over the rows."""
    total = g.sum(1)
    if axis != "columns":
        return total
    assert ranks is not None
    columns = torch.arange(g.shape[2], device=g.device)
    return total.masked_fill(ranks[:, None] <= columns, 0.0)


class Fused(Function):
    """The low-rank product in one launch; its derivatives are made of `Product`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        bias: Tensor | None,
        inner: Tensor | None,
        ranks: Tensor | None,
    ) -> Tensor:
        """Return the product."""
        ctx.save_for_backward(x, down, up, inner, ranks)
        return fused(x, down, up, bias, inner, ranks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, down, up, bias and inner."""
        (g,), (x, down, up, inner, ranks) = grads, ctx.saved_tensors
        to_x, to_down, to_up, to_bias, to_inner, _ = ctx.needs_input_grad
        rows, columns, depth = (None if ranks is None else a for a in ("rows", "columns", "depth"))
        k = cut_product(g, up.mT, None, ranks, columns) if to_x or to_down or to_inner else None
        h = cut_product(x, down, inner, ranks, columns) if to_up else None
        return (
            None if k is None or not to_x else cut_product(k, down.mT, None, ranks, depth),
            None if k is None or not to_down else cut_product(k.mT, x.mT, None, ranks, rows),
            None if h is None else cut_product(g.mT, h.mT, None, ranks, columns),
            g.sum(1) if to_bias else None,
            k.sum(1) if k is not None and to_inner else None,
            None,
        )


def layers(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    ranks: Tensor | None,
    activation: str | None = None,
) -> Tensor:
    """Return the product of each layer, `[L, N, m]`; the shapes are those of `fused`."""
    one = x.shape[1] <= FUSED_ROWS and down.shape[1] <= FUSED_RANK
    tensors = [t for t in (x, down, up, bias, inner) if t is not None]
    columns, depth = (None, None) if ranks is None else ("columns", "depth")
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        if one:
            y: Tensor = Fused.apply(x, down, up, bias, inner, ranks)  # type: ignore[no-untyped-call,unused-ignore]
        else:
            h = cut_product(x, down, inner, ranks, columns)
            y = cut_product(h, up, bias, ranks, depth)
        return activate(y, activation)
    if one:
        return fused(x, down, up, bias, inner, ranks, activation)
    h = product(x, down, inner, ranks, columns, whole=False)
    return product(h, up, bias, ranks, depth, activation=activation)


def linear(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    rank: int | Tensor,
    inner: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Return the product at a rank that the host gives, or that the device holds, `[..., m]`."""
    dtype = autocast_dtype(x)
    check(x, dtype)
    x, down, up = cast(x, dtype), cast(down, dtype), cast(up, dtype)
    bias = None if bias is None else cast(bias, dtype).contiguous()[None]
    inner = None if inner is None else cast(inner, dtype).contiguous()[None]
    ranks = None
    if isinstance(rank, Tensor):
        ranks = rank.reshape(1)
    else:
        down, up, inner = down[:rank], up[:, :rank], None if inner is None else inner[:, :rank]
    rows = x.reshape(1, -1, x.shape[-1])
    y = layers(rows, down[None], up[None], bias, inner, ranks, activation)
    return y.reshape(*x.shape[:-1], up.shape[0])


def linear_batched(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    ranks: Tensor | None,
    inner: Tensor | None,
) -> Tensor:
    """Return the product of each layer, `[L, N, m]`; arguments have the dtype of x."""
    check(x, x.dtype)
    bias = None if bias is None else bias.contiguous()
    inner = None if inner is None else inner.contiguous()
    held = None if ranks is None else ranks.to(x.device).expand(x.shape[0]).contiguous()
    return layers(x, down, up, bias, inner, held)


def check(x: Tensor, dtype: torch.dtype) -> None:
    """Raise for what the kernels cannot take."""
    if torch.compiler.is_compiling():
        raise ValueError("implementation must not be 'triton' inside torch.compile")
    if not (x.is_cuda or INTERPRETED):
        raise ValueError(f"implementation 'triton' needs tensors on a CUDA device, got {x.device}")
    if dtype not in _DTYPES or (INTERPRETED and dtype == torch.bfloat16):
        # the interpreter gives wrong numbers in bfloat16, silently
        raise TypeError(f"implementation 'triton' has no kernel for {dtype} here")
