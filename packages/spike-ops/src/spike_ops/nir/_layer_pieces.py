"""Layers as nodes of a graph."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spike_ops import nn as spike_nn
from spike_ops.neuron import Delay, Neuron
from spike_ops.nir._errors import NirError
from spike_ops.nir._layers import DelayEach, Fire, Scale
from spike_ops.nir._library import library
from spike_ops.nir._neuron_pieces import full
from spike_ops.nir._numbers import as_array
from spike_ops.nir._writing import Piece, Shape, Writing, one
from spike_ops.nn._stepwise import Stepwise

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, spike_nn.TimeBatchNorm)


def delay(name: str, module: Delay, shape: Shape, writing: Writing) -> Piece:
    delays = as_array(module.delays)
    delays = delays.reshape(shape) if isinstance(module, DelayEach) else delays
    return one(name, library().Delay(delay=full(shape, delays) * writing.dt))


def fire(name: str, module: Fire, shape: Shape, writing: Writing) -> Piece:
    return one(name, library().Threshold(threshold=full(shape, module.threshold)))


def scale(name: str, module: Any, shape: Shape, writing: Writing) -> Piece:
    return one(name, library().Scale(scale=_values(module.weight.expand(shape))))


def _values(weight: Tensor) -> np.ndarray[Any, Any]:
    held: np.ndarray[Any, Any] = weight.detach().cpu().contiguous().numpy().copy()
    return held


def linear(name: str, module: Any, shape: Shape, writing: Writing) -> Piece:
    weight = _values(getattr(module, "connected", module.weight))
    if len(shape) != 1:
        raise NirError(name, f"a linear layer must hear one axis of features, got {shape}")
    if module.bias is None:
        return one(name, library().Linear(weight=weight))
    return one(name, library().Affine(weight=weight, bias=_values(module.bias)))


def conv(name: str, module: Any, shape: Shape, writing: Writing) -> Piece:
    if module.padding_mode != "zeros":
        raise NirError(name, f"padding_mode must be 'zeros', got {module.padding_mode!r}")
    weight = _values(module.weight)
    bias = np.zeros(len(weight), weight.dtype) if module.bias is None else _values(module.bias)
    flat = len(module.kernel_size) == 1
    own = {
        each: getattr(module, each) if isinstance(getattr(module, each), str)
        else getattr(module, each)[0] if flat else tuple(getattr(module, each))
        for each in ("stride", "padding", "dilation")
    }  # fmt: skip
    kind = library().Conv1d if flat else library().Conv2d
    size = shape[1] if flat else tuple(shape[1:])
    return one(name, kind(input_shape=size, weight=weight, bias=bias, groups=module.groups, **own))


def pool(name: str, module: nn.AvgPool2d, shape: Shape, writing: Writing) -> Piece:
    kernel, stride, padding = (
        np.array(each if isinstance(each, tuple) else (each, each))
        for each in (module.kernel_size, module.stride, module.padding)
    )
    divisor = module.divisor_override
    if module.ceil_mode or (padding.any() and not module.count_include_pad):
        raise NirError(name, "pools must round down and count what is padded")
    if divisor not in {None, 1, math.prod(kernel.tolist())}:
        raise NirError(name, f"a pool must divide by its size or by 1, got {divisor}")
    kind = library().SumPool2d if divisor == 1 else library().AvgPool2d
    return one(name, kind(kernel_size=kernel, stride=stride, padding=padding))


def flattened(name: str, module: nn.Flatten, shape: Shape, writing: Writing) -> Piece:
    return flatten(name, module.start_dim, module.end_dim, shape, leading=2)


def flatten(name: str, start: int, end: int, shape: Shape, *, leading: int) -> Piece:
    """Return the node of a flatten of [leading axes, *shape]."""
    axes = len(shape)
    start, end = (each - leading if each >= 0 else each + axes for each in (start, end))
    if not 0 <= start <= end < axes:
        as_one = f"time and batch alone, as nn.Flatten({leading}),"
        rule = f"a flatten must leave {as_one} and end in {axes + leading} axes"
        raise NirError(name, f"{rule}, got axes {start + leading} to {end + leading}")
    return one(name, library().Flatten({"input": np.array(shape)}, start, end))


def norm(name: str, module: Any, shape: Shape, writing: Writing) -> Piece:
    """Return a batch norm by its running statistics: a weight for each channel and a bias."""
    if module.running_mean is None:
        raise NirError(name, "a norm must have running statistics (track_running_stats=True)")
    channels = len(module.running_mean)
    if not 1 <= len(shape) <= 3 or shape[0] != channels:
        raise NirError(name, f"a norm of {channels} features must hear as many, got {shape}")
    weight, bias = _affine(module)
    if len(shape) == 1:
        return one(name, library().Affine(weight=np.diag(weight), bias=bias))
    flat = len(shape) == 2
    kind, size = (library().Conv1d, shape[1]) if flat else (library().Conv2d, tuple(shape[1:]))
    each = weight.reshape(-1, *[1] * len(shape))
    steps = {"stride": 1, "padding": 0, "dilation": 1}
    own = steps if flat else {name: (step, step) for name, step in steps.items()}
    return one(name, kind(input_shape=size, weight=each, bias=bias, groups=channels, **own))


def _affine(module: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return γ / √(σ² + ε) and β - γ μ / √(σ² + ε), worked out in float64."""
    with torch.no_grad():
        scale = (module.running_var.double() + module.eps).rsqrt()
        own = module._scale() if hasattr(module, "_scale") else module.weight
        scale = scale if own is None else scale * own
        bias = -module.running_mean.double() * scale
        bias = bias if module.bias is None else bias + module.bias
    dtype = module.running_mean.dtype
    return _values(scale.to(dtype)), _values(bias.to(dtype))


def out_shape(name: str, module: nn.Module, shape: Shape) -> Shape:
    """Return the shape of a sample behind a module.

    Raises:
        NirError: The module does not take inputs of this shape.
    """
    inner = module.layer if isinstance(module, Stepwise) else module
    if isinstance(module, Stepwise) and isinstance(inner, nn.Sequential):
        for each in inner:
            shape = out_shape(name, Stepwise(each), shape)
        return shape
    if isinstance(inner, (Neuron, Fire, Scale, *NORMS)):
        return shape  # a norm in training would take these zeros into its statistics
    tensors = [*module.parameters(), *module.buffers()]
    like = next((each for each in tensors if each.is_floating_point()), torch.zeros(()))
    layer = module.layer if isinstance(module, Stepwise) else module
    if isinstance(layer, nn.Flatten):
        leading = (1, 1) if layer is module else (1,)
        return tuple(layer(like.new_zeros(*leading, *shape)).shape[len(leading) :])
    try:
        with torch.no_grad():
            return tuple(layer(like.new_zeros(1, *shape)).shape[1:])
    except (RuntimeError, ValueError) as error:
        raise NirError(name, f"the layer must take samples {shape}: {error}") from error
