"""What the benchmarks on the CPU share: candidates that take turns, ratios, rows, a command line.

All candidates of a row are timed in turn, many times over, in one process and in an order drawn
anew each round; a ratio is the median over the rounds of the ratio within a round, so that what
else the machine does falls out.
"""

import argparse
import csv
import platform
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

Calls = Mapping[str, Callable[[], object]]
Times = Mapping[str, list[float]]
Row = dict[str, Any]


def paired(calls: Calls, seconds: float, *, slice_s: float = 3e-4, least: int = 15) -> Times:
    """Return the seconds of one call of each candidate, round by round, for about `seconds`."""
    once = {name: _once(call) for name, call in calls.items()}
    repeats = {name: max(1, int(slice_s / t)) for name, t in once.items()}
    cost = sum(t * (repeats[name] + 1) for name, t in once.items())
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(min(400, max(least, int(seconds / cost)))):
        # no candidate always comes after the one that empties the cache
        order.shuffle(names)
        for name in names:
            call, n = calls[name], repeats[name]
            call()
            start = perf_counter()
            for _ in range(n):
                call()
            times[name].append((perf_counter() - start) / n)
    return times


def _once(call: Callable[[], object]) -> float:
    call()
    start = perf_counter()
    for _ in range(3):
        call()
    return (perf_counter() - start) / 3


def ratio(times: Times, name: str, base: str) -> float:
    """Return how much longer one takes than the other."""
    return statistics.median(t / b for t, b in zip(times[name], times[base], strict=True))


def to_best(times: Times, name: str, others: Any) -> float:
    """Return the largest ratio to any of the others, which is that to the best of them."""
    return max(ratio(times, name, other) for other in others)


def median_us(times: Times, name: str) -> float:
    """Return the median in microseconds."""
    return statistics.median(times[name]) * 1e6


def quartile_us(times: Times, name: str) -> float:
    """Return the lower quartile in microseconds: interruptions only ever add."""
    return statistics.quantiles(times[name], n=4)[0] * 1e6


def show(rows: Iterator[Row]) -> list[Row]:
    """Print the rows as they come, and return them."""
    kept: list[Row] = []
    for row in rows:
        if not kept:
            print("  ".join(f"{name:>14}" for name in row))
        print("  ".join(f"{v!s:>{max(14, len(name))}}" for name, v in row.items()), flush=True)
        kept.append(row)
    return kept


def summary(rows: list[Row]) -> None:
    """Print what the columns of ratios say about all rows."""
    for column in [name for name in rows[0] if "/" in name]:
        ratios = sorted(row[column] for row in rows)
        within = sum(v <= 1.05 for v in ratios) / len(ratios)
        print(
            f"{column:>24}: median {statistics.median(ratios):.3f}, "
            f"90 % {ratios[int(0.9 * (len(ratios) - 1))]:.3f}, worst {ratios[-1]:.3f}, "
            f"{within:.0%} within 1.05"
        )


def run(doc: str | None, rows_of: Callable[[torch.dtype, float], Iterator[Row]]) -> None:
    """Measure for the command line: print the rows, and append them to a file if there is one.

    Args:
        doc: what is measured.
        rows_of: given a dtype and seconds for each row.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--csv", type=Path, help="append the rows to this file as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    same = {"torch": torch.__version__, "threads": given.threads, "dtype": given.dtype}
    print(", ".join(f"{name} {value}" for name, value in same.items()), platform.machine())
    with torch.no_grad():
        rows = show(rows_of(getattr(torch, given.dtype), given.seconds))
    summary(rows)
    if given.csv:
        _append(given.csv, [same | row for row in rows])


def _append(path: Path, rows: list[Row]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
