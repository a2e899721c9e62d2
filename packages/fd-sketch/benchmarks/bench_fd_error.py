"""Error and certificate of Frequent Directions over the bound of the theorem, on six families.

    python packages/fd-sketch/benchmarks/bench_fd_error.py [--csv PATH]

4096 float32 rows of each family, taken in in batches of 128. The columns: the true error
`||C - B'B||_2`, that of the compensated estimate `B'B + Delta/2 I` and the certificate Delta, each
over the bound of the theorem for alpha = 1, min_k ||A - A_k||_F^2 / (l + 1 - k); the Delta of
8 merged shards over that of a single pass; and two floors, over the same bound. *Rank* is
lambda_{l+1}(C), which any l rows B with B'B <= C lack at least. *Shrink* is the mass that the
sketch has lost over alpha l + b: a shrink that lowers by delta takes no more than that times delta,
so that no Delta of this loss is smaller. The last lines are medians over the families.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read once, when numpy loads its BLAS

import numpy as np  # noqa: E402

from fd_sketch import FrequentDirections  # noqa: E402

ROWS, BATCH, SHARDS = 4096, 128, 8
SHAPES = ((512, 32), (1024, 64))


class Row(NamedTuple):
    """One line of the table."""

    d: int
    l: int  # noqa: E741 - the paper's letter
    method: str
    family: str
    error_over_bound: float
    robust_over_bound: float
    delta_over_bound: float
    merged_over_single: float
    rank_floor: float
    shrink_floor: float


def power_law(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return rows of a decaying spectrum in general position."""
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return (rng.standard_normal((ROWS, d)) * np.arange(1, d + 1) ** -0.7) @ Q


def rectified(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return rows like the activations of a network: none is negative."""
    return np.maximum(power_law(rng, d), 0.0)


def outliers(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return rows of which one column in 64 is twenty times as large as the others."""
    return rectified(rng, d) * np.where(rng.permutation(d) < d // 64, 20.0, 1.0)


def log_normal(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return rows with columns of all sizes."""
    return rectified(rng, d) * np.exp(1.5 * rng.standard_normal(d))


def low_rank(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return rows of 20 directions of equal strength, and noise."""
    X = rng.standard_normal((ROWS, 20)) @ rng.standard_normal((20, d))
    return X + rng.standard_normal((ROWS, d))


def drifting(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return rows whose strong directions move on through the columns."""
    X = rng.standard_normal((ROWS, d)) * np.arange(1, d + 1) ** -0.7
    columns = (np.arange(d) + np.arange(ROWS)[:, None] * d // (2 * ROWS)) % d
    return np.take_along_axis(X, columns, axis=1)


FAMILIES: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    *(power_law, rectified, outliers, log_normal, low_rank, drifting),
)
METHODS: dict[str, dict[str, Any]] = {
    "buffer l": {"times": 1},
    "buffer 2l": {"times": 2},
    "buffer 3l": {"times": 3},
    "buffer 2l, alpha 0.2": {"times": 2, "alpha": 0.2},
    "buffer 2l, alpha 0": {"times": 2, "alpha": 0.0},
}


def fed(X: np.ndarray, size: int, *, times: int, alpha: float = 1.0) -> FrequentDirections:
    """Return the sketch of rows that came in batches."""
    sketch = FrequentDirections(X.shape[1], size, buffer_size=times * size, alpha=alpha)
    for start in range(0, len(X), BATCH):
        sketch.partial_fit(X[start : start + BATCH])
    return sketch


def measure(d: int, size: int) -> Iterator[Row]:
    """Yield one row for each family and method."""
    for make in FAMILIES:
        X = make(np.random.default_rng(0), d).astype(np.float32)
        C = X.astype(np.float64).T @ X.astype(np.float64)
        lam = np.linalg.eigvalsh(C)[::-1]
        tails = lam.sum() - np.concatenate([[0.0], np.cumsum(lam)])[: size + 1]
        bound = float(min(tails / (size + 1 - np.arange(size + 1))))
        for name, options in METHODS.items():
            sketch = fed(X, size, **options)
            B, Delta = sketch.sketch().astype(np.float64), sketch.error_bound()
            error = float(np.linalg.eigvalsh(C - B.T @ B)[-1])
            robust = max(error - Delta / 2, Delta / 2)
            merged = fed(X[::SHARDS], size, **options)
            for i in range(1, SHARDS):
                merged.merge(fed(X[i::SHARDS], size, **options))
            lowered = size * options.get("alpha", 1.0) + sketch.buffer_size
            floors = lam[size] / bound, sketch.residual_mass() / lowered / bound
            ratios = (error / bound, robust / bound, Delta / bound, merged.error_bound() / Delta)
            yield Row(d, size, name, make.__name__, *ratios, *map(float, floors))


def medians(rows: list[Row]) -> Iterator[Row]:
    """Yield the median over the families for each method."""
    for d, size in SHAPES:
        for name in METHODS:
            chosen = [row[4:] for row in rows if row[:3] == (d, size, name)]
            middle = [statistics.median(column) for column in zip(*chosen, strict=True)]
            yield Row(d, size, name, "median", *middle)


def bench_errors() -> None:
    """Print the table from a process of its own, where BLAS is not loaded yet."""
    subprocess.run([sys.executable, __file__], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    print(
        f"{'d':>5} {'l':>4} {'method':<21} {'family':<10} error robust  Delta merged   rank shrink"
    )
    rows = [row for d, size in SHAPES for row in measure(d, size)]
    rows += medians(rows)
    for row in rows:
        shown = " ".join(f"{value:6.3f}" for value in row[4:])
        print(f"{row.d:5} {row.l:4} {row.method:<21} {row.family:<10} {shown}", flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows([*row[:4], *(f"{v:.4g}" for v in row[4:])] for row in rows)


if __name__ == "__main__":
    main()
