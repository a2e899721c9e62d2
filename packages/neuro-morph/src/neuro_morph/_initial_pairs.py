"""New units in twins that cancel each other."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neuro_morph._arguments import check_number
from neuro_morph._edit import Site
from neuro_morph._edits import spread_of
from neuro_morph._entries import entries_of
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._groups import GrowthGroup, Member
from neuro_morph._plan_widen import Units, fresh_units
from neuro_morph._valuing import Needs
from neuro_morph._widening import tensors_of


@dataclass(frozen=True)
class AntisymmetricPair:
    """New units in twins: the same random rows, and columns ``c`` and ``-c``.

    What twins hand on adds up to zero, so the network computes what it did, and yet every row and
    every column has a gradient from the first step on: twins are drawn apart, since the gradients
    of their rows are opposite. New entries have the root mean square of the old ones. Of an odd
    number of units the last begins with columns of zeros. Dropout between rows and columns drops
    one twin without the other: while it is on they cancel on average only, and the outputs spread
    more than before.

    Args:
        scale: what columns are multiplied by.

    Raises:
        ValueError: if ``scale`` is not a finite number above 0.

    Source: the pair ``[V, V], [Z, -Z]`` of Yuan et al., Accelerated Training via Incrementally
    Growing Neural Networks (NeurIPS 2023), without its rescaling, which changes the output.
    """

    scale: float = 1.0
    way: str = "free"

    def __post_init__(self) -> None:
        check_number(scale=self.scale)
        if not 0.0 < self.scale < float("inf"):
            raise ValueError(f"scale must be a finite number above 0, got {self.scale!r}")
        if self.way != "free":
            raise ValueError(f"way must be 'free', got {self.way!r}")

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and pairs of new ones.

        Raises:
            GrowthRefusedError: if the units are counted or multiplied with one another, so that
                twins would not cancel, or a tensor both makes and reads them.
        """
        _check(group, site.graph.needs(group, self.way))
        fresh, held = fresh_units(group.size, by), tensors_of(site.model)
        rows, columns = {}, {}
        for member in group.members:
            tensor = held[member.name].detach()
            if "in" in member.kinds:
                noise = _twins(tensor, member, group, by, site.generator, opposite=True)
                columns[member.name] = noise * self.scale
            elif "out" in member.kinds:
                rows[member.name] = _twins(tensor, member, group, by, site.generator)
        return Units(fresh.parents, fresh.shares, rows, columns)

    def describe(self) -> str:
        """Returns its name and scale."""
        return "antisymmetric pairs" + ("" if self.scale == 1.0 else f" at {self.scale:g}")


def _check(group: GrowthGroup, needs: Needs) -> None:
    reason = next(_reasons(group, needs), None)
    if reason is not None:
        raise GrowthRefusedError(f"{group.id!r} cannot grow by antisymmetric pairs: {reason}")


def _reasons(group: GrowthGroup, needs: Needs) -> Iterator[str]:
    if any(mode != "free" for mode in needs.rows.values()) or needs.masked or needs.scored:
        yield "its units are normalised together or multiplied with one another"
    names = [member.name for member in group.members]
    for member in group.members:
        if names.count(member.name) > 1 or {"in", "out"} <= member.kinds:
            yield f"{member.name!r} both makes and reads them"
        reads = needs.columns.get((member.name, member.dim))
        if reads is not None and reads.mode != "free":
            yield f"{member.name!r} is given what is not new units alone"
    if not group.consumers:
        yield "no layer reads them"


def _twins(
    tensor: Tensor,
    member: Member,
    group: GrowthGroup,
    by: int,
    generator: torch.Generator,
    *,
    opposite: bool = False,
) -> Tensor:
    """Returns new entries along a member's axis, the same for twins or of opposite sign."""
    first, unit, count = _entries(member, group, by)
    shape = [*tensor.shape[: member.dim], count, *tensor.shape[member.dim + 1 :]]
    noise = torch.randn(shape, generator=generator) * spread_of(tensor)
    found = noise.index_select(member.dim, first)
    if not opposite:
        return found
    signs = torch.where(unit % 2 == 0, 1.0, -1.0)
    if by % 2:
        signs[unit == by - 1] = 0.0
    return found * signs.reshape(-1, *[1] * (tensor.dim() - 1 - member.dim))


def _entries(member: Member, group: GrowthGroup, by: int) -> tuple[Tensor, Tensor, int]:
    """Returns for each new entry its number among those drawn, its new unit, how many are drawn.

    Units ``2 k`` and ``2 k + 1`` are twins: what is drawn for the first is both's.
    """
    wide = entries_of(member.axis, group.atom, group.size + by)[1]
    unit = torch.from_numpy(wide[wide >= group.size] - group.size)
    places: dict[tuple[int, int], int] = {}
    seen, first = [0] * by, []
    for u in unit.tolist():
        first.append(places.setdefault((u // 2, seen[u]), len(places)))
        seen[u] += 1
    return torch.tensor(first), unit, len(places)
