"""How new units begin, by the names that the command line has for it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adlrns._grow_net import Losses
from neuro_morph import (
    Divide,
    GrowthGroup,
    GrowthRefusedError,
    Morpher,
    Site,
    Split,
    Statistics,
    UnitInit,
    Units,
    ZeroFanOut,
    collect_statistics,
    gradmax,
    tiny,
)

# rows of zeros never train behind a ReLU; such small ones do, and change no output that counts,
# also behind a BatchNorm, which makes them some hundred times larger
_EPSILON = 1e-9


def init_of(
    name: str, morpher: Morpher, batches: Sequence[Any], losses: Losses, *, steps: int
) -> UnitInit:
    """Returns the way in which new units begin.

    Args:
        name: as the command line has it.
        morpher: the run.
        batches: what proposals are made from.
        losses: of a batch's items.
        steps: over how many steps the columns of units that divide come in.
    """
    if name == "zero-fan-out":
        return ZeroFanOut()
    if name == "split":
        return Split()
    if name == "divide":
        return Dividing(steps)
    make = _gradmax if name == "gradmax" else tiny
    return Measured(name, make, morpher, batches, losses)


class Dividing:
    """Units drawn at random divide; each at most once more than any other."""

    way = "free"

    def __init__(self, steps: int):
        self.steps = steps

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and noisy copies of some of them."""
        order = torch.randperm(group.size, generator=site.generator).tolist()
        parents = tuple(order[k % group.size] for k in range(by))
        return Divide(parents, steps=self.steps).units(site, group, by)

    def describe(self) -> str:
        """Returns its name and settings."""
        return f"divide over {self.steps} steps"


class Measured:
    """Units that are proposed by what is measured of the network as it is at that step."""

    way = "free"

    def __init__(
        self,
        name: str,
        make: Callable[[Statistics], UnitInit],
        morpher: Morpher,
        batches: Sequence[Any],
        losses: Losses,
    ):
        self.name, self.make, self.morpher = name, make, morpher
        self.batches, self.losses = batches, losses
        self._held: tuple[int, Statistics] | None = None

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and the proposed ones.

        Raises:
            GrowthRefusedError: if there are not as many to propose.
        """
        if self._held is None or self._held[0] != self.morpher.steps:
            found = statistics_of(site.model, site.graph, self.batches, self.losses)
            self._held = (self.morpher.steps, found)
        try:
            return self.make(self._held[1]).units(site, group, by)
        except ValueError as error:  # such as more units than what can be gained has directions
            raise GrowthRefusedError(f"{self.name} for {group.id!r}: {error}") from error

    def describe(self) -> str:
        """Returns its name."""
        return self.name


def statistics_of(
    model: nn.Module, graph: Any, batches: Sequence[Any], losses: Losses
) -> Statistics:
    """Returns what is measured of a network on batches; it is left as it was."""

    def mean(model: nn.Module, batch: Any) -> Tensor:
        return losses(model, batch).mean()

    return collect_statistics(model, graph, batches, mean)


def _gradmax(statistics: Statistics) -> UnitInit:
    return gradmax(statistics, epsilon=_EPSILON)
