"""Time the product with a rank for each sample against what its FLOPs cost.

The ideal is the time of two compact products at rank R for all rows, times the mean rank over R:
nobody reaches it, as few rows and narrow products run below full speed. `gemms` are the matrix
products of the staircase alone, on rows that lie sorted already. Candidates take turns; a ratio
is the median of the ratios within a round.

    python bench_per_sample.py [--threads 1] [--rounds 60] [--csv PATH]
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
from torch import Tensor

from lowrank_kernels import lowrank_linear, lowrank_linear_per_sample
from lowrank_kernels._bands import Band
from lowrank_kernels._staircase import sort

BATCHES = (64, 256, 1024)
N, M, R = 1024, 1024, 512


def mixes(batch: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shuffled, few = torch.randperm(batch), torch.arange(batch) % 10 == 0
    return {
        "uniform 1..512": torch.randint(1, R + 1, (batch,)),
        "8 values": 64 * torch.randint(1, 9, (batch,)),
        "90% 16, 10% 512": torch.where(few, R, 16)[shuffled],
        "90% 32, 10% 256": torch.where(few, R // 2, 32)[shuffled],
    }


def masked(x: Tensor, down: Tensor, up: Tensor, bias: Tensor, ranks: Tensor) -> Tensor:
    """Return the product at the largest rank, the rest put to zero."""
    top = int(ranks.max())
    h = F.linear(x, down[:top])
    h.masked_fill_(ranks[:, None] <= torch.arange(top), 0.0)
    return F.linear(h, up[:, :top], bias)


def by_rank(x: Tensor, down: Tensor, up: Tensor, bias: Tensor, ranks: Tensor) -> Tensor:
    """Return a product for each rank there is."""
    y = x.new_empty(x.shape[0], up.shape[0])
    for r in ranks.unique().tolist():
        rows = (ranks == r).nonzero()[:, 0]
        y[rows] = lowrank_linear(x[rows], down, up, bias, r)
    return y


def gemms(x: Tensor, down: Tensor, up: Tensor, bands: tuple[Band, ...]) -> Callable[[], None]:
    """Return the matrix products of the bands, on memory that is there."""
    h, y, U = x.new_zeros(len(x), R), x.new_zeros(len(x), M), up.t()

    def call() -> None:
        for S, start, stop, _ in bands:
            torch.mm(x[:S], down[start:stop].t(), out=h[:S, start:stop])
            y[:S].addmm_(h[:S, start:stop], U[start:stop])

    return call


def seconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of one call of each candidate, in turn, round by round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(rounds):
        # no candidate always comes after the one that empties the cache
        order.shuffle(names)
        for name in names:
            calls[name]()
            start = perf_counter()
            calls[name]()
            times[name].append(perf_counter() - start)
    return times


def products(rounds: int, batches: Any) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    down, up, bias = torch.randn(R, N), torch.randn(M, R), torch.randn(M)
    for batch in batches:
        x = torch.randn(batch, N)
        for name, ranks in mixes(batch).items():
            bands = sort(ranks, R, N + M, x.device).bands
            given = (x, down, up, bias, ranks)
            calls: dict[str, Callable[[], object]] = {
                "full": lambda x=x: F.linear(F.linear(x, down), up, bias),
                "per_sample": lambda g=given: lowrank_linear_per_sample(*g),
                "gemms": gemms(x, down, up, bands),
                "masked": lambda g=given: masked(*g),
                "by_rank": lambda g=given: by_rank(*g),
            }
            times = seconds(calls, max(8, rounds * 64 // batch))
            share = float(ranks.double().mean()) / R
            row = {"batch": batch, "ranks": name, "bands": len(bands), "share": round(share, 3)}
            full = statistics.quantiles(times["full"], n=4)[0]
            row["ideal_us"] = round(full * share * 1e6)
            for call in list(calls)[1:]:
                row[f"{call}/ideal"] = ratio(times, call, "full") / share
            for call in ("masked", "by_rank"):
                row[f"{call}/per_sample"] = ratio(times, call, "per_sample")
            yield {k: round(v, 2) if k[-1] in "le" and "/" in k else v for k, v in row.items()}


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(t / b for t, b in zip(times[name], times[base], strict=True))


def show(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print("  ".join(f"{name:>18}" for name in row))
        print("  ".join(f"{value!s:>18}" for value in row.values()), flush=True)
        kept.append(row)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--csv", type=Path, help="write the rows here as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {given.threads} threads, float32")
    print(f"n={N}, m={M}, R={R}")
    with torch.no_grad():
        rows = show(products(given.rounds, BATCHES))
    if given.csv:
        same = {"torch": torch.__version__, "threads": given.threads, "dtype": "float32"}
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*same, *rows[0]])
            writer.writeheader()
            writer.writerows(same | row for row in rows)


def bench_per_sample() -> None:
    with torch.no_grad():
        assert show(products(16, (64,)))


if __name__ == "__main__":
    main()
