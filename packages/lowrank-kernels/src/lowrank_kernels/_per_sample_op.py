"""The product with a rank for each row as operators that read the ranks when they run.

`shrink`, `expand` and `outer` of `_staircase` have each other as derivatives, so that gradients
of any order cost the active ranks alone and are exact zeros outside of them.
"""

from typing import Any

import torch
from torch import Tensor

from lowrank_kernels import _flops, _staircase
from lowrank_kernels._library import no_vmap, register

_ops = torch.ops.lowrank_kernels
_ADVICE = "map x and ranks alone, with the factors in common"


def staircase(
    x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, inner: Tensor | None, ranks: Tensor
) -> Tensor:
    """Return the product of rows `x [N, n]`, computed outside of autograd."""
    stairs = _staircase.sort(ranks, down.shape[0], sum(down.shape[1:] + up.shape[:1]), x.device)
    return _staircase.exact(lambda s: _staircase.linear(x, down, up, bias, inner, s), stairs)


def _shrink(x: Tensor, w: Tensor, inner: Tensor | None, ranks: Tensor) -> Tensor:
    stairs = _staircase.sort(ranks, w.shape[0], w.shape[1], x.device)
    return _staircase.exact(lambda s: _staircase.shrink(x, w, inner, s), stairs)


def _expand(h: Tensor, w: Tensor, ranks: Tensor) -> Tensor:
    stairs = _staircase.sort(ranks, w.shape[0], w.shape[1], h.device)
    return _staircase.exact(lambda s: _staircase.expand(h, w, s), stairs)


def _outer(h: Tensor, x: Tensor, ranks: Tensor, columns: bool) -> Tensor:
    stairs = _staircase.sort(ranks, h.shape[1], x.shape[1], h.device)
    return _staircase.exact(lambda s: _staircase.outer(h, x, s, columns), stairs)


def _outer_fake(h: Tensor, x: Tensor, ranks: Tensor, columns: bool) -> Tensor:
    R, n = h.shape[1], x.shape[1]
    return x.new_empty(n, R).t() if columns else x.new_empty(R, n)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, down, up, bias, inner, ranks = inputs
    ctx.save_for_backward(x, down, up, inner, ranks)
    ctx.has_bias = bias is not None


def _linear_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, down, up, inner, ranks = ctx.saved_tensors
    to_x, to_down, to_up, to_bias, to_inner, _ = ctx.needs_input_grad
    to_inner = to_inner and inner is not None
    k = _ops.shrink_per_sample(g, up.t(), None, ranks) if to_x or to_down or to_inner else None
    to_rows = up.stride(0) >= up.stride(1)  # the layout of up, as accumulating gradients make it
    # h is computed again rather than kept: it is narrow in FLOPs and wide in memory
    h = _ops.shrink_per_sample(x, down, inner, ranks) if to_up else None
    return (
        _ops.expand_per_sample(k, down, ranks) if to_x else None,
        _ops.outer_per_sample(k, x, ranks, False) if to_down else None,
        _ops.outer_per_sample(h, g, ranks, to_rows).t() if to_up else None,
        g.sum(0) if to_bias and ctx.has_bias else None,
        None if k is None or not to_inner else k.sum(0),
        None,
    )


def _save_shrink(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], inputs[3])
    ctx.has_inner = inputs[2] is not None


def _shrink_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w, ranks = ctx.saved_tensors
    to_x, to_w, to_inner, _ = ctx.needs_input_grad
    return (
        _ops.expand_per_sample(grad, w, ranks) if to_x else None,
        _ops.outer_per_sample(grad, x, ranks, False) if to_w else None,
        _projected(grad, ranks).sum(0) if to_inner and ctx.has_inner else None,
        None,
    )


def _projected(h: Tensor, ranks: Tensor) -> Tensor:
    columns = torch.arange(h.shape[1], device=h.device)
    return h.masked_fill(ranks.to(h.device)[:, None] <= columns, 0.0)


def _save_pair(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _expand_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, w, ranks = ctx.saved_tensors
    to_h, to_w, _ = ctx.needs_input_grad
    return (
        _ops.shrink_per_sample(grad, w, None, ranks) if to_h else None,
        _ops.outer_per_sample(h, grad, ranks, False) if to_w else None,
        None,
    )


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, x, ranks = ctx.saved_tensors
    to_h, to_x, *_ = ctx.needs_input_grad
    return (
        _ops.shrink_per_sample(x, grad, None, ranks) if to_h else None,
        _ops.expand_per_sample(h, grad, ranks) if to_x else None,
        None,
        None,
    )


def _linear_vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if any(dim is not None for dim in in_dims[1:5]):
        no_vmap("linear_per_sample", _ADVICE)(info, in_dims, *args)
    (x, *factors, ranks), B = args, info.batch_size
    x = x.expand(B, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
    ranks = ranks.expand(B, *ranks.shape) if in_dims[5] is None else ranks.movedim(in_dims[5], 0)
    y = _ops.linear_per_sample(x.flatten(0, 1), *factors, ranks.flatten())
    return y.reshape(B, -1, y.shape[1]), 0


register(
    "linear_per_sample(Tensor x, Tensor down, Tensor up, Tensor? bias, Tensor? inner,"
    " Tensor ranks) -> Tensor",
    staircase,
    fake=lambda x, down, up, bias, inner, ranks: x.new_empty(x.shape[0], up.shape[0]),
    save=_save_linear,
    backward=_linear_backward,
    vmap=_linear_vmap,
    flops=_flops.linear_per_sample,
)
register(
    "shrink_per_sample(Tensor x, Tensor w, Tensor? inner, Tensor ranks) -> Tensor",
    _shrink,
    fake=lambda x, w, inner, ranks: x.new_empty(x.shape[0], w.shape[0]),
    save=_save_shrink,
    backward=_shrink_backward,
    vmap=no_vmap("shrink_per_sample", _ADVICE),
    flops=_flops.shrink_per_sample,
)
register(
    "expand_per_sample(Tensor h, Tensor w, Tensor ranks) -> Tensor",
    _expand,
    fake=lambda h, w, ranks: h.new_empty(h.shape[0], w.shape[1]),
    save=_save_pair,
    backward=_expand_backward,
    vmap=no_vmap("expand_per_sample", _ADVICE),
    flops=_flops.expand_per_sample,
)
register(
    "outer_per_sample(Tensor h, Tensor x, Tensor ranks, bool columns) -> Tensor",
    _outer,
    fake=_outer_fake,
    save=_save_pair,
    backward=_outer_backward,
    vmap=no_vmap("outer_per_sample", _ADVICE),
    flops=_flops.outer_per_sample,
)
