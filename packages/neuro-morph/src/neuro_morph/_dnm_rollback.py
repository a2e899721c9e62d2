"""Growth that is undone when the performance falls after it."""

from dataclasses import dataclass
from math import inf, isnan

from neuro_morph._back_off import BackOff
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._morpher import Morpher
from neuro_morph._run_snapshot import RunSnapshot


@dataclass
class _Held:
    """A run as it was before it grew."""

    snapshot: RunSnapshot
    performance: float


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
            self._held = _Held(morpher.snapshot(), self.performance[-1])

    def let_go(self) -> None:
        """Drops what is kept if nothing has grown since."""
        if self._held is not None and not self._held.snapshot.grown():
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
        first = len(morpher.events)
        held.snapshot.restore(f"the performance fell from {held.performance:.6g} to {value:.6g}")
        undone = morpher.events[first:]
        self.back_off.failed(epoch, *((event.op, event.target) for event in undone))
        self.resumes = epoch + self.back_off.now
        return undone
