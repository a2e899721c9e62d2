"""Means over seeds, and how sure they are."""

import math
from collections.abc import Sequence
from statistics import stdev

LEVEL = 0.95


def interval(values: Sequence[float]) -> float | None:
    """Returns half the width of the 95 % interval of a mean, by Student's t; None for one value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)  # 4.303 / sqrt(3)
    2.484
    """
    if len(values) < 2:
        return None
    return t_quantile((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def t_quantile(p: float, degrees: int) -> float:
    """Returns the quantile of Student's t for a probability in 0.5..1.

    >>> round(t_quantile(0.975, 4), 3)
    2.776
    """
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, degrees) < p else (low, middle)
    return high


def t_probability(t: float, degrees: int) -> float:
    """Returns the probability that Student's t is at most `t >= 0`.

    The finite sums of Abramowitz & Stegun 1964, 26.7.3 and 26.7.4, exact for whole degrees.
    """
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return 0.5 + inside / 2
