"""Rows per second and error of Frequent Directions against its alternatives, as ratios in one run.

    python packages/fd-sketch/benchmarks/bench_fd.py [--repeats 3] [--rows 2048] [--csv PATH]
        [--features 512 1024 2048 4096] [--sizes 32 64 128 256]

Float32 rows of correlated, rectified features, one thread, methods interleaved, medians. `row
append` is the shipped reference: rows enter one by one, a singular value decomposition when the
buffer of 2 l is full. `X'X` is the plain product in float32, the least any exact method can do.
The columns: rows per second, times the speed of `row append` (median of paired ratios), and, up to
1024 features, true error ||C - B'B||_2 and certificate Delta, both over the bound of the theorem,
min_k ||A - A_k||_F^2 / (l + 1 - k). `bench_fd_error.py` has the errors of more families.
"""

import argparse
import csv
import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read once, when numpy loads its BLAS

import numpy as np  # noqa: E402

from fd_sketch import (  # noqa: E402
    ExactGram,
    FrequentDirections,
    frequent_directions_reference,
)

try:
    from sklearn.decomposition import IncrementalPCA
except ImportError:
    IncrementalPCA = None

LARGEST = 1024  # features, of which the true error is computed in a reasonable time


class Row(NamedTuple):
    """One line of the table."""

    d: int
    l: int  # noqa: E741 - the paper's letter
    method: str
    rows_per_s: float
    times_reference: float
    error_over_bound: float | None
    delta_over_theory: float | None


def features(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Return rows like the activations of a network: decaying spectrum, mixed, rectified."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    scales = np.arange(1, d + 1) ** -0.7
    return np.maximum((rng.standard_normal((n, d)) * scales) @ Q, 0.0).astype(np.float32)


def fd(X: np.ndarray, size: int, extra: int | None) -> tuple[np.ndarray, float]:
    """Return sketch and bound of this package."""
    sketch = FrequentDirections(X.shape[1], size, buffer_size=extra).partial_fit(X)
    return sketch.sketch(), sketch.error_bound()


def exact(X: np.ndarray) -> tuple[None, None]:
    """Take the exact second moment of this package."""
    ExactGram(X.shape[1]).partial_fit(X)
    return None, None


def gram(X: np.ndarray) -> tuple[None, None]:
    """Take the plain product."""
    X.T @ X
    return None, None


def pca(X: np.ndarray, size: int) -> tuple[None, None]:
    """Take scikit-learn's incremental principal components, in the batches that suit it best."""
    IncrementalPCA(size, batch_size=2 * size).fit(X)
    return None, None


def methods(
    X: np.ndarray, size: int
) -> dict[str, Callable[[], tuple[np.ndarray | None, float | None]]]:
    """Return what is compared, the baseline first."""
    chosen = {
        "row append": lambda: frequent_directions_reference(X, size),
        "fd": lambda: fd(X, size, None),
        "fd, buffer l": lambda: fd(X, size, size),
        "fd, buffer 3l": lambda: fd(X, size, 3 * size),
        "ExactGram": lambda: exact(X),
        "X'X": lambda: gram(X),
    }
    if IncrementalPCA is not None:
        chosen["IncrementalPCA"] = lambda: pca(X, size)
    return chosen


def measure(n: int, d: int, size: int, repeats: int) -> Iterator[Row]:
    """Yield one row for each method, timed in turns."""
    X = features(n, d)
    chosen = methods(X, size)
    results = {name: run() for name, run in chosen.items()}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(repeats):
        for name, run in chosen.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    base = times["row append"]
    for name, (B, Delta) in results.items():
        ratio = statistics.median(b / t for b, t in zip(base, times[name], strict=True))
        speed = n / statistics.median(times[name])
        yield Row(d, size, name, speed, ratio, *errors(X, B, Delta, size))


def errors(
    X: np.ndarray, B: np.ndarray | None, Delta: float | None, size: int
) -> tuple[float | None, float | None]:
    """Return the true error and Delta over the best a-priori bound of the theorem."""
    if B is None or Delta is None or X.shape[1] > LARGEST:
        return None, None
    C = X.astype(np.float64).T @ X.astype(np.float64)
    lam = np.linalg.eigvalsh(C)[::-1]
    tails = lam.sum() - np.concatenate([[0.0], np.cumsum(lam)])[: size + 1]
    theory = float(min(tails / (size + 1 - np.arange(size + 1))))
    B64 = B.astype(np.float64)
    error = float(np.linalg.eigvalsh(C - B64.T @ B64)[-1])
    return error / theory, Delta / theory


def bench_frequent_directions() -> None:
    """Print the table from a process of its own, where BLAS is not loaded yet."""
    subprocess.run([sys.executable, __file__], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--features", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(
        f"{'d':>5} {'l':>4} {'method':<15} {'rows/s':>8} {'x append':>9} {'error':>6} {'Delta':>6}"
    )
    for d, size in itertools.product(options.features, options.sizes):
        for row in measure(options.rows, d, size, options.repeats):
            rows.append(row)
            shown = ["     -" if v is None else f"{v:6.3f}" for v in row[5:]]
            line = f"{row.d:5} {row.l:4} {row.method:<15} {row.rows_per_s:8.0f}"
            print(line, f"{row.times_reference:9.2f}", *shown, flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(
                [*row[:3], *("" if v is None else f"{v:.4g}" for v in row[3:])] for row in rows
            )


if __name__ == "__main__":
    main()
