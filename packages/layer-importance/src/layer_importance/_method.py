"""What a method is: what it reads, what it costs, what it says about each unit."""

import abc
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from torch import Tensor

from layer_importance._events import BatchEvent, LeafEvent, UnitEvent
from layer_importance._moments import Moments
from layer_importance._scores import Direction, MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._units import Unit

Need = Literal["data", "labels", "gradients", "parameter_gradients", "sampled", "leaves"]


class Method(abc.ABC):
    """One way to score units. A method is made anew for each analysis.

    Attributes:
        name: by which it is asked for.
        measure: unit of measure of its values.
        direction: whether more means more important, or says nothing about that.
        needs: what it must be given. ``labels``: the batches hold them. ``gradients``: of the loss
            with respect to activations. ``parameter_gradients``: with respect to parameters.
            ``sampled``: gradients for labels drawn from the model itself. ``leaves``: inputs and
            output gradients of every module that owns parameters. ``data``: batches.
    """

    name: ClassVar[str]
    measure: ClassVar[str] = "1"
    direction: ClassVar[Direction] = "importance"
    needs: ClassVar[frozenset[Need]] = frozenset({"data"})

    def unmet(self, subject: Subject) -> str:
        """Returns why the method cannot run on ``subject``; empty if it can."""
        if "labels" in self.needs and not subject.has_labels:
            return "needs labels, and the batches have none"
        if "sampled" in self.needs and not subject.can_sample:
            return f"needs a distribution over answers, and task {subject.task.name} has none"
        if "parameter_gradients" in self.needs and not subject.trainable:
            return "needs parameters that require gradients, and all are frozen"
        return ""

    @abc.abstractmethod
    def passes(self, units: int) -> tuple[float, float]:
        """Returns forward and backward passes per batch beyond the common sweep's."""

    def result(
        self,
        scores: Mapping[str, Score],
        extras: Mapping[str, Mapping[str, float]] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> MethodScores:
        """Returns ``scores`` under the method's name, measure and direction."""
        return MethodScores(
            method=self.name,
            measure=self.measure,
            direction=self.direction,
            scores=scores,
            extras=extras or {},
            missing=missing or {},
        )


class SweepMethod(Method):
    """A method that listens to the common sweep and keeps sums: nothing of a batch survives it.

    Overridden among :meth:`unit`, :meth:`leaf` and :meth:`batch` is what it is called for. State is
    float64 tensors of fixed shapes; :meth:`merge` combines those of several processes.
    """

    def passes(self, units: int) -> tuple[float, float]:
        """None of its own: it shares the sweep's."""
        del units
        return 0.0, 0.0

    def begin(self, subject: Subject) -> None:
        """Called once, before the first batch."""

    def unit(self, event: UnitEvent) -> None:
        """Called for every unit and batch."""

    def leaf(self, event: LeafEvent) -> None:
        """Called for every module with parameters of its own, once its gradient is there."""

    def batch(self, event: BatchEvent) -> None:
        """Called after every batch."""

    @abc.abstractmethod
    def scores(self) -> MethodScores:
        """Returns what was seen so far."""

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Returns all that was kept, as float64 tensors."""

    @abc.abstractmethod
    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Adds the state of the same method over other batches."""


class MeanMethod(SweepMethod):
    """A sweep method whose columns are means over samples; the first column is the score.

    A subclass names its ``columns`` and gives :meth:`values`.
    """

    columns: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self) -> None:
        self._moments: dict[str, Moments] = {}

    @abc.abstractmethod
    def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
        """Returns ``[N]`` values for each of ``columns``."""

    def unit(self, event: UnitEvent) -> None:
        """Adds the batch's values to the unit's moments."""
        for column, values in zip(self.columns, self.values(event), strict=True):
            self.column(event.unit, column).add(values)

    def column(self, unit: Unit, column: str) -> Moments:
        """Returns the moments of one column of one unit."""
        return self._moments.setdefault(f"{unit.name}/{column}", Moments())

    def scores(self) -> MethodScores:
        """Means with their standard errors."""
        columns: dict[str, dict[str, Moments]] = {column: {} for column in self.columns}
        for key, moments in self._moments.items():
            name, _, column = key.rpartition("/")
            if moments.count:
                columns[column][name] = moments
        first, *others = self.columns
        scores = {name: Score.of(moments) for name, moments in columns[first].items()}
        extras = {c: {name: float(m.mean) for name, m in columns[c].items()} for c in others}
        return self.result(scores, extras)

    def state(self) -> dict[str, Tensor]:
        """Counts, means and squared deviations of every column of every unit."""
        return {
            f"{key}/{part}": tensor
            for key, moments in self._moments.items()
            for part, tensor in moments.state().items()
        }

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Combines moments, exactly as if all samples had come here."""
        keys = {name.rpartition("/")[0] for name in state}
        for key in sorted(keys):
            parts = {part: state[f"{key}/{part}"] for part in ("counts", "mean", "m2")}
            self._moments.setdefault(key, Moments()).merge(Moments.from_state(parts))


class PassMethod(Method):
    """A method that runs the model itself, as interventions do."""

    @abc.abstractmethod
    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Returns the scores; the model is preserved around the call, with gradients enabled.

        ``progress(what, done)`` is told how many batches are done.
        """
