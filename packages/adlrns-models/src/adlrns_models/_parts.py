"""The plain modules that a settled layer is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.utils import skip_init

from adlrns_models._composed import FactorPair
from adlrns_models._conv import AdaptiveConv2d
from adlrns_models._identity import IdentityBlock
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._patches import conv_arguments
from adlrns_models._plain import Plain, sizes_of


class Parts(NamedTuple):
    """How to make the plain modules of one layer; their weights are not initialised.

    Attributes:
        first: outputs to a module from the layer's input.
        second: inputs and outputs to a module after it.
        dim: the axis of features.
        groups: of both modules; outputs and inputs above are those of one group.
    """

    first: Callable[[int], nn.Module]
    second: Callable[[int, int], nn.Module]
    dim: int
    groups: int = 1


def parts_of(layer: Plain | AdaptiveLayer) -> Parts:
    """Returns the parts for a plain or adaptive, linear or convolution layer."""
    weight = layer.down if isinstance(layer, AdaptiveLayer) else layer.weight
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    if weight.ndim == 2:
        n = layer.sizes[1] if isinstance(layer, AdaptiveLayer) else sizes_of(layer).inputs
        return Parts(
            first=lambda k: skip_init(nn.Linear, n, k, **place),
            second=lambda k, m: skip_init(nn.Linear, k, m, **place),
            dim=-1,
        )
    arguments, g = _conv_arguments(layer), cast("int", layer.groups)
    channels = g * weight.shape[-3]
    return Parts(
        first=lambda k: skip_init(nn.Conv2d, channels, g * k, groups=g, **arguments, **place),
        second=lambda k, m: skip_init(nn.Conv2d, g * k, g * m, 1, groups=g, **place),
        dim=-3,
        groups=g,
    )


def build(parts: Parts, form: str, m: int, rank: int) -> nn.Module:
    """Returns the module of a form, for ``m`` outputs a group; its weights are yet to be set."""
    if form == "dense":
        return parts.first(m)
    if form == "factored":
        return FactorPair(parts.first(rank), parts.second(rank, m))
    order = torch.zeros(parts.groups * m, dtype=torch.int64)
    head = parts.first(rank)
    return IdentityBlock(
        head, parts.second(rank, m - rank), order.to(next(head.parameters()).device), parts.dim
    )


def _conv_arguments(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, AdaptiveConv2d):
        return layer.conv_arguments
    assert isinstance(layer, nn.Conv2d)
    return conv_arguments(layer)
