"""The measured times of one product, and what they say about a rank and a batch."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowrank_kernels import _checks
from lowrank_kernels._forms import DENSE, FACTORED, FORMS, FUSED, MASKED, PACKED, STAIRCASE
from lowrank_kernels._geometry import Images
from lowrank_kernels._machine import device_name

# a packed copy has to be this much faster than views
WORTH = 0.01
# and factors that much faster than dense: about the break-even times differ by less than they
# scatter, and no slower than dense is what is promised; the more where they take no fewer
# multiplications, so that only a large difference can be meant
MARGIN, AGAINST_COUNTING = 0.04, 0.12


class Key(NamedTuple):
    """Which product was measured: `n` to `m` features, factors of R directions.

    The device is called by its name, so that two kinds of one type are two. Of a convolution a
    feature is a number of a patch, `c·kh·kw`, or a channel that comes out, each of a group.
    """

    n: int
    m: int
    R: int
    dtype: torch.dtype
    device: str
    images: Images | None = None
    samples: bool = False  # a rank for each row

    @classmethod
    def of(cls, down: Tensor, up: Tensor) -> "Key":
        """Return the key of a pair of factors; raise for what is none."""
        _checks.check_factors(down, up, None)
        (R, n), m = down.shape, up.shape[0]
        return cls(n, m, R, down.dtype, device_name(down.device))

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        product = f"{self.n}-{self.m}-{self.R}-{kind}-{self.device}"
        product += "-samples" if self.samples else ""
        return product if self.images is None else f"{product}-{self.images}"


class Calibration(NamedTuple):
    """Seconds of each form of a product on a grid of batches and ranks.

    Attributes:
        key: the product.
        batches: rows `[b]`, ascending; of a convolution, images.
        ranks: `[k]`, ascending.
        seconds: of each form `[b][k]`; of the dense form, which has no rank, `[b][1]`.
    """

    key: Key
    batches: tuple[int, ...]
    ranks: tuple[int, ...]
    seconds: Mapping[str, tuple[tuple[float, ...], ...]]

    def predict(self, rank: float, batch: int) -> dict[str, float]:
        """Return the seconds of each form at the measured batch that stands for `batch`.

        That is the largest measured one that is not above it, or the smallest. Between the
        measured ranks times are interpolated linearly, and held beyond them by the outer slope.
        """
        b = self.batches.index(self.stand_in(batch))
        return {
            form: rows[b][0] if form == DENSE else _interpolate(self.ranks, rows[b], rank)
            for form, rows in self.seconds.items()
        }

    def predict_samples(self, mean: float, largest: int, batch: int) -> dict[str, float]:
        """Return the seconds of each form of a rank for each row.

        The mask costs what the largest rank does. The staircase was measured with ranks spread
        evenly over 1..r, and costs what such ranks of the same mean do, `r = 2 mean`.
        """
        at = {MASKED: largest, STAIRCASE: 2 * mean}
        return {form: self.predict(at[form], batch)[form] for form in self.seconds}

    def stand_in(self, batch: int) -> int:
        """Return the measured batch that stands for `batch`."""
        return self.batches[max(bisect_right(self.batches, batch) - 1, 0)]

    def covers(self, batch: int) -> bool:
        """Tell whether a batch is less than four times the largest measured one.

        Beyond that multiplications count for more than what was measured with few rows.
        """
        return batch < 4 * self.batches[-1]

    def order(self, rank: int, batch: int) -> tuple[str, ...]:
        """Return the forms from best to worst.

        Dense wins within 4 %, from the break-even of multiplications on within 12 %; views win
        over a copy that is not 1 % faster.
        """
        n, m, *_ = self.key
        margin = AGAINST_COUNTING if rank * (n + m) >= n * m else MARGIN
        price = {DENSE: 1 - margin, PACKED: 1 + WORTH}
        times = self.predict(rank, batch)
        return tuple(sorted(times, key=lambda form: times[form] * price.get(form, 1.0)))

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


def _interpolate(xs: tuple[int, ...], ys: tuple[float, ...], x: float) -> float:
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
    needed = {STAIRCASE, MASKED} if key.samples else {DENSE, FACTORED, PACKED}
    fused = set() if key.device == "cpu" or key.images or key.samples else {FUSED}
    if not needed <= set(seconds) <= needed | fused:
        forms = sorted(needed) if key.samples else FORMS
        raise ValueError(f"seconds of {key} must be of {forms}, got {sorted(map(str, seconds))}")
    for form, rows in seconds.items():
        width = 1 if form == DENSE else len(ranks)
        times = [t for row in rows for t in row]
        if len(rows) != len(batches) or any(len(row) != width for row in rows):
            raise ValueError(f"seconds of {key}, {form}, must be {len(batches)} rows of {width}")
        if not all(type(t) is float and math.isfinite(t) and t > 0 for t in times):
            raise ValueError(f"seconds of {key}, {form}, must be positive numbers")
