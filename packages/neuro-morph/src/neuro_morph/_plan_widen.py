"""The edits of every tensor when a group is widened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neuro_morph._edits import AxisEdit, TensorEdit
from neuro_morph._entries import entries_of
from neuro_morph._groups import GrowthGroup, Member
from neuro_morph._placing import MASK
from neuro_morph._valuing import CannotGrowError, Needs


@dataclass(frozen=True)
class Units:
    """The units that a group will have.

    Attributes:
        parents: for each unit the old unit it is, or is a copy of; -1 for a new one.
        shares: for each unit the part of its parent's columns it takes over.
        rows: given rows of new units, by the parameter that makes them, unless they have to be
            something else.
        columns: given columns of new units, by the parameter that reads them.
        late: columns that new units are to have after ``steps`` steps of the optimizer, by the
            parameter that reads them.
        steps: see above.
    """

    parents: Tensor
    shares: Tensor
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    late: Mapping[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    @property
    def size(self) -> int:
        """How many units there will be."""
        return len(self.parents)


def fresh_units(size: int, by: int) -> Units:
    """Returns ``size`` units and ``by`` new ones."""
    parents = torch.cat([torch.arange(size), torch.full((by,), -1)])
    return Units(parents, torch.ones(size + by, dtype=torch.float64))


def entries_of_units(member: Member, group: GrowthGroup, units: Sequence[int]) -> Tensor:
    """Returns the entries of a member's axis that belong to units, in the order they are laid out.

    The order is that of the entries of as many new units behind the old ones.
    """
    wide = entries_of(member.axis, group.atom, group.size + len(units))[1]
    own = entries_of(member.axis, group.atom, group.size)[1]
    places = {unit: (own == unit).nonzero()[0] for unit in set(units)}
    seen = [0] * len(units)
    found: list[int] = []
    for new in (wide[wide >= group.size] - group.size).tolist():
        found.append(int(places[units[new]][seen[new]]))
        seen[new] += 1
    return torch.tensor(found)


def edits_of(group: GrowthGroup, needs: Needs, units: Units) -> list[TensorEdit]:
    """Returns how every tensor that has the group's units grows.

    Raises:
        CannotGrowError: if what is asked of a tensor contradicts itself.
    """
    found: dict[str, TensorEdit] = {}
    for member in group.members:
        edit = found.setdefault(member.name, TensorEdit(member.name))
        edit.axes.append(_axis_edit(group, member, needs, units))
    return list(found.values())


def check_fills(group: GrowthGroup, needs: Needs) -> None:
    """Raises CannotGrowError if what is asked of a tensor contradicts itself."""
    for member in group.members:
        fill_of(member, needs)


def _axis_edit(group: GrowthGroup, member: Member, needs: Needs, units: Units) -> AxisEdit:
    old, unit = (torch.from_numpy(a) for a in entries_of(member.axis, group.atom, units.size))
    if member.name.endswith(MASK):  # new units do not count, copies neither
        return AxisEdit(member.dim, old, torch.ones(len(old)), torch.ones(len(old)))
    take, share = _copied(group, member, units, old, unit)
    reads = needs.columns.get((member.name, member.dim))
    values, gradients = torch.ones(len(take)).double(), torch.ones(len(take)).double()
    if reads is not None and reads.mode == "copy":
        values = values * share
    elif "in" not in member.kinds:
        gradients = gradients * share
    power = needs.powers.get(member.name, 0.0) - (reads.power if reads is not None else 0.0)
    factor = torch.ones(len(take)).double()
    factor[unit >= 0] = (group.size / units.size) ** power
    edit = AxisEdit(member.dim, take, values * factor, gradients / factor, fill_of(member, needs))
    edit.given = _given(member, units, needs)
    return edit


def _copied(
    group: GrowthGroup, member: Member, units: Units, old: Tensor, unit: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns where entries come from and the share of each, copies included."""
    parent = torch.where(unit >= 0, units.parents[unit.clamp(min=0)], -1)
    share = torch.ones(len(old)).double()
    share[unit >= 0] = units.shares[unit[unit >= 0]]
    if not ((old < 0) & (parent >= 0)).any():
        return old, share
    first = entries_of(member.axis, group.atom, group.size)[1]
    places = [torch.from_numpy((first == p).nonzero()[0]) for p in range(group.size)]
    take, seen = old.clone(), [0] * units.size
    for k in ((old < 0) & (parent >= 0)).nonzero().flatten().tolist():
        u = int(unit[k])
        take[k] = places[int(parent[k])][seen[u]]
        seen[u] += 1
    return take, share


def fill_of(member: Member, needs: Needs) -> str:
    """Returns what new entries of a member are (see ``AxisEdit``)."""
    makes = needs.rows.get(member.name, "free").partition("*")[0]
    reads = needs.columns.get((member.name, member.dim))
    if "in" in member.kinds and member.kinds & {"out", "shift"}:
        return _tied(member, makes, reads.mode if reads else "free")
    if "in" in member.kinds:
        return "random" if reads is not None and reads.mode == "zero" else "zero"
    if makes == "one":
        return "one"
    if member.kinds & {"scale", "var"}:
        return "mean" if "scale" in member.kinds and "var" not in member.kinds else "one"
    if makes == "mean":
        return "mean"
    return "random" if makes == "free" and "out" in member.kinds else "zero"


def _tied(member: Member, makes: str, reads: str | None) -> str:
    """What one axis holds that makes units and reads them."""
    if makes == "copy" or reads == "copy":
        raise CannotGrowError(f"{member.name!r} both makes the units and reads them")
    if reads == "zero":
        return {"free": "random", "zero": "zero", "mean": "mean"}[makes]
    if makes == "mean":
        raise CannotGrowError(f"{member.name!r} makes units that it must not read")
    return "zero"


def _given(member: Member, units: Units, needs: Needs) -> Tensor | None:
    if "in" in member.kinds:
        return units.columns.get(member.name)
    asked = bool(needs.rows)  # then units are means or zeros where they are counted
    return None if asked else units.rows.get(member.name)
