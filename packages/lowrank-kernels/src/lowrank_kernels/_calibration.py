"""The measured times of one product, and what they say about a rank and a batch."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowrank_kernels._forms import DENSE, FACTORED, FORMS, FUSED, PACKED
from lowrank_kernels._machine import device_name

# a form that keeps a copy has to be this much faster than one that keeps none
WORTH = 0.01


class Key(NamedTuple):
    """Which product was measured: `n` to `m` features, factors of R directions.

    The device is called by its name, so that two kinds of one type are two.
    """

    n: int
    m: int
    R: int
    dtype: torch.dtype
    device: str

    @classmethod
    def of(cls, down: Tensor, up: Tensor) -> "Key":
        """Return the key of a pair of factors."""
        (R, n), m = down.shape, up.shape[0]
        return cls(n, m, R, down.dtype, device_name(down.device))

    def __str__(self) -> str:
        return f"{self.n}-{self.m}-{self.R}-{str(self.dtype).removeprefix('torch.')}-{self.device}"


class Calibration(NamedTuple):
    """Seconds of each form of a product on a grid of batches and ranks.

    Attributes:
        key: the product.
        batches: rows `[b]`, ascending.
        ranks: `[k]`, ascending.
        seconds: of each form `[b][k]`; of the dense form, which has no rank, `[b][1]`.
    """

    key: Key
    batches: tuple[int, ...]
    ranks: tuple[int, ...]
    seconds: Mapping[str, tuple[tuple[float, ...], ...]]

    def predict(self, rank: int, batch: int) -> dict[str, float]:
        """Return the seconds of each form at the measured batch that stands for `batch`.

        That is the largest measured one that is not above it, or the smallest. Between the
        measured ranks times are interpolated linearly, and held beyond them by the outer slope.
        """
        b = self.batches.index(self.stand_in(batch))
        return {
            form: rows[b][0] if form == DENSE else _interpolate(self.ranks, rows[b], rank)
            for form, rows in self.seconds.items()
        }

    def stand_in(self, batch: int) -> int:
        """Return the measured batch that stands for `batch`."""
        return self.batches[max(bisect_right(self.batches, batch) - 1, 0)]

    def covers(self, batch: int) -> bool:
        """Tell whether a batch is less than four times the largest measured one.

        Beyond that multiplications count for more than what was measured with few rows.
        """
        return batch < 4 * self.batches[-1]

    def order(self, rank: int, batch: int) -> tuple[str, ...]:
        """Return the forms from best to worst; what keeps no copy wins within 1 %."""
        times = self.predict(rank, batch)
        return tuple(sorted(times, key=lambda form: times[form] * _price(form)))

    def break_even(self, batch: int) -> int | None:
        """Return the least rank at which the dense product wins; None if none up to R does."""
        ranks = range(self.key.R + 1)
        return next((r for r in ranks if self.order(r, batch)[0] == DENSE), None)

    def to_json(self) -> dict[str, Any]:
        """Return the table in plain numbers."""
        return {
            "batches": list(self.batches),
            "ranks": list(self.ranks),
            "seconds": {form: [list(row) for row in rows] for form, rows in self.seconds.items()},
        }

    @classmethod
    def from_json(cls, key: Key, table: Any) -> "Calibration":
        """Return what `to_json` was given; raise ValueError for anything else."""
        try:
            batches, ranks = tuple(table["batches"]), tuple(table["ranks"])
            seconds = {f: tuple(map(tuple, rows)) for f, rows in table["seconds"].items()}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"table of {key} must have batches, ranks and seconds") from error
        _check(key, batches, ranks, seconds)
        return cls(key, batches, ranks, seconds)


def _price(form: str) -> float:
    return 1 + WORTH if form in (DENSE, PACKED) else 1.0


def _interpolate(xs: tuple[int, ...], ys: tuple[float, ...], x: int) -> float:
    if len(xs) == 1:
        return ys[0]
    i = min(max(bisect_right(xs, x), 1), len(xs) - 1)
    slope = (ys[i] - ys[i - 1]) / (xs[i] - xs[i - 1])
    # noise may tilt the outer slope, but no time is below all that were measured, halved
    return max(ys[i - 1] + slope * (x - xs[i - 1]), 0.5 * min(ys))


def _check(key: Key, batches: Any, ranks: Any, seconds: Any) -> None:
    for name, grid in (("batches", batches), ("ranks", ranks)):
        whole = all(type(v) is int and v > 0 for v in grid)
        if not (grid and whole and list(grid) == sorted(set(grid))):
            raise ValueError(f"{name} of {key} must be ascending ints, got {list(grid)!r}")
    known = set(FORMS) - ({FUSED} if key.device == "cpu" else set())
    if not {DENSE, FACTORED, PACKED} <= set(seconds) <= known:
        raise ValueError(f"seconds of {key} must be of {FORMS}, got {sorted(map(str, seconds))}")
    for form, rows in seconds.items():
        width = 1 if form == DENSE else len(ranks)
        times = [t for row in rows for t in row]
        if len(rows) != len(batches) or any(len(row) != width for row in rows):
            raise ValueError(f"seconds of {key}, {form}, must be {len(batches)} rows of {width}")
        if not all(type(t) is float and math.isfinite(t) and t > 0 for t in times):
            raise ValueError(f"seconds of {key}, {form}, must be positive numbers")
