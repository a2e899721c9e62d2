"""The layers that make the units of a group, and those that read them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neuro_morph._entries import entries_of
from neuro_morph._groups import GrowthGroup, Member

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class NoLayerError(Exception):
    """A group's units are made or read by something that is no plain layer."""


@dataclass(frozen=True)
class UnitLayer:
    """A layer that makes units or reads them.

    Attributes:
        path: where it is in the model.
        module: the layer.
        weight: the name of its weight.
        bias: the name of its bias, None if it has none.
        places: the rows, or the columns, of each unit: ``[units, places of each]``.
    """

    path: str
    module: nn.Module
    weight: str
    bias: str | None
    places: Tensor


def makers_of(model: nn.Module, group: GrowthGroup) -> list[UnitLayer]:
    """Returns the layers whose rows make the units of a group.

    Depthwise convolutions treat each unit by itself and are left out where another layer makes
    the units.

    Raises:
        NoLayerError: if one of them is no linear or ungrouped convolution layer.
    """
    made = [m for m in group.members if "out" in m.kinds]
    others = [m for m in made if not _depthwise(model, m)]
    return [_layer(model, group, member, 0) for member in others or made]


def readers_of(model: nn.Module, group: GrowthGroup) -> list[UnitLayer]:
    """Returns the layers whose columns read the units of a group.

    Raises:
        NoLayerError: if one of them is no linear or ungrouped convolution layer.
    """
    return [_layer(model, group, m, 1) for m in group.members if "in" in m.kinds]


def _depthwise(model: nn.Module, member: Member) -> bool:
    module = model.get_submodule(member.name.rpartition(".")[0])
    groups = getattr(module, "groups", 1)
    return groups > 1 and groups == getattr(module, "out_channels", 0)


def _layer(model: nn.Module, group: GrowthGroup, member: Member, dim: int) -> UnitLayer:
    path, _, last = member.name.rpartition(".")
    module = model.get_submodule(path)
    role = "read" if dim else "made"
    if last != "weight" or not isinstance(module, LAYERS) or member.dim != dim:
        raise NoLayerError(f"its units are {role} by {member.name!r}, no weight of a plain layer")
    if getattr(module, "groups", 1) != 1:
        raise NoLayerError(f"its units are {role} by {path!r}, a convolution with groups")
    bias = f"{path}.bias".lstrip(".") if module.bias is not None else None
    return UnitLayer(path, module, member.name, bias, _places(member, group))


def _places(member: Member, group: GrowthGroup) -> Tensor:
    units = entries_of(member.axis, group.atom, group.size)[1]
    rows = [(units == u).nonzero()[0] for u in range(group.size)]
    return torch.from_numpy(np.stack(rows))
