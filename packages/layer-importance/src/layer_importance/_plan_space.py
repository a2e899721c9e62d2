"""Which sets of units a plan may take out, and how much each of them frees."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Names = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The sets of units that a plan may choose from.

    Attributes:
        groups: what goes together or not at all, in order of execution; mostly single units.
        gain: what a set frees, in the unit of the target.
        need: how much has to be freed.
        quotas: units of which at least one has to stay.
    """

    groups: tuple[tuple[str, ...], ...]
    gain: Callable[[Names], float]
    need: float
    quotas: tuple[frozenset[str], ...] = ()

    def allows(self, names: Names) -> bool:
        """Whether every quota keeps one of its units."""
        return not any(quota <= names for quota in self.quotas)

    def fits(self, names: Names) -> bool:
        """Whether a set frees enough and is allowed."""
        return self.allows(names) and self.gain(names) >= self.need - 1e-9 * abs(self.need)

    def filled(self, order: Iterable[tuple[str, ...]], names: Names = frozenset()) -> Names | None:
        """Returns ``names`` with groups added in ``order`` until it fits; ``None`` if it cannot."""
        for group in order:
            if self.fits(names):
                return names
            if self.allows(grown := names | set(group)):
                names = grown
        return names if self.fits(names) else None

    def from_the_end(self) -> Names | None:
        """Returns the last groups that together fit; ``None`` if nothing does."""
        found = self.filled(reversed(self.groups))
        return None if found is None else self.trimmed(found, self.groups)

    def cheapest(self, worth: Mapping[str, float]) -> Names | None:
        """Returns the set of least summed ``worth`` that fits; ``None`` if nothing does.

        A knapsack, solved exactly where what groups free adds up; else groups are added to it in
        the order of their worth. Worths that are unknown count as the largest known.
        """
        values = self._worths(worth)
        start = self._knapsack(values)
        order = sorted(self.groups, key=lambda group: values[self.groups.index(group)])
        if start is not None and self.fits(start):
            return self.trimmed(start, reversed(order))
        found = self.filled(order, start or frozenset()) or self.filled(order)
        return None if found is None else self.trimmed(found, reversed(order))

    def trimmed(self, names: Names, order: Iterable[tuple[str, ...]]) -> Names:
        """Returns ``names`` without the groups that it fits without, tried in ``order``."""
        for group in order:
            if set(group) <= names and self.fits(smaller := names - set(group)):
                names = smaller
        return names

    def _worths(self, worth: Mapping[str, float]) -> list[float]:
        known = [value for value in worth.values() if math.isfinite(value)]
        highest = max(known, default=1.0)

        def of(name: str) -> float:
            value = worth.get(name, math.nan)
            return value if math.isfinite(value) else highest

        return [sum(of(name) for name in group) for group in self.groups]

    def _knapsack(self, values: Sequence[float]) -> Names | None:
        if not self.groups:
            return None
        gains = np.array([self.gain(frozenset(group)) for group in self.groups])
        scale = max(float(np.abs(gains).max()), 1e-300)
        rows, low, high = [gains / scale], [self.need / scale], [np.inf]
        for quota in self.quotas:
            inside = [float(sum(name in quota for name in group)) for group in self.groups]
            rows.append(np.array(inside))
            low.append(-np.inf)
            high.append(len(quota) - 1.0)
        spread = max(float(np.abs(values).max()), 1e-300)
        found = milp(
            np.array(values) / spread,
            integrality=np.ones(len(values)),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(np.array(rows), low, high),
        )
        if found.x is None:
            return None
        taken = [group for group, x in zip(self.groups, found.x, strict=True) if x > 0.5]
        return frozenset(itertools.chain.from_iterable(taken))

    def neighbours(self, names: Names) -> Iterator[Names]:
        """Yields sets that fit one exchange away: one group in, one out, or one of the two.

        Only those that would not fit without any of their groups: nothing goes that need not.
        """
        inside = [g for g in self.groups if set(g) <= names]
        outside = [g for g in self.groups if not set(g) & names]
        for gone in [(), *inside]:
            for come in [(), *outside]:
                near = (names - set(gone)) | set(come)
                if near != names and self.is_tight(near):
                    yield near

    def is_tight(self, names: Names) -> bool:
        """Whether a set fits and would not without any of its groups."""
        inside = (set(group) for group in self.groups if set(group) <= names)
        return self.fits(names) and not any(self.fits(names - group) for group in inside)

    def all_sets(self, at_most: int) -> list[Names] | None:
        """Returns every set that fits and would not without any of its groups.

        ``None`` if more than ``at_most`` sets would have to be looked at.
        """
        found: list[Names] = []
        looked = 0
        for size in range(len(self.groups) + 1):
            looked += math.comb(len(self.groups), size)
            if looked > at_most:
                return None
            for chosen in itertools.combinations(self.groups, size):
                names = frozenset(itertools.chain.from_iterable(chosen))
                if self.is_tight(names):
                    found.append(names)
            if found and self._larger_are_no_better(size):
                break
        return found

    def _larger_are_no_better(self, size: int) -> bool:
        """Whether every set of ``size`` groups frees enough, so that larger ones are not tight."""
        smallest = sorted(self.groups, key=lambda group: self.gain(frozenset(group)))[:size]
        return self.gain(frozenset(itertools.chain.from_iterable(smallest))) >= self.need
