"""Exact statistics beside a sketch: mass, diagonal, mean and counts, all in float64."""

import math
from collections.abc import Callable
from typing import NamedTuple

from fd_sketch._arrays import Array, namespace


class Moments(NamedTuple):
    """What is known exactly of C = sum w x x', about the mean if the rows are centred."""

    mean: Array  # [d], of the weighted rows
    diagonal: Array  # [d], of C
    total: float  # trace of C
    weight: float  # sum of the weights
    n_seen: int  # rows taken in
    n_skipped: int  # non-finite rows left out

    def decayed(self, decay: float) -> "Moments":
        """Return the moments with all weights multiplied by `decay`."""
        if decay == 1.0:
            return self
        return self._replace(
            diagonal=self.diagonal * decay, total=self.total * decay, weight=self.weight * decay
        )

    def mapped(self, change: Callable[[Array], Array]) -> "Moments":
        """Return the moments with every array changed."""
        return self._replace(mean=change(self.mean), diagonal=change(self.diagonal))


def combine(a: Moments, b: Moments, *, center: bool) -> tuple[Moments, Array | None]:
    """Return the moments of both sets of rows, and the row that bridges their means.

    Two scatters about their own means add up to the scatter about the common mean with one
    more row, `sqrt(p q / (p + q)) (mean_a - mean_b)` for the weights p, q. Without centring, or
    where the row would be zero, there is none.
    """
    weight = a.weight + b.weight
    share = b.weight / weight if weight > 0.0 else 0.0
    gap = b.mean - a.mean  # [d]
    mean = a.mean + gap * share
    diagonal, total = a.diagonal + b.diagonal, a.total + b.total
    bridge = None
    # the product p q itself could leave the range of float64
    stretch = math.sqrt(a.weight) * math.sqrt(share)
    if center and stretch > 0.0:
        row = gap * stretch
        energy = row * row
        gained = float(namespace(energy).sum(energy))
        if gained > 0.0:
            bridge, diagonal, total = row, diagonal + energy, total + gained
    seen, skipped = a.n_seen + b.n_seen, a.n_skipped + b.n_skipped
    return Moments(mean, diagonal, total, weight, seen, skipped), bridge
