"""Units that divide: a copy with noise, which comes in slowly."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuro_morph._arguments import check_least, check_number
from neuro_morph._edit import Site
from neuro_morph._groups import GrowthGroup, Member
from neuro_morph._plan_widen import Units, entries_of_units, fresh_units
from neuro_morph._widening import tensors_of


@dataclass(frozen=True)
class Divide:
    """New units that are noisy copies of old ones and are read slowly.

    A new unit has its parent's rows and noise; what reads it begins with columns of zeros, which
    grow to the parent's own, times ``share``, over ``steps`` steps of the optimizer (at once if 0:
    the columns then begin at zero and are trained). The network computes what it did when they
    come, whatever the noise is.

    Args:
        parents: the units that divide, one for each new unit.
        noise: the noise over the root mean square of the parent's rows.
        steps: over how many optimizer steps the columns come in.
        share: what part of the parent's columns a new unit has in the end.

    Raises:
        ValueError: if ``noise`` or ``steps`` is negative.
    """

    parents: tuple[int, ...]
    noise: float = 0.1
    steps: int = 0
    share: float = 0.5
    way: str = "free"

    def __post_init__(self) -> None:
        check_number(noise=self.noise)
        if not 0.0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be finite and at least 0, got {self.noise!r}")
        check_least(0, whole=True, steps=self.steps)

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and new ones with rows like their parents'."""
        if len(self.parents) != by or not all(0 <= p < group.size for p in self.parents):
            raise ValueError(
                f"parents must be {by} units from 0 to {group.size - 1}, got {self.parents!r}"
            )
        held = tensors_of(site.model)
        made = [m for m in group.members if "in" not in m.kinds]
        rows = {m.name: self._rows(held[m.name], m, group, site.generator) for m in made}
        read = [m for m in group.members if "in" in m.kinds and not m.kinds & {"out", "shift"}]
        late = {m.name: self._columns(held[m.name], m, group) for m in read} if self.steps else {}
        fresh = fresh_units(group.size, by)
        return Units(fresh.parents, fresh.shares, rows=rows, late=late, steps=self.steps)

    def describe(self) -> str:
        """Returns its name and settings."""
        return f"divide with noise {self.noise:g} over {self.steps} steps"

    def _rows(
        self, tensor: Tensor, member: Member, group: GrowthGroup, generator: torch.Generator
    ) -> Tensor:
        copies = tensor.detach().index_select(
            member.dim, entries_of_units(member, group, self.parents)
        )
        if not member.kinds & {"out", "shift_out"}:
            return copies  # of a normalisation: its statistics are the parent's
        spread = float(copies.double().square().mean().sqrt())
        noise = torch.randn(copies.shape, generator=generator, dtype=torch.float64)
        return copies + (noise * (self.noise * spread)).to(copies)

    def _columns(self, tensor: Tensor, member: Member, group: GrowthGroup) -> Tensor:
        chosen = entries_of_units(member, group, self.parents)
        return tensor.detach().index_select(member.dim, chosen) * self.share


def strongest(scores: Tensor, by: int) -> tuple[int, ...]:
    """Returns the units with the highest scores, over again if there are too few."""
    order = scores.argsort(descending=True).tolist()
    return tuple(order[k % len(order)] for k in range(by))
