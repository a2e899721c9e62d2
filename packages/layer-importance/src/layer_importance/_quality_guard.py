"""Whether shortened answers are still what the whole model would say."""

import math
import threading

from torch import Tensor

from layer_importance._task import logits


class QualityGuard:
    """Watches how far shortened answers are from whole ones, and says when that is too far.

    A cumulative sum: for distances ``d`` in 0..1,
    ``S <- max(0, S + d ln(p1/p0) + (1 - d) ln((1-p1)/(1-p0)))`` with ``p0 = allowed`` and
    ``p1 = broken``, and an alarm at ``S >= ln false_alarm_every``. As long as the mean distance is
    at most ``allowed``, the mean number of samples until a false alarm is at least
    ``false_alarm_every``, for distances of any distribution: the exponential of a step has mean at
    most 1, by convexity. At a mean distance of ``broken`` or more an alarm takes about
    ``ln(false_alarm_every) / KL(p1, p0)`` samples.

    Safe under threads.

    Args:
        allowed: mean distance that is fine.
        broken: mean distance that must be noticed soon.
        false_alarm_every: samples between false alarms, at least, on average.

    Raises:
        ValueError: if not ``0 < allowed < broken < 1``, or ``false_alarm_every`` is below 1.

    Source: Page (1954); the bound on false alarms: Lorden (1971), theorem 2.

    Example:
        >>> import torch
        >>> guard = QualityGuard(allowed=0.02, broken=0.2)
        >>> guard.observe(torch.zeros(100)), guard.observe(torch.ones(10))
        (False, True)
    """

    def __init__(
        self, *, allowed: float = 0.02, broken: float = 0.1, false_alarm_every: float = 10_000
    ) -> None:
        if not 0 < allowed < broken < 1:
            raise ValueError(f"must be 0 < allowed < broken < 1, got {allowed} and {broken}")
        if not 1 <= false_alarm_every < math.inf:
            raise ValueError(f"false_alarm_every must be at least 1, got {false_alarm_every}")
        self._far = math.log(broken / allowed)
        self._near = math.log((1 - broken) / (1 - allowed))
        self._limit = math.log(false_alarm_every)
        self._sum = 0.0
        self.samples = self.alarms = 0
        self._lock = threading.Lock()

    def observe(self, distances: Tensor) -> bool:
        """Takes distances ``[N]`` into account, in order; returns whether there was an alarm.

        After an alarm the sum begins anew. A distance that is not a number is 1: an answer that
        cannot be compared is not fine.

        Raises:
            ValueError: if they are no vector, or outside of 0..1.
        """
        if distances.ndim != 1:
            raise ValueError(f"distances must be [N], got {list(distances.shape)}")
        values = distances.detach().double().nan_to_num(nan=1.0).tolist()
        if any(not 0 <= value <= 1 for value in values):
            raise ValueError(f"distances must be in 0..1, got {distances.tolist()}")
        with self._lock:
            alarms = self.alarms
            for value in values:
                self._step(value)
            return self.alarms > alarms

    def _step(self, distance: float) -> None:
        self.samples += 1
        step = distance * self._far + (1 - distance) * self._near
        self._sum = max(0.0, self._sum + step)
        if self._sum >= self._limit:
            self.alarms += 1
            self._sum = 0.0


def disagreement(output: object, full: object) -> Tensor:
    """Returns the share of each sample's answers that differ, ``[N]``: the largest logits'.

    >>> import torch
    >>> disagreement(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.eye(2)).tolist()
    [1.0, 1.0]
    """
    short, whole = logits(output), logits(full)
    differs = (short.argmax(-1) != whole.argmax(-1)).double()
    return differs.reshape(len(differs), -1).mean(1)
