"""Time the rank-r convolution against two compact convolutions and against the dense one.

python bench_conv.py [--threads 1] [--rounds 60] [--csv PATH]
"""

import argparse
import csv
import platform
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F

from lowrank_kernels import lowrank_conv2d

# batch, channels in and out, side, kernel
SHAPES = ((1, 128, 28, 3), (8, 128, 28, 3), (8, 256, 14, 3), (8, 256, 14, 1))
RANKS = (16, 32, 64, 128)


def rounds_of(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of one call of each candidate, in turn, round by round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for call in calls.values():
        call()
    for _ in range(rounds):
        # no candidate always comes after the one that empties the cache
        order.shuffle(names)
        for name in names:
            calls[name]()
            start = perf_counter()
            calls[name]()
            times[name].append(perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], name: str) -> float:
    pairs = zip(times[name], times["compact"], strict=True)
    return round(statistics.median(t / b for t, b in pairs), 3)


def products(rounds: int, shapes: Any, ranks: Any) -> Iterator[dict[str, Any]]:
    for batch, c, side, k in shapes:
        torch.manual_seed(0)
        x, R = torch.randn(batch, c, side, side), max(RANKS)
        down, up, bias = torch.randn(R, c, k, k), torch.randn(c, R), torch.randn(c)
        dense = torch.randn(c, c, k, k)
        for r in ranks:
            D, U = down[:r].clone(), up[:, :r].contiguous()[..., None, None]
            calls = {
                "compact": lambda x=x, D=D, U=U, b=bias, p=k // 2: F.conv2d(
                    F.conv2d(x, D, padding=p), U, b
                ),
                "dense": lambda x=x, W=dense, b=bias, p=k // 2: F.conv2d(x, W, b, padding=p),
                "lowrank_conv2d": lambda x=x, d=down, u=up, b=bias, r=r, p=k // 2: lowrank_conv2d(
                    x, d, u, b, r, padding=p
                ),
            }
            times = rounds_of(calls, rounds)
            yield {
                "batch": batch, "channels": c, "side": side, "kernel": k, "rank": r,
                "compact_us": round(statistics.quantiles(times["compact"], n=4)[0] * 1e6),
                "dense": ratio(times, "dense"),
                "lowrank_conv2d": ratio(times, "lowrank_conv2d"),
            }  # fmt: skip


def show(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print("  ".join(f"{name:>14}" for name in row))
        print("  ".join(f"{value!s:>14}" for value in row.values()), flush=True)
        kept.append(row)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--csv", type=Path, help="write the rows here as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {given.threads} threads, float32")
    print("ratios to two compact convolutions")
    with torch.no_grad():
        rows = show(products(given.rounds, SHAPES, RANKS))
    if given.csv:
        same = {"torch": torch.__version__, "threads": given.threads}
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*same, *rows[0]])
            writer.writeheader()
            writer.writerows(same | row for row in rows)


def bench_conv() -> None:
    with torch.no_grad():
        assert show(products(10, SHAPES[:1], (16, 64)))


if __name__ == "__main__":
    main()
