"""Say what is wrong with the arguments of a product with an identity block."""

import torch
from torch import Tensor

from lowrank_kernels import _checks
from lowrank_kernels._geometry import Geometry


def sizes_agree(
    x: Tensor,
    head: Tensor,
    tail: Tensor,
    order: Tensor | None,
    head_bias: Tensor | None,
    tail_bias: Tensor | None,
) -> bool:
    """Test the rules that torch would not notice being broken."""
    rest, r = tail.shape
    return (
        r == head.shape[0]
        and (order is None or (order.shape == (r + rest,) and order.is_meta is x.is_meta))
        and (head_bias is None or head_bias.shape == (r,))
        and (tail_bias is None or tail_bias.shape == (rest,))
        and x.is_floating_point()
        and head.is_meta is tail.is_meta is x.is_meta
    )


def check_identity(
    x: object,
    head: object,
    tail: object,
    order: object,
    head_bias: object,
    tail_bias: object,
) -> None:
    """Raise for arguments that `lowrank_linear_identity` cannot take."""
    x, head = _common(x, head, tail, order, head_bias, tail_bias, 2, "[r, in]")
    if x.dim() < 1:
        raise ValueError("x must be [..., in], got a 0-dim tensor")
    _checks.fits("x", x, "[..., in]", -1, in_=("head", head, 1))


def check_identity_conv2d(
    x: object,
    head: object,
    tail: object,
    order: object,
    head_bias: object,
    tail_bias: object,
    stride: object,
    padding: object,
    dilation: object,
) -> None:
    """Raise for arguments that `lowrank_conv2d_identity` cannot take."""
    x, head = _common(x, head, tail, order, head_bias, tail_bias, 4, "[r, in, kh, kw]")
    if head.shape[0] == 0:
        raise ValueError("head must have a row: torch has no convolution into no channel")
    if x.dim() not in (3, 4):
        raise ValueError(f"x must be [N, in, H, W] or [in, H, W], got {list(x.shape)}")
    _checks.fits("x", x, "[N, in, H, W] or [in, H, W]", -3, in_=("head", head, 1))
    geometry = Geometry.of(stride, padding, dilation, 1, head.shape[-2:])
    geometry.check_image("x", x.shape[-2:])


def _common(
    x: object,
    head: object,
    tail: object,
    order: object,
    head_bias: object,
    tail_bias: object,
    dims: int,
    layout: str,
) -> tuple[Tensor, Tensor]:
    named = {"x": x, "head": head, "tail": tail}
    named |= {} if head_bias is None else {"head_bias": head_bias}
    named |= {} if tail_bias is None else {"tail_bias": tail_bias}
    _checks.check_tensors(named)
    assert isinstance(x, Tensor)
    assert isinstance(head, Tensor)
    assert isinstance(tail, Tensor)
    if head.dim() != dims:
        raise ValueError(f"head must be {layout}, got {list(head.shape)}")
    if tail.dim() != 2:
        raise ValueError(f"tail must be [out - r, r], got {list(tail.shape)}")
    _checks.fits("tail", tail, "[out - r, r]", 1, r=("head", head, 0))
    rest, r = tail.shape
    for name, bias, size in (("head_bias", head_bias, r), ("tail_bias", tail_bias, rest)):
        if isinstance(bias, Tensor) and bias.shape != (size,):
            raise ValueError(f"{name} must be {[size]}, got {list(bias.shape)}")
    _check_order(order, r + rest, x.device)
    return x, head


def _check_order(order: object, m: int, device: torch.device) -> None:
    if order is None:
        return
    if not isinstance(order, Tensor):
        raise TypeError(f"order must be a tensor or None, got {type(order).__name__}")
    if order.dtype != torch.int64:
        raise TypeError(f"order must be int64, got {order.dtype}")
    if tuple(order.shape) != (m,):
        raise ValueError(f"order must be {[m]}, got {list(order.shape)}")
    if order.device != device:
        raise ValueError(f"order must be on the device of x, {device}, got {order.device}")
    if torch.compiler.is_compiling() or device.type != "cpu" or not m:
        return
    low, high = (int(v) for v in order.aminmax())
    if low < 0 or high >= m:
        raise ValueError(f"order must be in 0..{m - 1}, got {low if low < 0 else high}")
