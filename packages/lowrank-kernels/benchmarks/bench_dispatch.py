"""Time the dispatcher against every form it can choose from, and against the dense layer.

Each shape is calibrated first, in this process and without touching the cache on disk. All
candidates of a row take turns, many times over; a ratio is the median over the rounds of the ratio
within a round, and the one to the best form is the largest to any of them.

    python bench_dispatch.py [--threads 1] [--dtype float32] [--seconds 1] [--csv PATH]
"""

import argparse
import csv
import platform
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F

from lowrank_kernels import Dispatcher, calibrate, dispatch, prefix

SHAPES = ((1024, 1024), (4096, 1024), (384, 1536))
BATCHES = (1, 8, 32, 256, 5, 48)  # the last two lie between the batches that are calibrated
RANKS = (8, 16, 32, 64, 128, 256, 384, 512)
Timed = Callable[[], object]


def paired(
    calls: dict[str, Timed], seconds: float, slice_s: float = 3e-4
) -> dict[str, list[float]]:
    """Return the seconds of one call of each candidate, round by round, for about `seconds`."""
    once = {name: _once(call) for name, call in calls.items()}
    repeats = {name: max(1, int(slice_s / t)) for name, t in once.items()}
    cost = sum(t * (repeats[name] + 1) for name, t in once.items())
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(min(400, max(15, int(seconds / cost)))):
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


def _once(call: Timed) -> float:
    call()
    start = perf_counter()
    for _ in range(3):
        call()
    return (perf_counter() - start) / 3


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(t / b for t, b in zip(times[name], times[base], strict=True))


def candidates(x: torch.Tensor, f: dict[str, Any], r: int, measured: Dispatcher) -> dict[str, Any]:
    down, up, bias = f["down"], f["up"], f["bias"]
    W = up[:, :r] @ down[:r]
    views, packed = prefix(down, up, bias, r), prefix(down, up, bias, r, packed=True)
    chosen = dispatch(down, up, bias, r, dispatcher=measured)
    frozen = dispatch(down, up, bias, r, dispatcher=measured, frozen=True)
    counted = dispatch(down, up, bias, r, dispatcher=Dispatcher(cache=False))
    return {
        "dense": lambda: F.linear(x, W, bias),
        "factored": lambda: views(x),
        "packed": lambda: packed(x),
        "dispatch": lambda: chosen(x),
        "dispatch_frozen": lambda: frozen(x),
        "dispatch_counted": lambda: counted(x),
    }


def row_of(x: torch.Tensor, f: dict[str, Any], r: int, measured: Dispatcher, seconds: float) -> Any:
    times = paired(candidates(x, f, r, measured), seconds)
    forms = ("dense", "factored", "packed")
    best = min(forms, key=lambda name: statistics.median(times[name]))
    row = {
        "chosen": measured.choose(f["down"], f["up"], r, batch=x.shape[0]),
        "best": best,
        "best_us": round(statistics.median(times[best]) * 1e6, 1),
    }
    for name in ("dispatch", "dispatch_frozen", "dispatch_counted"):
        row[f"{name}/best"] = round(max(ratio(times, name, form) for form in forms), 3)
        row[f"{name}/dense"] = round(ratio(times, name, "dense"), 3)
    return row


def products(
    dtype: torch.dtype, shapes: Any, batches: Any, ranks: Any, seconds: float
) -> Iterator[dict[str, Any]]:
    for n, m in shapes:
        torch.manual_seed(0)
        R = min(n, m)
        start = perf_counter()
        table = calibrate(n, m, dtype=dtype, save=False)
        took = perf_counter() - start
        measured = Dispatcher([table], cache=False)
        f = {
            "down": torch.randn(R, n, dtype=dtype),
            "up": torch.randn(m, R, dtype=dtype),
            "bias": torch.randn(m, dtype=dtype),
        }
        for batch in batches:
            x = torch.randn(batch, n, dtype=dtype)
            for r in (r for r in ranks if r <= R):
                yield {
                    "in": n, "out": m, "batch": batch, "rank": r,
                    "calibrated_s": round(took, 2),
                    **row_of(x, f, r, measured, seconds),
                }  # fmt: skip


def show(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print("  ".join(f"{name:>12}" for name in row))
        print(
            "  ".join(f"{value!s:>{max(12, len(name))}}" for name, value in row.items()), flush=True
        )
        kept.append(row)
    return kept


def summary(rows: list[dict[str, Any]]) -> None:
    for column in [name for name in rows[0] if "/" in name]:
        ratios = sorted(row[column] for row in rows)
        within = sum(v <= 1.05 for v in ratios) / len(ratios)
        print(
            f"{column:>24}: median {statistics.median(ratios):.3f}, "
            f"90 % {ratios[int(0.9 * (len(ratios) - 1))]:.3f}, worst {ratios[-1]:.3f}, "
            f"{within:.0%} within 1.05"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--csv", type=Path, help="append the rows to this file as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dtype = getattr(torch, given.dtype)
    print(f"torch {torch.__version__}, {platform.machine()}, {given.threads} threads, {dtype}")
    with torch.no_grad():
        rows = show(products(dtype, SHAPES, BATCHES, RANKS, given.seconds))
    summary(rows)
    if given.csv:
        same = {"torch": torch.__version__, "threads": given.threads, "dtype": given.dtype}
        new = not given.csv.exists()
        with given.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, [*same, *rows[0]])
            if new:
                writer.writeheader()
            writer.writerows(same | row for row in rows)


def bench_dispatch() -> None:
    with torch.no_grad():
        assert show(products(torch.float32, ((256, 256),), (1, 32), (8, 64, 256), 0.05))


if __name__ == "__main__":
    main()
