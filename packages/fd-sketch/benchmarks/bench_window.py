"""A sliding window against decay and against keeping the rows: time, memory, error.

    python packages/fd-sketch/benchmarks/bench_window.py [--repeats 5]

The stream turns from one set of directions to another every 3000 rows. *Speed* is relative to
`FrequentDirections` with a decay of the same reach in the same run; *error* is the norm of the
difference to the moment of the window, over its mass divided by l, at the end of the stream.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from fd_sketch import FrequentDirections, SlidingFrequentDirections

ROWS, BATCH = 12_500, 100


def turning(d: int) -> np.ndarray:
    """Return float32 rows with a decaying spectrum, whose directions change every 3000 rows."""
    rng = np.random.default_rng(0)
    parts = []
    for start in range(0, ROWS, 3000):
        Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
        n = min(3000, ROWS - start)
        parts.append(rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 @ Q)
    return np.concatenate(parts).astype(np.float32)


def batches(X: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows as they come."""
    for start in range(0, len(X), BATCH):
        yield X[start : start + BATCH]


def measure(d: int, size: int, window: int, repeats: int) -> None:
    """Print one line for each method."""
    X = turning(d)
    W = X[-window:].astype(np.float64)
    C, F = W.T @ W, float(np.sum(W * W))
    chosen: dict[str, Callable[[], Any]] = {
        "decay": lambda: FrequentDirections(d, size, decay=1 - BATCH / window),
        "window": lambda: SlidingFrequentDirections(d, size, window),
    }
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(repeats):
        for name, make in chosen.items():
            sketch, start = make(), time.perf_counter()
            for batch in batches(X):
                sketch.partial_fit(batch)
            times[name].append(time.perf_counter() - start)
            chosen_B = sketch.sketch().astype(np.float64)
            if len(times[name]) == repeats:
                error = np.linalg.norm(C - chosen_B.T @ chosen_B, 2) / F * size
                stored = getattr(sketch, "n_rows_stored", 3 * size)
                pairs = zip(times["decay"], times[name], strict=True)
                speed = statistics.median(a / b for a, b in pairs)
                print(f"{d:5} {size:4} {window:7} {name:<8} {speed:6.2f} {stored:7} {error:7.2f}")


def bench_window() -> None:
    """Print the table from a process of its own, where BLAS is not loaded yet."""
    subprocess.run([sys.executable, __file__], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"{'d':>5} {'l':>4} {'window':>7} {'method':<8} {'speed':>6} {'rows':>7} {'error':>7}")
    for d, size, window in ((256, 32, 1000), (256, 32, 4000)):
        measure(d, size, window, options.repeats)


if __name__ == "__main__":
    main()
