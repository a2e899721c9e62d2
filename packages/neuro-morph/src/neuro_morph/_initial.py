"""How new units of a group begin."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from neuro_morph._arguments import check_share
from neuro_morph._edit import Site
from neuro_morph._groups import GrowthGroup
from neuro_morph._plan_widen import Units, fresh_units


@runtime_checkable
class UnitInit(Protocol):
    """A way in which new units begin."""

    @property
    def way(self) -> str:
        """What is asked of the graph (see :meth:`GrowthGraph.ways`)."""
        ...

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the units the group will have."""
        ...

    def describe(self) -> str:
        """Returns its name and settings."""
        ...


@dataclass(frozen=True)
class ZeroFanOut:
    """New units with random rows and columns of zeros: nothing reads them yet.

    Where units are counted (a LayerNorm over a residual stream) they begin as the mean of the
    others or as zeros, and their columns are random; or each LayerNorm over them leaves them out
    (``way="masked"``, see :class:`MaskedLayerNorm`). New entries have the root mean square of the
    old ones. The columns have a gradient from the first step on, the rows from the second.
    """

    way: str = "free"

    def __post_init__(self) -> None:
        if self.way not in ("free", "masked"):
            raise ValueError(f"way must be 'free' or 'masked', got {self.way!r}")

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and new ones."""
        return fresh_units(group.size, by)

    def describe(self) -> str:
        """Returns its name."""
        return "zero fan-out" if self.way == "free" else f"zero fan-out, {self.way}"


@dataclass(frozen=True)
class Split:
    """New units that are copies of old ones, which share their columns (Net2Wider).

    A copy takes over ``share`` of its parent's columns. With equal shares twins never part: their
    gradients are the same for ever.

    Args:
        share: the new unit's part, between 0 and 1.
        parents: the units that are split, one for each new unit; None draws them at random, each
            at most once more than any other.

    Raises:
        ValueError: if ``share`` is not between 0 and 1.

    Source: Chen, Goodfellow, Shlens, Net2Net (arXiv:1511.05641), with uneven shares.
    """

    share: float = 0.3
    parents: tuple[int, ...] | None = None
    way: str = "copy"

    def __post_init__(self) -> None:
        check_share(share=self.share)

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the old units and copies of some of them."""
        chosen = self._parents(site, group.size, by)
        parents = torch.cat([torch.arange(group.size), chosen])
        shares = torch.ones(len(parents), dtype=torch.float64)
        for new, parent in enumerate(chosen.tolist(), start=group.size):
            shares[new] = shares[parent] * self.share
            shares[parent] -= shares[new]
        return Units(parents, shares)

    def _parents(self, site: Site, size: int, by: int) -> torch.Tensor:
        if self.parents is not None:
            if len(self.parents) != by or not all(0 <= p < size for p in self.parents):
                raise ValueError(
                    f"parents must be {by} units from 0 to {size - 1}, got {self.parents!r}"
                )
            return torch.tensor(self.parents)
        rounds = [torch.randperm(size, generator=site.generator) for _ in range(-(-by // size))]
        return torch.cat(rounds)[:by]

    def describe(self) -> str:
        """Returns its name and share."""
        return f"split at {self.share:g}"


@dataclass(frozen=True)
class Duplicate:
    """Every unit as often as every other: the group becomes two, three, ... times as wide.

    It is exact also where units are counted, whatever stands between. The copies of a unit are
    told apart by uneven shares of its columns.

    Args:
        share: the first copy's part of what its parent keeps, between 0 and 1.

    Raises:
        ValueError: if ``share`` is not between 0 and 1.

    Source: Chen et al., LEMON (ICLR 2024): uneven shares of the copies of a unit.
    """

    share: float = 0.3
    way: str = "equal"

    def __post_init__(self) -> None:
        check_share(share=self.share)

    def units(self, site: Site, group: GrowthGroup, by: int) -> Units:
        """Returns the units, each as often as every other."""
        times, rest = divmod(by, group.size)
        if rest:
            raise ValueError(
                f"by must be a multiple of {group.size} to duplicate all units, got {by}"
            )
        parents = torch.arange(group.size).repeat(times + 1)
        shares = torch.ones(len(parents), dtype=torch.float64)
        for k in range(1, times + 1):
            old, new = shares[: group.size], slice(k * group.size, (k + 1) * group.size)
            shares[new] = old * self.share
            shares[: group.size] = old * (1 - self.share)
        return Units(parents, shares)

    def describe(self) -> str:
        """Returns its name and share."""
        return f"duplicate at {self.share:g}"
