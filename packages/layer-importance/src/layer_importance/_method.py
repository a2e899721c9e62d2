"""What a method is: what it reads, what it costs, what it says about each unit."""

import abc
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from layer_importance._events import BatchEvent, InputEvent, ParameterEvent, UnitEvent
from layer_importance._moments import Moments, moments_of
from layer_importance._reach import NOWHERE
from layer_importance._scores import Direction, MethodScores, Score, Table
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._units import Unit

Need = Literal[
    "data", "labels", "gradients", "parameter_gradients", "per_sample", "sampled", "exact"
]

OF_GRADIENTS = frozenset({"gradients", "parameter_gradients", "per_sample", "sampled", "exact"})
"""Needs that a loss without a gradient cannot meet."""


class Method(abc.ABC):
    """One way to score units. A method is made anew for each analysis.

    Attributes:
        name: by which it is asked for.
        measure: unit of measure of its values.
        direction: whether more means more important, or says nothing about that.
        needs: what it must be given. ``data``: batches. ``labels``: the batches hold them.
            ``gradients``: of the loss with respect to activations. ``parameter_gradients``: of the
            summed loss with respect to the parameters of units, in their ``.grad`` when
            :meth:`SweepMethod.batch` is called. ``per_sample``: of each sample's loss with respect
            to the parameters of units. ``sampled``, ``exact``: all of these not for the data's
            labels, but for labels drawn from the model, or for every possible label in turn.
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
        if "exact" in self.needs and type(subject.task).enumerate is Task.enumerate:
            return f"needs a list of all answers, and task {subject.task.name} has none"
        if self.needs & {"parameter_gradients", "per_sample"} and not subject.trainable:
            return "needs parameters that require gradients, and all are frozen"
        if self.needs & OF_GRADIENTS and not subject.reached.loss:
            return NOWHERE
        return ""

    @abc.abstractmethod
    def passes(self, units: int) -> tuple[float, float]:
        """Returns forward and backward passes per batch beyond the common sweep's."""

    def result(
        self,
        scores: Mapping[str, Score],
        extras: Mapping[str, Mapping[str, float]] | None = None,
        missing: Mapping[str, str] | None = None,
        tables: Mapping[str, Table] | None = None,
    ) -> MethodScores:
        """Returns ``scores`` under the method's name, measure and direction."""
        return MethodScores(
            method=self.name,
            measure=self.measure,
            direction=self.direction,
            scores=scores,
            extras=extras or {},
            tables=tables or {},
            missing=missing or {},
        )


class SweepMethod(Method):
    """A method that listens to the common sweep and keeps sums: nothing of a batch survives it.

    Overridden among :meth:`unit`, :meth:`parameters`, :meth:`input` and :meth:`batch` is what it is
    called for. State is float64 tensors of bounded size; :meth:`merge` combines those of several
    processes.
    """

    def passes(self, units: int) -> tuple[float, float]:
        """None of its own: it shares the sweep's."""
        del units
        return 0.0, 0.0

    def begin(self, subject: Subject) -> None:
        """Called once, before the first batch."""

    def hooks(self, subject: Subject) -> Iterable[RemovableHandle]:
        """Returns hooks of its own, put on modules when the sweep begins; it takes them off."""
        del subject
        return ()

    def before(self, batch: Any) -> None:
        """Called with every batch, before it goes through the model."""

    def unit(self, event: UnitEvent) -> None:
        """Called for every unit and batch."""

    def parameters(self, event: ParameterEvent) -> None:
        """Called for every unit and backward pass, if ``per_sample`` is needed."""

    def inputs(self, subject: Subject) -> Iterable[str]:
        """Returns paths of modules whose inputs and their gradients it wants to hear of."""
        del subject
        return ()

    def input(self, event: InputEvent) -> None:
        """Called for every call of those modules, once the gradient is there."""

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


class ColumnsMethod(SweepMethod):
    """A sweep method whose columns are means over samples; the first column is the score.

    A subclass names its ``columns`` and calls :meth:`add`.
    """

    columns: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self) -> None:
        self._moments: dict[str, Moments] = {}

    def add(self, unit: Unit, columns: Iterable[Tensor]) -> None:
        """Adds a batch's ``[N]`` values of each of ``columns`` to the unit's moments."""
        for column, values in zip(self.columns, columns, strict=True):
            self.column(unit, column).add(values)

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
        for key, moments in moments_of(state).items():
            self._moments.setdefault(key, Moments()).merge(moments)


class MeanMethod(ColumnsMethod):
    """One whose values come from the streams of units. A subclass gives :meth:`values`."""

    @abc.abstractmethod
    def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
        """Returns ``[N]`` values for each of ``columns``."""

    def unit(self, event: UnitEvent) -> None:
        """Adds the batch's values to the unit's moments."""
        self.add(event.unit, self.values(event))


class ParameterMethod(ColumnsMethod):
    """One whose values come from per-sample gradients of parameters."""

    @abc.abstractmethod
    def values(self, event: ParameterEvent) -> tuple[Tensor, ...]:
        """Returns ``[N]`` values for each of ``columns``."""

    def parameters(self, event: ParameterEvent) -> None:
        """Adds the batch's values to the unit's moments."""
        self.add(event.unit, self.values(event))


class PassMethod(Method):
    """A method that runs the model itself, as interventions do.

    Attributes:
        shares: whether several processes may run it on some of the batches each: whatever it keeps
            is put together by :meth:`Subject.share`, and random numbers depend on a batch's number.
    """

    shares: ClassVar[bool] = False

    @abc.abstractmethod
    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Returns the scores; the model is preserved around the call, with gradients enabled.

        ``progress(what, done)`` is told how many batches are done.
        """
