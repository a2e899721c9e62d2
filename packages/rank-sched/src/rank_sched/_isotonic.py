"""Rising curves through noisy points."""

import numpy as np
from numpy.typing import ArrayLike

from rank_sched._layers import Floats


def isotonic(values: ArrayLike) -> Floats:
    """Return the never-falling sequence of least squared distance to `values`.

    Neighbours that fall are pooled into their mean until none do (Ayer et al. 1955, "pool adjacent
    violators"). Where one sequence is nowhere above another, so are their results.

    >>> isotonic([1.0, 3.0, 2.0, 4.0])
    array([1. , 2.5, 2.5, 4. ])
    """
    means: list[float] = []
    counts: list[int] = []
    for value in np.asarray(values, dtype=np.float64).tolist():
        mean, count = value, 1
        while means and means[-1] > mean:
            total = mean * count + means[-1] * counts[-1]
            count += counts.pop()
            mean = total / count
            means.pop()
        means.append(mean)
        counts.append(count)
    return np.repeat(means, counts)
