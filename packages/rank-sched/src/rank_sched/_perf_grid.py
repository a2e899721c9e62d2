"""What measurements of a layer say between them and beyond: a surface that never falls."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from rank_sched._isotonic import isotonic
from rank_sched._layers import Floats

Prior = Callable[[int, int | None], float]  # batch, rank -> what the roofline says


class Curve(NamedTuple):
    """Values over rank at one batch size, rising."""

    ranks: Floats
    values: Floats


class PerfGrid:
    """Values at every measured batch size and rank, and what follows from them elsewhere.

    Isotonic regression along the ranks and then along the batch sizes makes the values rise both
    ways; it keeps the order of two sequences, so the second undoes nothing of the first. What is
    derived from them rises as well: between them it is bilinear. Beyond the batches measured the
    values of the nearest one grow as the prior does at each rank, which may put them out of order,
    so they are regressed again, and likewise beyond the ranks. Beyond both, the value at the corner
    grows as the prior does, but stays on the right side of what is predicted at the two edges.

    Args:
        measured: By batch size, the values by rank.
    """

    def __init__(self, measured: Mapping[int, Mapping[int, float]]) -> None:
        self._batches = sorted(measured)
        self._ranks = sorted({rank for values in measured.values() for rank in values})
        self._curves = {batch: _curve(measured[batch]) for batch in self._batches}
        self._whole: Floats | None = None  # what no prior has a part in
        if all(len(values) == len(self._ranks) for values in measured.values()):
            self._whole = self._values(lambda batch, rank: 1.0)

    def at(self, batch: int, rank: int, prior: Prior) -> float:
        """Return the value at a batch size and a rank."""
        values = self._values(prior) if self._whole is None else self._whole
        b, r = _nearest(self._batches, batch), _nearest(self._ranks, rank)
        if r == rank:
            return self._along_ranks(values, batch, b, rank, prior)
        if b == batch:
            return self._along_batches(values, batch, rank, r, prior)
        edges = (
            (b < batch, self._along_batches(values, b, rank, r, prior)),
            (r < rank, self._along_ranks(values, batch, b, r, prior)),
        )
        corner = float(values[self._batches.index(b), self._ranks.index(r)])
        found = corner * _ratio(prior(batch, rank), prior(b, r))
        found = max([found, *(value for below, value in edges if below)])
        return min([found, *(value for below, value in edges if not below)])

    def _values(self, prior: Prior) -> Floats:
        """Return the values [batches, ranks], where a curve ends too early grown as the prior."""
        rows = [
            [_on(self._curves[batch], batch, rank, prior) for rank in self._ranks]
            for batch in self._batches
        ]
        return np.array([isotonic(column) for column in zip(*rows, strict=True)]).T

    def _along_ranks(self, values: Floats, batch: int, b: int, rank: int, prior: Prior) -> float:
        """Return the value at a rank among those measured; `b` is the nearest batch measured."""
        at = bisect_left(self._ranks, rank)
        if b == batch:  # two columns will do
            near = slice(at, at + 1) if self._ranks[at] == rank else slice(at - 1, at + 1)
            row = [float(np.interp(batch, self._batches, column)) for column in values[:, near].T]
            return float(np.interp(rank, self._ranks[near], row))
        edge = values[self._batches.index(b)]
        grown = [_ratio(prior(batch, k), prior(b, k)) for k in self._ranks]
        return float(np.interp(rank, self._ranks, isotonic(edge * grown)))

    def _along_batches(self, values: Floats, batch: int, rank: int, r: int, prior: Prior) -> float:
        """Return the value at a batch size among those measured; `r` is the nearest rank."""
        edge = values[:, self._ranks.index(r)]
        grown = [_ratio(prior(k, rank), prior(k, r)) for k in self._batches]
        return float(np.interp(batch, self._batches, isotonic(edge * grown)))


def _curve(values: Mapping[int, float]) -> Curve:
    ranks = sorted(values)
    return Curve(np.array(ranks, dtype=np.float64), isotonic([values[rank] for rank in ranks]))


def _on(curve: Curve, batch: int, rank: int, prior: Prior) -> float:
    inside = int(min(max(rank, curve.ranks[0]), curve.ranks[-1]))
    value = float(np.interp(inside, curve.ranks, curve.values))
    return value if inside == rank else value * _ratio(prior(batch, rank), prior(batch, inside))


def _nearest(measured: list[int], value: int) -> int:
    return min(max(value, measured[0]), measured[-1])


def _ratio(value: float, base: float) -> float:
    return value / base if base > 0 else 1.0
