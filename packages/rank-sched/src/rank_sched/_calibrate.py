"""Fitting a roofline to measured times."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from rank_sched._layers import Floats

Roofline = tuple[float, float, float]  # peak, bandwidth, overhead


def fit_roofline(rows: Sequence[Sequence[float]] | ArrayLike, *, start: Roofline) -> Roofline:
    """Return peak, bandwidth and overhead of least relative squared error.

    With the bound of each row fixed, t = F/P or Q/BW, plus n·t0, is linear in 1/P, 1/BW and t0. The
    bound depends on the intensity F/Q alone, so N rows have N + 1 possible splits: all are tried,
    with all sets of positive unknowns, and judged by the true maximum.

    Args:
        rows: (flops, traffic_bytes, launches, latency_s), `[N, 4]`.
        start: The values that stay where the rows say nothing.
    """
    rows = _checked(rows)
    inverse = np.array([1 / start[0], 1 / start[1], start[2]])
    best = min(_candidates(rows, inverse), key=lambda found: _error(rows, found))
    return float(1 / best[0]), float(1 / best[1]), float(best[2])


def _checked(rows: Sequence[Sequence[float]] | ArrayLike) -> Floats:
    try:
        array = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            "measurements must be rows of four numbers (flops, traffic_bytes, launches, "
            f"latency_s), got {_first_odd(rows)}; rows of layers go into a PerfTable"
        ) from None
    if array.ndim != 2 or array.shape[1] != 4 or len(array) < 3:
        raise ValueError(
            "measurements must be at least 3 rows of (flops, traffic_bytes, launches, latency_s), "
            f"got shape {array.shape}"
        )
    if not np.isfinite(array).all() or array.min() < 0:
        raise ValueError("measurements must be finite and not negative")
    if array[:, 3].min() <= 0:
        raise ValueError(f"latency_s must be above 0 in every row, got {array[:, 3].min()}")
    if not array[:, :3].any():
        raise ValueError("measurements must hold some work, got flops, bytes and launches of 0")
    return array


def _first_odd(rows: object) -> str:
    """Say which row is not four numbers, as far as there are rows."""
    if not isinstance(rows, Sequence):
        return type(rows).__name__
    for row in rows:
        try:
            if np.asarray(row, dtype=np.float64).shape != (4,):
                return repr(row)
        except (TypeError, ValueError):
            return repr(row)
    return type(rows).__name__


def _candidates(rows: Floats, start: Floats) -> Iterator[Floats]:
    flops, traffic, launches, seconds = rows.T
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(-(flops / traffic))  # compute-bound first; nan, no work, last
    for split in range(len(rows) + 1):
        compute = np.isin(np.arange(len(rows)), order[:split])
        columns = np.stack([flops * compute, traffic * ~compute, launches], axis=1)
        yield from _positive_fits(columns / seconds[:, None], start)


def _positive_fits(columns: Floats, start: Floats) -> Iterator[Floats]:
    """Yield the least-squares solutions of columns @ x = 1 with x > 0, over subsets of columns."""
    present = np.flatnonzero(columns.any(axis=0))
    scale = np.linalg.norm(columns, axis=0)
    for size in range(1, len(present) + 1):
        for chosen in combinations(present.tolist(), size):
            used = list(chosen)
            scaled = columns[:, used] / scale[used]
            found = np.linalg.lstsq(scaled, np.ones(len(columns)), rcond=None)[0] / scale[used]
            if (found > 0).all():
                # no overhead found where launches vary means none, not the old one
                full = start * [1, 1, 2 not in present]
                full[used] = found
                yield full


def _error(rows: Floats, inverse: Floats) -> float:
    flops, traffic, launches, seconds = rows.T
    predicted = np.maximum(flops * inverse[0], traffic * inverse[1]) + launches * inverse[2]
    return float(((predicted / seconds - 1) ** 2).sum())
