"""The plain layers that adaptive ones are made of, seen alike."""

from typing import NamedTuple

from torch import Tensor, nn

from adlrns_models._conv1d import Conv1D

Plain = nn.Linear | nn.Conv2d | Conv1D


class Sizes(NamedTuple):
    """The weight of a layer as ``groups`` matrices ``[outputs, inputs]``, one but for convolutions.

    Attributes:
        outputs: rows ``m`` of each.
        inputs: columns ``n`` of each.
        groups: how many there are.
    """

    outputs: int
    inputs: int
    groups: int = 1

    @property
    def max_rank(self) -> int:
        """Full rank of each matrix."""
        return min(self.outputs, self.inputs)


def sizes_of(layer: Plain) -> Sizes:
    """Returns the sizes of a layer's weight."""
    m, n = weight_matrix(layer).shape
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return Sizes(m // groups, n, groups)


def weight_matrix(layer: Plain) -> Tensor:
    """Returns the weight as a matrix ``[groups * m, n]`` (a view, detached)."""
    weight = layer.weight.detach()
    return weight.flatten(1) if isinstance(layer, nn.Linear | nn.Conv2d) else weight.T


def group_columns(sizes: Sizes) -> list[slice]:
    """Returns which features of the layer's inputs, as rows, each group reads."""
    return [slice(g * sizes.inputs, (g + 1) * sizes.inputs) for g in range(sizes.groups)]


def group_outputs(sizes: Sizes) -> list[slice]:
    """Returns which outputs of the layer each group writes."""
    return [slice(g * sizes.outputs, (g + 1) * sizes.outputs) for g in range(sizes.groups)]
