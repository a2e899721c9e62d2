"""The low-rank convolution as operators that read their rank when they run.

The same three maps as for the linear product, with convolutions for the products: `conv_shrink`
convolves into the first r of R channels, `conv_expand` is its adjoint in the image, `conv_outer`
its adjoint in the kernel. Each one's derivatives are the two others. Factors always have their
axis of groups here: `down [g, R, c, kh, kw]`, `up [g, o, R]`, hidden images `[N, g, R, H', W']`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from lowrank_kernels import _flops
from lowrank_kernels._autocast import autocast_dtype, cast
from lowrank_kernels._checks import check_rank_tensor, rank_value
from lowrank_kernels._geometry import Geometry
from lowrank_kernels._library import no_vmap, register
from lowrank_kernels._transforms import leading, transformed

_ops = torch.ops.lowrank_kernels
_ONE_BY_ONE = ([1, 1], [0, 0], [1, 1])  # stride, padding, dilation

Ints = Sequence[int]


def conv2d_at(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    rank: Tensor,
    geometry: Geometry,
    inner: Tensor | None = None,
) -> Tensor:
    """Return the convolution at the rank that the tensor holds when the graph runs."""
    check_rank_tensor(rank)
    if geometry.groups == 1:
        down, up, inner = down[None], up[None], None if inner is None else inner[None]
    images = geometry.pad(x if x.dim() == 4 else x[None])
    s, p, d = geometry.stride, geometry.before, geometry.dilation
    if transformed():
        y = _masked(images, *leading(down, up, inner, rank, trailing=3), bias, geometry)
        return y if x.dim() == 4 else y[0]
    dtype = autocast_dtype(x)
    images, b = cast(images, dtype), None if bias is None else cast(bias, dtype)
    if inner is not None:
        shift = _outer_shift(cast(inner, dtype), cast(up, dtype), rank)
        b = shift if b is None else b + shift
    y = _ops.conv2d(images, cast(down, dtype), cast(up, dtype), b, rank, s, p, d)
    return y if x.dim() == 4 else y[0]


def _masked(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    inner: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Return the convolution with all channels of factors that are zero beyond the rank."""
    s, p, d = geometry.stride, geometry.before, geometry.dilation
    b = None if inner is None else inner.flatten()
    h = F.conv2d(x, down.flatten(0, 1), b, s, p, d, geometry.groups)
    return F.conv2d(h, up.flatten(0, 1)[..., None, None], bias, groups=geometry.groups)


def _outer_shift(inner: Tensor, up: Tensor, rank: Tensor) -> Tensor:
    """Return what the second factor makes of the inner bias `[g, R]`: `[m]`, as one more pixel."""
    active = torch.arange(inner.shape[1], device=inner.device) < rank.to(inner.device)
    return torch.einsum("gr,gor->go", inner * active, up).flatten()


def _conv2d(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    rank: Tensor,
    s: Ints,
    p: Ints,
    d: Ints,
) -> Tensor:
    r, groups = rank_value(rank, down.shape[1]), down.shape[0]
    if r == 0:
        y = _conv2d_fake(x, down, up, bias, rank, s, p, d).zero_()
        return y if bias is None else y.add_(bias[:, None, None])
    h = F.conv2d(x, down[:, :r].flatten(0, 1), None, s, p, d, groups)
    U = up[:, :, :r].flatten(0, 1)[..., None, None]
    return F.conv2d(h, U, bias, groups=groups).contiguous()


def _shrink(x: Tensor, w: Tensor, rank: Tensor, s: Ints, p: Ints, d: Ints) -> Tensor:
    r, groups = rank_value(rank, w.shape[1]), w.shape[0]
    h = _shrink_fake(x, w, rank, s, p, d).zero_()
    if r:
        y = F.conv2d(x, w[:, :r].flatten(0, 1), None, s, p, d, groups)
        h[:, :, :r] = y.reshape(x.shape[0], groups, r, *y.shape[-2:])
    return h


def _expand(h: Tensor, w: Tensor, rank: Tensor, size: Ints, s: Ints, p: Ints, d: Ints) -> Tensor:
    r, groups = rank_value(rank, w.shape[1]), w.shape[0]
    x = _expand_fake(h, w, rank, size, s, p, d)
    if not r:
        return x.zero_()
    g, k = h[:, :, :r].flatten(1, 2), w[:, :r].flatten(0, 1)
    image = conv2d_input(x.shape, k, g, s, p, d, groups)  # type: ignore[no-untyped-call,unused-ignore]
    return image.contiguous()


def _outer(h: Tensor, x: Tensor, rank: Tensor, kernel: Ints, s: Ints, p: Ints, d: Ints) -> Tensor:
    r, groups = rank_value(rank, h.shape[2]), h.shape[1]
    w = _outer_fake(h, x, rank, kernel, s, p, d).zero_()
    if r:
        shape = (groups * r, *w.shape[2:])
        g = h[:, :, :r].flatten(1, 2)
        part = conv2d_weight(x, shape, g, s, p, d, groups)  # type: ignore[no-untyped-call,unused-ignore]
        w[:, :r] = part.reshape(groups, r, *w.shape[2:])
    return w


def _image(x: Tensor, kernel: Ints, s: Ints, p: Ints, d: Ints) -> tuple[int, ...]:
    return Geometry.of(tuple(s), tuple(p), tuple(d), 1, kernel).output(x.shape[-2:])


def _conv2d_fake(
    x: Tensor, down: Tensor, up: Tensor, bias: object, rank: object, s: Ints, p: Ints, d: Ints
) -> Tensor:
    size = _image(x, down.shape[-2:], s, p, d)
    return x.new_empty(x.shape[0], up.shape[0] * up.shape[1], *size)


def _shrink_fake(x: Tensor, w: Tensor, rank: object, s: Ints, p: Ints, d: Ints) -> Tensor:
    return x.new_empty(x.shape[0], *w.shape[:2], *_image(x, w.shape[-2:], s, p, d))


def _expand_fake(
    h: Tensor, w: Tensor, rank: object, size: Ints, s: Ints, p: Ints, d: Ints
) -> Tensor:
    return h.new_empty(h.shape[0], w.shape[0] * w.shape[2], *size)


def _outer_fake(
    h: Tensor, x: Tensor, rank: object, kernel: Ints, s: Ints, p: Ints, d: Ints
) -> Tensor:
    groups, R = h.shape[1:3]
    return x.new_empty(groups, R, x.shape[1] // groups, *kernel)


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, down, up, bias, rank, *ctx.geometry = inputs
    ctx.save_for_backward(x, down, up, rank)
    ctx.has_bias = bias is not None


def _conv2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, down, up, rank = ctx.saved_tensors
    to_x, to_down, to_up, to_bias = ctx.needs_input_grad[:4]
    U = up.transpose(1, 2)[..., None, None]  # [g, R, o, 1, 1]
    k = _ops.conv_shrink(grad, U, rank, *_ONE_BY_ONE) if to_x or to_down else None
    h = _ops.conv_shrink(x, down, rank, *ctx.geometry) if to_up else None
    size, kernel = list(x.shape[-2:]), list(down.shape[-2:])
    to_U = _ops.conv_outer(h, grad, rank, [1, 1], *_ONE_BY_ONE) if to_up else None
    return (
        _ops.conv_expand(k, down, rank, size, *ctx.geometry) if to_x else None,
        _ops.conv_outer(k, x, rank, kernel, *ctx.geometry) if to_down else None,
        None if to_U is None else to_U[..., 0, 0].transpose(1, 2),
        grad.sum((0, 2, 3)) if to_bias and ctx.has_bias else None,
        *(None,) * 4,
    )


def _save_shrink(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, rank, *ctx.geometry = inputs
    ctx.save_for_backward(x, w, rank)


def _save_adjoint(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, rank, _, *ctx.geometry = inputs
    ctx.save_for_backward(first, second, rank)


def _shrink_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w, rank = ctx.saved_tensors
    to_x, to_w = ctx.needs_input_grad[:2]
    size, kernel = list(x.shape[-2:]), list(w.shape[-2:])
    return (
        _ops.conv_expand(grad, w, rank, size, *ctx.geometry) if to_x else None,
        _ops.conv_outer(grad, x, rank, kernel, *ctx.geometry) if to_w else None,
        *(None,) * 4,
    )


def _expand_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, w, rank = ctx.saved_tensors
    to_h, to_w = ctx.needs_input_grad[:2]
    kernel = list(w.shape[-2:])
    return (
        _ops.conv_shrink(grad, w, rank, *ctx.geometry) if to_h else None,
        _ops.conv_outer(h, grad, rank, kernel, *ctx.geometry) if to_w else None,
        *(None,) * 5,
    )


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, x, rank = ctx.saved_tensors
    to_h, to_x = ctx.needs_input_grad[:2]
    size = list(x.shape[-2:])
    return (
        _ops.conv_shrink(x, grad, rank, *ctx.geometry) if to_h else None,
        _ops.conv_expand(h, grad, rank, size, *ctx.geometry) if to_x else None,
        *(None,) * 5,
    )


_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation"

register(
    f"conv2d(Tensor x, Tensor down, Tensor up, Tensor? bias, Tensor rank, {_GEOMETRY}) -> Tensor",
    _conv2d,
    fake=_conv2d_fake,
    save=_save_conv2d,
    backward=_conv2d_backward,
    vmap=no_vmap("conv2d"),
    flops=_flops.conv2d,
)
register(
    f"conv_shrink(Tensor x, Tensor w, Tensor rank, {_GEOMETRY}) -> Tensor",
    _shrink,
    fake=_shrink_fake,
    save=_save_shrink,
    backward=_shrink_backward,
    vmap=no_vmap("conv_shrink"),
    flops=_flops.conv_shrink,
)
register(
    f"conv_expand(Tensor h, Tensor w, Tensor rank, SymInt[] size, {_GEOMETRY}) -> Tensor",
    _expand,
    fake=_expand_fake,
    save=_save_adjoint,
    backward=_expand_backward,
    vmap=no_vmap("conv_expand"),
    flops=_flops.conv_expand,
)
register(
    f"conv_outer(Tensor h, Tensor x, Tensor rank, SymInt[] kernel, {_GEOMETRY}) -> Tensor",
    _outer,
    fake=_outer_fake,
    save=_save_adjoint,
    backward=_outer_backward,
    vmap=no_vmap("conv_outer"),
    flops=_flops.conv_outer,
)
