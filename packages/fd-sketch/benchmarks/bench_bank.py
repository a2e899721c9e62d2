"""A bank of sketches against a loop over as many: the same rows, the same sketches.

    python packages/fd-sketch/benchmarks/bench_bank.py [--device cuda] [--csv FILE]

Every figure is a ratio within one run: both take their turns and medians are compared. On the host
one thread is used, as many as a training process leaves to its hooks.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from fd_sketch import FrequentDirections, SketchBank

SHAPES = [(32, 256, 32, 256), (32, 64, 8, 64), (128, 64, 8, 16), (256, 32, 4, 8)]


class Row(NamedTuple):
    """One shape: sketches, features, rows of each, rows of a batch, and what was measured."""

    k: int
    d: int
    l: int  # noqa: E741 - the letter of the literature
    batch: int
    loop_ms: float
    bank_ms: float
    times_loop: float


def measure(k: int, d: int, size: int, n: int, device: str, repeats: int) -> Row:
    """Return the time of one call for all streams, after the sketches have filled up."""
    X = torch.randn(k, n, d, generator=torch.Generator().manual_seed(0)).to(device)
    loop = [FrequentDirections(d, size) for _ in range(k)]
    bank = SketchBank(k, d, size)

    def step_loop() -> None:
        for sketch, rows in zip(loop, X, strict=True):
            sketch.partial_fit(rows)

    # enough calls for shrinks to come as often as they do in the long run
    calls = max(4, -(-8 * size // n))
    times = timed([step_loop, lambda: bank.partial_fit(X)], calls, repeats, device)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    loop_ms, bank_ms = (1e3 * statistics.median(t) / calls for t in times)
    return Row(k, d, size, n, loop_ms, bank_ms, ratio)


def timed(
    steps: list[Callable[[], object]], calls: int, repeats: int, device: str
) -> list[list[float]]:
    """Return the seconds of `calls` calls of each step, in turns, the first turn left out."""
    times: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 1):
        for step, seconds in zip(steps, times, strict=True):
            start = time.perf_counter()
            for _ in range(calls):
                step()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds.append(time.perf_counter() - start)
    return times


def bench_sketch_bank() -> None:
    """Print the table from a process of its own, where BLAS is not loaded yet."""
    subprocess.run([sys.executable, __file__], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {where}")
    print(f"{'k':>4} {'d':>5} {'l':>4} {'batch':>6} {'loop ms':>8} {'bank ms':>8} {'x loop':>7}")
    rows = []
    for shape in SHAPES:
        row = measure(*shape, options.device, options.repeats)
        rows.append(row)
        print(
            f"{row.k:4} {row.d:5} {row.l:4} {row.batch:6} {row.loop_ms:8.2f} "
            f"{row.bank_ms:8.2f} {row.times_loop:7.2f}",
            flush=True,
        )
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows([*row[:4], *(f"{v:.4g}" for v in row[4:])] for row in rows)


if __name__ == "__main__":
    main()
