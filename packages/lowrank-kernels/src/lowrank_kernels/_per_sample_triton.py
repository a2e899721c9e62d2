"""The product with a rank for each row by Triton, and its first derivatives."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lowrank_kernels._linear_triton import check
from lowrank_kernels._staircase_kernels_triton import climb, descend, weigh


class PerSample(Function):
    """The product of rows whose order and sorted ranks are known; see `descend`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        bias: Tensor | None,
        inner: Tensor | None,
        order: Tensor,
        ranks: Tensor,
    ) -> Tensor:
        """Return the product."""
        ctx.save_for_backward(x, down, up, inner, order, ranks)
        return climb(descend(x, down, inner, order, ranks), up, bias, order, ranks)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, down, up, bias and inner."""
        (g,), (x, down, up, inner, *sorted_ranks) = grads, ctx.saved_tensors
        to_x, to_down, to_up, to_bias, to_inner, *_ = ctx.needs_input_grad
        to_h = to_x or to_down or to_inner
        k = descend(g, up.t(), None, *sorted_ranks) if to_h else None
        h = descend(x, down, inner, *sorted_ranks) if to_up else None
        to_rows = None if k is None or not to_x else climb(k, down.t(), None, *sorted_ranks)
        return (
            to_rows,
            None if k is None or not to_down else weigh(k, x, _like(down), *sorted_ranks),
            None if h is None else weigh(h, g, _like(up).t(), *sorted_ranks).t(),
            g.sum(0) if to_bias else None,
            None if k is None or not to_inner else _columns(k, *sorted_ranks),
            None,
            None,
        )


def _like(w: Tensor) -> Tensor:
    """Return memory for the gradient of a factor, in its layout."""
    return w.new_empty(*w.shape) if w.stride(0) >= w.stride(1) else w.new_empty(*w.t().shape).t()


def _columns(k: Tensor, order: Tensor, ranks: Tensor) -> Tensor:
    """Return the sum over the rows that get to each direction."""
    del order
    beyond = ranks[:, None] <= torch.arange(k.shape[1], device=k.device)
    return k.masked_fill(beyond, 0.0).sum(0)


def linear_per_sample(
    x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, inner: Tensor | None, ranks: Tensor
) -> Tensor:
    """Return the product of rows `x [N, n]`, `[N, m]`; arguments have the dtype of x."""
    check(x, x.dtype)
    within = ranks.to(x.device, torch.int32).clamp(0, down.shape[0])
    falling, order = within.sort(descending=True, stable=True)
    bias = None if bias is None else bias.contiguous()
    inner = None if inner is None else inner.contiguous()
    y: Tensor = PerSample.apply(x, down, up, bias, inner, order, falling)  # type: ignore[no-untyped-call,unused-ignore]
    return y
