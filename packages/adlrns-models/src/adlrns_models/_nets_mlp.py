"""A multi-layer perceptron."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from adlrns_models._checks import check_int
from adlrns_models._nets_layers import Layers


class MLP(nn.Module):
    """Rows ``[B, ...]`` to scores ``[B, classes]``: hidden layers with ReLU, then a dense head.

    The head stays dense: a matrix of a few rows has no rank to save.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], classes: int, layers: Layers):
        super().__init__()
        widths = [in_features, *hidden]
        self.hidden = nn.ModuleList(layers.linear(n, m) for n, m in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns scores ``[B, classes]``."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x).relu()
        return self.head(x)


def adlrns_mlp(
    *,
    in_features: int = 64,
    hidden: Sequence[int] = (256, 256),
    classes: int = 10,
    dense: bool = False,
    **layer_options: Any,
) -> MLP:
    """Returns a perceptron whose hidden layers are dynamic.

    Args:
        in_features: numbers in an input, of any shape.
        hidden: widths of the hidden layers.
        classes: scores given.
        dense: plain layers in their place, the baseline.
        layer_options: ``r_max``, ``r_min``, ``gate`` and the other keywords of ``DynamicLinear``.

    Raises:
        ValueError, TypeError: for sizes below 1, or options that layers do not take.

    Example:
        >>> import torch
        >>> from adlrns_models import adlrns_mlp
        >>> adlrns_mlp(hidden=[32], r_max=8)(torch.randn(5, 8, 8)).shape
        torch.Size([5, 10])
    """
    check_int("in_features", in_features, 1)
    check_int("classes", classes, 1)
    for width in hidden:
        check_int("hidden", width, 1)
    return MLP(in_features, hidden, classes, Layers(dense=dense, **layer_options))
