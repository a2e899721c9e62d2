"""The plain modules that a settled layer is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import skip_init

from adlrns_models._conv import AdaptiveConv2d
from adlrns_models._identity import IdentityBlock
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._patches import conv_arguments


class Parts(NamedTuple):
    """How to make the plain modules of one layer; their weights are not initialised.

    Attributes:
        first: outputs to a module from the layer's input.
        second: inputs and outputs to a module after it.
        dim: the axis of features.
    """

    first: Callable[[int], nn.Module]
    second: Callable[[int, int], nn.Module]
    dim: int


def parts_of(layer: nn.Linear | nn.Conv2d | AdaptiveLayer) -> Parts:
    """Returns the parts for a plain or adaptive, linear or convolution layer."""
    weight = layer.down if isinstance(layer, AdaptiveLayer) else layer.weight
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    n = weight.shape[1]
    if weight.ndim == 2:
        return Parts(
            first=lambda k: skip_init(nn.Linear, n, k, **place),
            second=lambda k, m: skip_init(nn.Linear, k, m, **place),
            dim=-1,
        )
    arguments = _conv_arguments(layer)
    return Parts(
        first=lambda k: skip_init(nn.Conv2d, n, k, **arguments, **place),
        second=lambda k, m: skip_init(nn.Conv2d, k, m, 1, **place),
        dim=-3,
    )


def build(parts: Parts, form: str, m: int, rank: int) -> nn.Module:
    """Returns the module of a form, for a layer of ``m`` outputs; its weights are yet to be set."""
    if form == "dense":
        return parts.first(m)
    if form == "factored":
        return nn.Sequential(parts.first(rank), parts.second(rank, m))
    order = torch.zeros(m, dtype=torch.int64)
    head = parts.first(rank)
    return IdentityBlock(
        head, parts.second(rank, m - rank), order.to(next(head.parameters()).device), parts.dim
    )


def _conv_arguments(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, AdaptiveConv2d):
        return layer.conv_arguments
    assert isinstance(layer, nn.Conv2d)
    return conv_arguments(layer)
