"""Methods that keep the two halves of the data apart, to see how far their scores repeat."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from layer_importance._method import SweepMethod
from layer_importance._scores import MethodScores
from layer_importance._subject import Subject
from layer_importance._validity import Values, values_of

_HEARD = ("unit", "parameters", "input", "batch")


class Halved(SweepMethod):
    """Two of the same method, which hear of every other batch each.

    Afterwards the first is given what the second saw: its scores are those of all batches, as
    merging guarantees.

    Args:
        first: the method; it is used, not copied.
        second: another like it that has seen nothing.
    """

    def __init__(self, first: SweepMethod, second: SweepMethod) -> None:
        self.both = (first, second)
        self.batches = 0
        self.halves: tuple[Values, Values] | None = None
        # instances have what their class is asked for: a sweep asks a method, not its class
        self.name, self.needs = first.name, first.needs  # type: ignore[misc]
        self.measure, self.direction = first.measure, first.direction  # type: ignore[misc]

    @property
    def active(self) -> SweepMethod:
        """Who hears of the batch at hand."""
        return self.both[(self.batches - 1) % 2]

    def begin(self, subject: Subject) -> None:
        """Both learn what there is."""
        for method in self.both:
            method.begin(subject)

    def inputs(self, subject: Subject) -> Iterable[str]:
        """Whatever the method asks for."""
        first, _ = (list(method.inputs(subject)) for method in self.both)
        return first

    def before(self, batch: Any) -> None:
        """The other one's turn."""
        self.batches += 1
        self.active.before(batch)

    def scores(self) -> MethodScores:
        """Scores of all batches; to be called once."""
        first, second = self.both
        if self.batches > 1:
            self.halves = values_of(first.scores()), values_of(second.scores())
            first.merge(second.state())
        return first.scores()

    def state(self) -> dict[str, Tensor]:
        """That of the first."""
        return self.both[0].state()

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Into the first."""
        self.both[0].merge(state)


def halved(method: SweepMethod) -> SweepMethod:
    """Returns the method in two halves; itself if it puts hooks of its own or cannot be copied."""
    if type(method).hooks is not SweepMethod.hooks:
        return method
    try:
        second = copy.deepcopy(method)
    except Exception:  # whatever somebody else's method holds
        return method
    # a sweep looks at the class for what a method wants to hear
    heard = [w for w in _HEARD if getattr(type(method), w) is not getattr(SweepMethod, w)]
    kind = type(f"Halved{type(method).__name__}", (Halved,), {w: _told(w) for w in heard})
    return kind(method, second)


def halves(methods: Sequence[SweepMethod]) -> dict[str, tuple[Values, Values]]:
    """Returns the scores of both halves, by method, of those that have them."""
    return {m.name: m.halves for m in methods if isinstance(m, Halved) and m.halves is not None}


def _told(what: str) -> Callable[[Halved, Any], None]:
    def tell(self: Halved, event: Any) -> None:
        getattr(self.active, what)(event)

    return tell
