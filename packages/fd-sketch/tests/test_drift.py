"""A stream that turns away from its first directions: truncation fails, shrinking does not."""

import numpy as np

from fd_sketch import FrequentDirections
from fd_sketch.testing import exact_moments


def drifting(size, d, n):
    """Rows of `size` strong directions, then n rows of one that is always a bit weaker."""
    strong = np.eye(d)[:size] * np.sqrt(size)
    return np.concatenate([strong, np.tile(0.9 * np.eye(d)[size], (n, 1))])


def test_truncation_never_learns_a_direction_that_stays_weaker_in_every_batch(kind):
    X = drifting(8, 30, 400)
    C = exact_moments([X])[0]
    truncated = FrequentDirections(30, 8, buffer_size=8, alpha=0.0).partial_fit(kind.array(X))
    B = np.asarray(truncated.sketch(), dtype=np.float64)
    error = np.linalg.eigvalsh(C - B.T @ B)[-1]
    assert error > 0.99 * 0.81 * 400
    assert error > np.trace(C) / 2
    # it fails, and says so
    assert truncated.error_bound() >= error - 100 * kind.eps * np.trace(C)


def test_frequent_directions_learns_it(kind):
    X = drifting(8, 30, 400)
    C = exact_moments([X])[0]
    sketch = FrequentDirections(30, 8, buffer_size=8).partial_fit(kind.array(X))
    B = np.asarray(sketch.sketch(), dtype=np.float64)
    error = np.linalg.eigvalsh(C - B.T @ B)[-1]
    room = 100 * kind.eps * np.trace(C)
    assert error <= sketch.error_bound() + room
    # the theorem with k = 1: all but the new direction, over the size
    assert sketch.error_bound() <= 8 * 8 / 8 + room
    assert np.argmax(np.diag(B.T @ B)) == 8
