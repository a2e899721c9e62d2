"""The set of units whose removal costs least, found with few evaluations."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from layer_importance._plan_space import Names, Space
from layer_importance._surrogate import Surrogate

Damages = Callable[[Sequence[Names]], Sequence[float]]
"""Answers with the damage of each set; what cannot be measured is not finite."""

_POOL = 5000
_ORACLE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        best: the set of least damage that was tried.
        from_the_end: the last units that free as much, which were tried too.
        seen: damage of every set that was tried, in the order of trying.
        note: why the search ended.
    """

    best: Names
    from_the_end: Names
    seen: Mapping[Names, float]
    note: str


@dataclass(slots=True)
class Search:
    """Tries sets one after the other: cheap order, singles, what a model of them says, exchanges.

    First the cheapest set by ``prior`` and the last units; then every unit alone, or where there
    are too many only those near the cut; for large sets, a greedy path of growing sets; then,
    again and again, the set that a :class:`Surrogate` of all that was seen expects most of, among
    all sets where there are not too many, else among those one exchange away from the best. Where
    none is expected to be better by two standard deviations, exchanges are tried all the same. It
    ends when no exchange gains, or ``evaluations`` are used.

    Args:
        space: the sets to choose from.
        damages: what sets cost.
        prior: what is known of single units beforehand, less is cheaper.
        evaluations: how many sets may be tried.
    """

    space: Space
    damages: Damages
    prior: Mapping[str, float]
    evaluations: int
    seen: dict[Names, float] = field(default_factory=dict)

    def run(self) -> Found:
        """Returns the best set.

        Raises:
            ValueError: if no set of units frees enough.
        """
        end, cheap = self.space.from_the_end(), self.space.cheapest(self.prior)
        if end is None or cheap is None:
            raise ValueError(_too_much(self.space))
        self._try([cheap, end][: max(self.evaluations, 0)])
        if not self.seen:
            return Found(best=cheap, from_the_end=end, seen={}, note="nothing was tried")
        self._singles(len([g for g in self.space.groups if set(g) <= cheap]))
        self._try([self._additive(), self._additive(self.prior)])
        if len(cheap) > 4:
            self._path()
        note = self._exchanges()
        return Found(best=self._best(), from_the_end=end, seen=self.seen, note=note)

    @property
    def _left(self) -> int:
        return self.evaluations - len(self.seen)

    def _try(self, sets: Iterable[Names | None]) -> None:
        """Evaluates what is new, as long as there is budget."""
        new = list(dict.fromkeys(s for s in sets if s is not None and s not in self.seen))
        new = new[: max(self._left, 0)]
        if new:
            self.seen.update(zip(new, map(float, self.damages(new)), strict=True))

    def _best(self) -> Names:
        fitting = [names for names in self.seen if self.space.is_tight(names)]
        return min(fitting, key=lambda names: _or_infinite(self.seen[names]))

    def _singles(self, size: int) -> None:
        """Every group alone; where that leaves too little, those that may be near the cut."""
        groups = [frozenset(group) for group in self.space.groups]
        groups.sort(key=lambda names: sum(self.prior.get(name, math.inf) for name in names))
        if len(groups) + 6 > self._left:
            groups = groups[: min(max(2 * size + 4, 1), self._left // 2)]
        self._try(groups)

    def _additive(self, beside: Mapping[str, float] | None = None) -> Names | None:
        """The cheapest set if damages of single groups added up; half and half with ``beside``."""
        alone = {g: self.seen[frozenset(g)] for g in self.space.groups if frozenset(g) in self.seen}
        worth = {n: damage / len(g) for g, damage in alone.items() for n in g}
        if beside is not None:
            first, other = _ranked(worth), _ranked(beside)
            worth = {n: first[n] + other[n] for n in worth if n in other}
        return self.space.cheapest(worth) if worth else None

    def _path(self) -> None:
        """Grows a set, trying at each step what looks cheapest; half of the budget."""
        names: Names = frozenset()
        steps = max(len(self._best()), 1)
        width = max(1, min(3, self._left // (2 * steps)))
        while not self.space.fits(names) and self._left > 0:
            grown = [names | set(g) for g in self.space.groups if not set(g) <= names]
            grown = [g for g in grown if self.space.allows(g)]
            if not grown:
                return
            expected, _ = self._surrogate().predict(grown)
            near = [grown[i] for i in np.argsort(expected, kind="stable")[:width]]
            self._try(near)
            tried = [g for g in near if g in self.seen]
            if not tried:
                return
            names = min(tried, key=lambda g: _or_infinite(self.seen[g]))

    def _exchanges(self) -> str:
        """What looks best among all sets; when nothing does, what is one exchange away."""
        pool = self.space.all_sets(_POOL)
        while self._left > 0:
            best = self._best()
            near = [n for n in self.space.neighbours(best) if n not in self.seen]
            far = near if pool is None else [names for names in pool if names not in self.seen]
            if not (near or far):
                return "every set that frees enough was tried"
            chosen = self._promising(far, best) or self._promising(near, None)
            if chosen is None:
                return "no exchange gains, and no other set is expected to cost less"
            self._try([chosen])
        return "the budget of evaluations is used"

    def _promising(self, sets: list[Names], best: Names | None) -> Names | None:
        """The set that is expected to cost least; ``None`` if none may be better than ``best``."""
        if not sets:
            return None
        expected, deviation = self._surrogate().predict(sets)
        if best is not None and float((expected - 2 * deviation).min()) >= self.seen[best]:
            return None
        return sets[int(np.argmin(expected - 0.5 * deviation))]

    def _surrogate(self) -> Surrogate:
        return Surrogate(list(itertools.chain.from_iterable(self.space.groups)), self.seen)


def oracle(space: Space, damages: Damages) -> tuple[Names, float] | None:
    """Returns the best set of all and its damage; ``None`` where there are more than 500 sets."""
    sets = space.all_sets(20 * _ORACLE)
    if not sets or len(sets) > _ORACLE:
        return None
    found = [_or_infinite(float(damage)) for damage in damages(sets)]
    least = int(np.argmin(found))
    return sets[least], found[least]


def _ranked(worth: Mapping[str, float]) -> dict[str, float]:
    order = sorted(worth, key=lambda name: worth[name])
    return {name: float(place) for place, name in enumerate(order)}


def _or_infinite(damage: float) -> float:
    return damage if math.isfinite(damage) else math.inf


def _too_much(space: Space) -> str:
    most = space.filled(space.groups) or frozenset(
        name
        for index, group in enumerate(space.groups)
        for name in group
        if space.allows(frozenset(itertools.chain.from_iterable(space.groups[: index + 1])))
    )
    quotas = "; one of each type has to stay" if space.quotas else ""
    return (
        f"the target must be reachable: {space.need:.6g} has to go, and of {len(space.groups)} "
        f"that may go {space.gain(most):.6g} can{quotas}"
    )
