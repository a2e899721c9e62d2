"""Growth that is undone when the performance falls after it."""

from dataclasses import dataclass, field, replace
from math import inf, isnan

from torch import Tensor

from neuro_morph._back_off import BackOff
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._morpher import Morpher
from neuro_morph._snapshot import Snapshot


@dataclass
class _Held:
    """A run as it was before it grew."""

    snapshot: Snapshot
    numbers: Tensor
    steps: int
    performance: float
    events: list[MorphogenesisEvent] = field(default_factory=list)


class Rollback:
    """Compares the performance after growth with that before, and puts the run back if it fell.

    Args:
        enabled: whether anything is put back.
        threshold: how far the performance has to fall.
        pause: epochs without growth after a rollback; they double with each in a row.
    """

    def __init__(self, *, enabled: bool, threshold: float, pause: int) -> None:
        self.enabled, self.threshold = enabled, threshold
        self.back_off = BackOff(pause)
        self.performance: list[float] = []
        self.resumes = 0  # the epoch from which on growth is tried again
        self._held: _Held | None = None

    def hold(self, morpher: Morpher) -> None:
        """Keeps a run as it is, before it grows; what is kept already stays."""
        if self.enabled and self._held is None and self.performance:
            self._held = _Held(
                morpher.snapshot(),
                morpher.generator.get_state(),
                len(morpher.spec.steps),
                self.performance[-1],
            )

    def grown(self, events: list[MorphogenesisEvent]) -> None:
        """Notes what was done since; with nothing done nothing has to be kept."""
        if self._held is not None:
            self._held.events += events
            if not self._held.events:
                self._held = None

    def judge(self, value: float, morpher: Morpher | None, epoch: int) -> list[MorphogenesisEvent]:
        """Takes the performance of an epoch; returns the events of what was put back.

        A performance that is not a number is the worst there is, and is not compared with later.

        Args:
            value: the performance, the larger the better.
            morpher: the run, None if it has not grown yet.
            epoch: the last epoch that growth was asked for in.
        """
        value = -inf if isnan(value) else value
        held, self._held = self._held, None
        undone: list[MorphogenesisEvent] = []
        if held is not None and morpher is not None:
            if held.performance - value > self.threshold:
                undone = self._put_back(held, value, morpher, epoch)
                value = held.performance
            else:
                self.back_off.succeeded()
        if value > -inf:
            self.performance.append(value)
        return undone

    def _put_back(
        self, held: _Held, value: float, morpher: Morpher, epoch: int
    ) -> list[MorphogenesisEvent]:
        held.snapshot.restore()
        morpher.generator.set_state(held.numbers)
        del morpher.spec.steps[held.steps :]
        morpher._graph = None
        why = f"the performance fell from {held.performance:.6g} to {value:.6g}"
        undone = [_undone(event, why) for event in reversed(held.events)]
        for k, event in enumerate(undone):
            undone[k] = replace(event, id=len(morpher.events))
            morpher.note(undone[k])
        self.back_off.failed(epoch, *((event.op, event.target) for event in undone))
        self.resumes = epoch + self.back_off.now
        return undone


def _undone(event: MorphogenesisEvent, why: str) -> MorphogenesisEvent:
    return replace(
        event,
        decision="rolled back",
        why_not=why,
        parameters_before=event.parameters_after,
        parameters_after=event.parameters_before,
        flops_before=event.flops_after,
        flops_after=event.flops_before,
        absolute_change=None,
        relative_change=None,
        attributes=tuple((path, name, new, old) for path, name, old, new in event.attributes),
        seconds={},
        parent=event.id,
    )
