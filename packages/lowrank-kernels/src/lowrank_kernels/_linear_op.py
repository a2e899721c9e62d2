"""The low-rank linear product as operators that read their rank when they run.

A compiled graph that calls them holds the rank in a 0-dim tensor and so never depends on it. With
P the projector on the first r of R coordinates, three operators are closed under differentiation:

    shrink(x, w) = x wᵀ P      expand(h, w) = h P w      outer(h, x) = P hᵀ x

each one's derivatives are the two others, so that gradients of any order cost the active rank
alone and are exact zeros outside of it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels import _flops
from lowrank_kernels._autocast import autocast_dtype, cast
from lowrank_kernels._checks import check_rank_tensor, rank_value
from lowrank_kernels._library import no_vmap, register
from lowrank_kernels._transforms import leading, transformed

_ops = torch.ops.lowrank_kernels


def linear_at(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    rank: Tensor,
    inner: Tensor | None = None,
) -> Tensor:
    """Return the product at the rank that the tensor holds when the graph runs."""
    check_rank_tensor(rank)
    if transformed():
        D, U, b = leading(down, up, inner, rank)
        return F.linear(F.linear(x, D, b), U, bias)
    dtype = autocast_dtype(x)
    b = None if bias is None else cast(bias, dtype)
    if inner is not None:  # what the second factor makes of it: one row beside those of x
        shift = _ops.expand(cast(inner, dtype)[None], cast(up, dtype).t(), rank)[0]
        b = shift if b is None else b + shift
    return _ops.linear(cast(x, dtype), cast(down, dtype), cast(up, dtype), b, rank)


def _linear(x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, rank: Tensor) -> Tensor:
    r = rank_value(rank, down.shape[0])
    return F.linear(F.linear(x, down[:r]), up[:, :r], bias)


def _shrink(x: Tensor, w: Tensor, rank: Tensor) -> Tensor:
    r = rank_value(rank, w.shape[0])
    h = x.new_zeros(x.shape[0], w.shape[0])
    torch.mm(x, w[:r].t(), out=h[:, :r])
    return h


def _expand(h: Tensor, w: Tensor, rank: Tensor) -> Tensor:
    r = rank_value(rank, w.shape[0])
    return torch.mm(h[:, :r], w[:r])


def _outer(h: Tensor, x: Tensor, rank: Tensor) -> Tensor:
    r = rank_value(rank, h.shape[1])
    g = x.new_zeros(h.shape[1], x.shape[1])
    torch.mm(h[:, :r].t(), x, out=g[:r])
    return g


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, down, up, bias, rank = inputs
    ctx.save_for_backward(x, down, up, rank)
    ctx.has_bias = bias is not None


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, down, up, rank = ctx.saved_tensors
    to_x, to_down, to_up, to_bias, _ = ctx.needs_input_grad
    g, rows = grad.reshape(-1, up.shape[0]), x.reshape(-1, down.shape[1])
    k = _ops.shrink(g, up.t(), rank) if to_x or to_down else None  # [N, R]
    # h is computed again rather than kept: it is narrow in FLOPs and wide in memory
    h = _ops.shrink(rows, down, rank) if to_up else None  # [N, R]
    return (
        _ops.expand(k, down, rank).reshape(x.shape) if to_x else None,
        _ops.outer(k, rows, rank) if to_down else None,
        None if h is None else _to_up(h, g, up, rank),
        g.sum(0) if to_bias and ctx.has_bias else None,
        None,
    )


def _to_up(h: Tensor, g: Tensor, up: Tensor, rank: Tensor) -> Tensor:
    """Return `gᵀ h P` in the layout of `up`, as accumulating gradients would make it."""
    if up.stride(0) < up.stride(1):
        return _ops.outer(h, g, rank).t()
    return _ops.shrink(g.t(), h.t(), rank)


def _save_pair(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _shrink_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w, rank = ctx.saved_tensors
    to_x, to_w, _ = ctx.needs_input_grad
    return (
        _ops.expand(grad, w, rank) if to_x else None,
        _ops.outer(grad, x, rank) if to_w else None,
        None,
    )


def _expand_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, w, rank = ctx.saved_tensors
    to_h, to_w, _ = ctx.needs_input_grad
    return (
        _ops.shrink(grad, w, rank) if to_h else None,
        _ops.outer(h, grad, rank) if to_w else None,
        None,
    )


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, x, rank = ctx.saved_tensors
    to_h, to_x, _ = ctx.needs_input_grad
    return (
        _ops.shrink(x, grad, rank) if to_h else None,
        _ops.expand(h, grad, rank) if to_x else None,
        None,
    )


def _linear_vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if in_dims[0] is None or any(dim is not None for dim in in_dims[1:]):
        no_vmap("linear")(info, in_dims, *args)
    x, *rest = args
    return _ops.linear(x.movedim(in_dims[0], 0), *rest), 0


register(
    "linear(Tensor x, Tensor down, Tensor up, Tensor? bias, Tensor rank) -> Tensor",
    _linear,
    fake=lambda x, down, up, bias, rank: x.new_empty(*x.shape[:-1], up.shape[0]),
    save=_save_linear,
    backward=_linear_backward,
    vmap=_linear_vmap,
    flops=_flops.linear,
)
register(
    "shrink(Tensor x, Tensor w, Tensor rank) -> Tensor",
    _shrink,
    fake=lambda x, w, rank: x.new_empty(x.shape[0], w.shape[0]),
    save=_save_pair,
    backward=_shrink_backward,
    vmap=no_vmap("shrink"),
    flops=_flops.shrink,
)
register(
    "expand(Tensor h, Tensor w, Tensor rank) -> Tensor",
    _expand,
    fake=lambda h, w, rank: h.new_empty(h.shape[0], w.shape[1]),
    save=_save_pair,
    backward=_expand_backward,
    vmap=no_vmap("expand"),
    flops=_flops.expand,
)
register(
    "outer(Tensor h, Tensor x, Tensor rank) -> Tensor",
    _outer,
    fake=lambda h, x, rank: x.new_empty(h.shape[1], x.shape[1]),
    save=_save_pair,
    backward=_outer_backward,
    vmap=no_vmap("outer"),
    flops=_flops.outer,
)
