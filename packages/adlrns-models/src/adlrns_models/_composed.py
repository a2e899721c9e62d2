"""Settled layers of two parts that still answer for the dense weight they stand for."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class ReadsAsDense(nn.Module):
    """Has the dense ``weight`` and ``bias`` of its parts, for code that reads instead of calling.

    Some models ask a layer for ``weight.dtype`` at every call. Each reading multiplies the parts.
    """

    # TorchScript would compile properties otherwise
    __jit_unused_properties__: ClassVar[list[str]] = ["weight", "bias"]

    def _dense(self) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{type(self).__name__} must say what its parts make")

    @property
    def weight(self) -> Tensor:
        """The dense weight, in the shape of the layer that was settled."""
        return self._dense()[0]

    @property
    def bias(self) -> Tensor:
        """The bias that belongs to :attr:`weight`."""
        return self._dense()[1]


class FactorPair(ReadsAsDense, nn.Sequential):
    """Two layers in a row: an ``nn.Sequential`` that has a dense ``weight`` and ``bias``."""

    def _dense(self) -> tuple[Tensor, Tensor]:
        return product_of(self[0], self[1])


def product_of(first: nn.Module, second: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of ``second`` after ``first``, linear layers or convolutions.

    Of two convolutions the second is ``1 x 1`` and has as many groups.
    """
    assert isinstance(first, nn.Linear | nn.Conv2d)
    assert isinstance(second, nn.Linear | nn.Conv2d)
    groups = first.groups if isinstance(first, nn.Conv2d) else 1
    down, up = first.weight.flatten(1).unflatten(0, (groups, -1)), second.weight.flatten(1)
    up = up.unflatten(0, (groups, -1))
    weight = (up @ down).reshape(-1, *first.weight.shape[1:])
    bias = first.weight.new_zeros(weight.shape[0]) if second.bias is None else second.bias
    if first.bias is not None:
        bias = bias + (up @ first.bias.reshape(groups, -1, 1)).flatten()
    return weight, bias


def stacked_outputs(first: nn.Module, second: nn.Module, order: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of the outputs of ``first`` and of both, put into ``order``."""
    assert isinstance(first, nn.Linear | nn.Conv2d)
    weight, bias = product_of(first, second)
    head = first.weight.new_zeros(first.weight.shape[0]) if first.bias is None else first.bias
    both = torch.cat([first.weight, weight]), torch.cat([head, bias])
    return both[0].index_select(0, order), both[1].index_select(0, order)
