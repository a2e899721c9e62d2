"""The edit that splits units along their steepest directions."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuro_morph._arguments import check_kind
from neuro_morph._edit import Performed, Site, Variant
from neuro_morph._edit_widen import Widen
from neuro_morph._entries import entries_of
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._groups import GrowthGroup
from neuro_morph._plan_widen import Units
from neuro_morph._splitting import Splitting
from neuro_morph._undo import UndoLog
from neuro_morph._unit_layers import makers_of
from neuro_morph._widening import tensors_of


@dataclass(frozen=True)
class SplitSteepest:
    """Splits the units that gain the most, each into two that step apart.

    Half and half the copies go ``epsilon |row|`` along plus and minus the direction of the
    smallest eigenvalue of the unit's splitting matrix; ``signed``, a unit may instead be replaced
    by twice itself less itself, which gains where the largest eigenvalue is above zero. The output
    changes by the order of ``epsilon`` squared, which the transaction has to accept.

    Args:
        group: the group's id.
        by: how many units are split.
        splitting: what :func:`splitting_of` gave for the model as it is.
        epsilon: the step, of the length of the unit's row.
        signed: whether copies may count negatively.

    Raises:
        ValueError: if ``by`` is below 1 or ``epsilon`` not above 0.

    Source: Wu, Wang, Liu, splitting steepest descent (NeurIPS 2019); Wu, Ye, Lei, Lee, Liu,
    steepest descent neural architecture optimization (arXiv:2003.10392), signed.
    """

    group: str
    by: int
    splitting: Splitting = field(repr=False)
    epsilon: float = 1e-3
    signed: bool = False
    op: str = field(default="split", init=False)

    def __post_init__(self) -> None:
        check_kind(Splitting, splitting=self.splitting)
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {self.epsilon!r}")
        Widen(self.group, self.by)

    @property
    def target(self) -> str:
        """The group's id."""
        return self.group

    def detail(self) -> dict[str, Any]:
        """Returns the settings, as JSON can hold them."""
        return {"by": self.by, "epsilon": self.epsilon, "signed": self.signed}

    def variants(self, site: Site) -> Iterator[Variant]:
        """Yields ways to carry it out."""
        group = site.graph[self.group]
        if len(self.splitting.values) != group.size or self.splitting.group != group.id:
            raise GrowthRefusedError(f"{self.group!r} has changed since its splitting was found")
        gains = self.splitting.gains(signed=self.signed)
        able = int((gains > 0).sum())
        if able < self.by:
            raise GrowthRefusedError(f"only {able} units of {self.group!r} gain by being split")
        chosen = gains.topk(self.by).indices
        init = _Halves(tuple(chosen.tolist()), tuple(self._negative(int(u)) for u in chosen))
        for variant in Widen(self.group, self.by, init).variants(site):
            yield partial(self._perform, site, group, chosen, variant)

    def _negative(self, unit: int) -> bool:
        values = self.splitting.values[unit]
        return self.signed and float(values[-1]) / 4 > float(-values[0]) / 2

    def _perform(
        self, site: Site, group: GrowthGroup, chosen: Tensor, variant: Variant, log: UndoLog
    ) -> Performed:
        maker = makers_of(site.model, group)[0]
        done = variant(log)
        held = tensors_of(site.model)
        names = [maker.weight] if maker.bias is None else [maker.weight, maker.bias]
        new = {name: held[name].detach().clone() for name in names}
        first = len(maker.places)
        for k, unit in enumerate(chosen.tolist()):
            negative = self._negative(unit)
            way = self.splitting.directions[unit, :, -1 if negative else 0]
            old = maker.places[unit, 0]
            step = self.epsilon * float(new[maker.weight][old].norm()) * way
            # weights 2 and -1: the first step is half the second, so that their sum stays
            _move(new, names, int(old), step / 2 if negative else step)
            _move(new, names, _row_of(maker, group, first + k), step if negative else -step)
        for name in names:
            log.set_data(held[name], new[name])
        return done


@dataclass(frozen=True)
class _Halves:
    parents: tuple[int, ...]
    negative: tuple[bool, ...]
    way: str = "copy"

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        chosen = torch.tensor(self.parents)
        shares = torch.ones(group.size + by, dtype=torch.float64)
        shares[chosen] = torch.tensor([2.0 if n else 0.5 for n in self.negative]).double()
        shares[group.size :] = torch.tensor([-1.0 if n else 0.5 for n in self.negative]).double()
        return Units(torch.cat([torch.arange(group.size), chosen]), shares)

    def describe(self) -> str:
        return "halves"


def _row_of(maker: Any, group: GrowthGroup, unit: int) -> int:
    """Returns the row of a unit after the group has grown by units behind the old ones."""
    member = next(m for m in group.members if m.name == maker.weight and m.dim == 0)
    units = entries_of(member.axis, group.atom, unit + 1)[1]
    return int((units == unit).nonzero()[0][0])


def _move(new: dict[str, Tensor], names: list[str], row: int, step: Tensor) -> None:
    weight = new[names[0]]
    count = weight[0].numel()
    weight[row] += step[:count].reshape(weight[row].shape).to(weight)
    if len(names) > 1:
        new[names[1]][row] += step[count].to(weight)
