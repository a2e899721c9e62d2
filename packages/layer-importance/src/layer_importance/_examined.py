"""A method on the table: what it says about the specimens, and comparisons that know of errors."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layer_importance._method import Method
from layer_importance._report import Report
from layer_importance._scores import MethodScores, Score
from layer_importance._specimens import Specimen, classifier

SPLIT = (5, 7, 12, 24)
"""Sizes of batches."""
ERRORS = 5.0
"""So many standard errors are no difference."""


class Examined:
    """A method under examination; the specimens' common reports are made once.

    Args:
        make: a new method each time.
        exact: whether its score is a fixed function of the data; else, as with labels that are
            drawn at random, two runs on differently cut data agree within their errors.
    """

    def __init__(self, make: Callable[[], Method], *, exact: bool) -> None:
        self.make, self.exact = make, exact
        self.method = make()
        self._intact: MethodScores | None = None
        self._split: MethodScores | None = None
        self._zeroed: dict[int, MethodScores] = {}

    def scores(self, specimen: Specimen, batches: Sequence[Any] | None = None) -> MethodScores:
        """Returns what a new method says about a specimen; an error if it did not run."""
        report = self.report(specimen, batches)
        name = self.method.name
        if name not in report.methods:
            raise AssertionError(f"it did not run: {report.reasons.get(name, 'no reason given')}")
        return report.methods[name]

    def report(self, specimen: Specimen, batches: Sequence[Any] | None = None) -> Report:
        """Returns the whole report."""
        return specimen.report(self.make(), batches)

    @property
    def intact(self) -> MethodScores:
        """The scores of a model with nothing planted in it."""
        if self._intact is None:
            self._intact = self.scores(classifier())
        return self._intact

    @property
    def split(self) -> MethodScores:
        """The scores of the same on the same data in several batches."""
        if self._split is None:
            specimen = classifier()
            self._split = self.scores(specimen, specimen.batches(*SPLIT))
        return self._split

    def zeroed(self, place: int) -> MethodScores:
        """The scores of the same model with a branch of zeros at ``place``."""
        if place not in self._zeroed:
            self._zeroed[place] = self.scores(classifier(zero=place))
        return self._zeroed[place]

    def agree(self, one: Mapping[str, Score], two: Mapping[str, Score], *, what: str) -> None:
        """Raises unless two runs say the same about the same units, in their order."""
        if len(one) != len(two):
            raise AssertionError(f"{what}: {len(one)} units have a score, then {len(two)}")
        scale = max((abs(score.value) for score in one.values()), default=0.0)
        for a, b in zip(sorted(one), sorted(two), strict=True):
            slack = 0.0 if self.exact else ERRORS * error(one[a], two[b])
            if not abs(one[a].value - two[b].value) <= 1e-6 * scale + 1e-12 + slack:
                raise AssertionError(f"{what}: {a} has {one[a].value:.6g}, then {two[b].value:.6g}")


def error(*scores: Score) -> float:
    """Returns the standard error of the difference of scores; 0 where none is known."""
    known = [s.standard_error for s in scores if not math.isnan(s.standard_error)]
    return math.hypot(*known)
