"""Slopes of noisy traces, with how sure they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Slope:
    """A slope for each step.

    Attributes:
        value: the median of the slopes of all pairs.
        low: a bound that the true slope is above with the confidence asked for.
        high: one that it is below.
        level: the median of the trace.
    """

    value: float
    low: float
    high: float
    level: float


def slope_of(trace: Sequence[float], *, blocks: int = 24, confidence: float = 0.98) -> Slope:
    """Returns the Theil-Sen slope of a trace, smoothed by the means of blocks.

    Means of blocks, unlike moving averages, keep the noise of one point apart from that of the
    next, so that the bounds are right.

    Source: Sen, estimates of the regression coefficient based on Kendall's tau (JASA 1968).
    """
    values = np.asarray(trace, dtype=np.float64)
    size = max(len(values) // blocks, 1)
    kept = values[len(values) % size if size > 1 else 0 :]
    means = kept.reshape(-1, size).mean(1)
    found = stats.theilslopes(means, np.arange(len(means)) * float(size), alpha=confidence)
    level = float(np.median(means))
    return Slope(float(found[0]), float(found[2]), float(found[3]), level)
