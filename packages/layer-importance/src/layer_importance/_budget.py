"""The time there is for an analysis, what it went for, and what the rest of it will take."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from layer_importance._halves import Halved
from layer_importance._method import SweepMethod
from layer_importance._select import Clock
from layer_importance._subject import Subject
from layer_importance._units import Unit, Units

_TRIED = 0.01
"""Share of the time above which a method's scores are not tried a second time."""
_ANYWAY = 0.1
"""Share of the time that scores may take even when the sweep has run over."""


class Budget:
    """Time that is there, and what it went for.

    Args:
        clock: what tells the time.
        start: when it began.
        seconds: how much there is; ``None`` for no limit.

    Attributes:
        parts: seconds by what they went for, in order.

    Example:
        >>> from itertools import count
        >>> budget = Budget(count().__next__, 0, 10.0)  # every look takes a second
        >>> with budget.on("sweep"):
        ...     pass
        >>> budget.parts, budget.left(keep=5.0)
        ({'sweep': 1.0}, 3.0)
    """

    def __init__(self, clock: Clock, start: float, seconds: float | None) -> None:
        self.clock, self.start, self.seconds = clock, start, seconds
        self.parts: dict[str, float] = {}
        self._within = 0.0

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return self.clock() - self.start

    def left(self, keep: float = 0.0) -> float:
        """Returns the seconds that are left when ``keep`` of them are put aside."""
        return math.inf if self.seconds is None else self.seconds - keep - self.spent

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Counts the time inside as spent on ``part``, but for parts within it."""
        start, outer, self._within = self.clock(), self._within, 0.0
        try:
            yield
        finally:
            took = self.clock() - start
            self.parts[part] = self.parts.get(part, 0.0) + took - self._within
            self._within = outer + took

    def turns(self, keep: Callable[[], float] = lambda: 0.0) -> Callable[[], bool]:
        """Returns what tells before each turn whether it would end too late.

        A turn is expected to take as long as the longest so far.
        """
        last, longest = math.nan, 0.0

        def late() -> bool:
            nonlocal last, longest
            now = self.clock()
            longest, last = max(longest, 0.0 if math.isnan(last) else now - last), now
            return self.seconds is not None and self.left(keep()) < longest

        return late

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON: what was asked for, each part, and all of it."""
        return {"asked": self.seconds, **self.parts, "in all": self.spent}


class Finish:
    """What working out scores will take once a sweep has ended.

    Scores are worked out unit by unit from what was kept, so one unit's are tried on a copy: the
    one with most parameters, times the number of units. Both halves of the data and all of them
    together are scored, the last for about as long as the halves.

    Args:
        subject: what is studied.
        methods: who listens to the sweep; they have begun and seen nothing yet.
        budget: the time there is.

    Attributes:
        prices: seconds that each method's scores will take, by name; 0 where none was tried.
    """

    def __init__(self, subject: Subject, methods: Sequence[SweepMethod], budget: Budget) -> None:
        self._subject, self._units, self._budget = subject, subject.units, budget
        self._blank = {m.name: blank for m in methods if (blank := _copied(m, subject)) is not None}
        self.prices: dict[str, float] = {}

    @property
    def price(self) -> float:
        """Of all methods together."""
        return sum(self.prices.values())

    def look(self, methods: Sequence[SweepMethod]) -> None:
        """Tries the scores of methods by what they have seen, the dear ones only once."""
        dear = _TRIED * (self._budget.seconds or math.inf) * len(self._units)
        for method in methods:
            if self.prices.get(method.name, 0.0) > dear or method.name not in self._blank:
                continue
            if self._budget.left() <= 0:
                return
            seen, times = _parts(method)
            self.prices[method.name] = times * self._tried(method.name, seen.state())

    def _tried(self, name: str, state: Mapping[str, Tensor]) -> float:
        """Seconds that scores of all units take by those of one; 0 if they cannot be tried."""
        largest = max(self._units, key=lambda unit: unit.parameters)
        few = _of(largest, self._units, state)
        for tried, times in ((few, len(self._units)), (state, 1)):
            try:
                method = copy.deepcopy(self._blank[name], _shared(self._subject))
                method.merge(tried)
                start = self._budget.clock()
                method.scores()
            except Exception:  # one that does not keep units apart is tried with all of them
                continue
            return times * (self._budget.clock() - start)
        return 0.0

    def affordable(self, keep: float) -> float:
        """Returns how long scores may take when ``keep`` seconds are put aside.

        A little even when the sweep has run over: what it saw would be lost.
        """
        return max(self._budget.left(keep), _ANYWAY * (self._budget.seconds or math.inf))

    def too_dear(self, methods: Sequence[SweepMethod], most: float) -> dict[str, str]:
        """Returns who must go so that all scores take at most ``most`` seconds, and why.

        The dearest go first.
        """
        gone = dict[str, str]()
        by_price = sorted(methods, key=lambda m: self.prices.get(m.name, 0.0))
        while by_price and self.price > most:
            if not (price := self.prices.pop(name := by_price.pop().name, 0.0)):
                break
            gone[name] = (
                f"working out its scores would take about {price:.2g} s, and all scores may take "
                f"{most:.2g} s"
            )
        return gone


def _copied(method: SweepMethod, subject: Subject) -> SweepMethod | None:
    try:
        seen, _ = _parts(method)
        return copy.deepcopy(seen, _shared(subject))
    except Exception:  # whatever somebody else's method holds
        return None


def _shared(subject: Subject) -> dict[int, Any]:
    """What a copy of a method has in common with it, for ``copy.deepcopy``."""
    model = subject.model
    parts = (subject, subject.first, *model.modules(), *model.parameters(), *model.buffers())
    return {id(part): part for part in parts}


def _parts(method: SweepMethod) -> tuple[SweepMethod, int]:
    """What is tried of a method, and how many times that all its scores will take."""
    return (method.both[0], 4) if isinstance(method, Halved) else (method, 1)


def _of(unit: Unit, units: Units, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was kept of one unit, and of none in particular."""
    others = {other.name for other in units if other.name != unit.name}
    return {key: value for key, value in state.items() if not others & _names(key)}


def _names(key: str) -> set[str]:
    return set(key.partition("/")[0].replace(">", "/").split("/"))
