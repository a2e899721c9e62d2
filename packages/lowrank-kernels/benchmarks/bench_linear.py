"""Time the rank-r linear product against two compact products and against the dense layer.

All candidates of a row are timed in turn, many times over, in one process; a ratio is the median
over the rounds of the ratio within a round, so that what else the machine does falls out.

    python bench_linear.py [--threads 1] [--dtype float32] [--rounds 200] [--csv PATH]
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

from lowrank_kernels import lowrank_linear, prefix

BATCHES = (1, 8, 32, 256)
RANKS = (8, 16, 32, 64, 128, 256, 512)
N, M, R = 1024, 1024, 512
Timed = Callable[[], object]


def paired(calls: dict[str, Timed], rounds: int, slice_s: float = 3e-4) -> dict[str, list[float]]:
    """Return the seconds of one call of each candidate, round by round."""
    repeats = {name: _repeats(call, slice_s) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(rounds):
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


def _repeats(call: Timed, slice_s: float) -> int:
    for _ in range(5):
        call()
    start = perf_counter()
    for _ in range(5):
        call()
    return max(1, int(slice_s / ((perf_counter() - start) / 5)))


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(t / b for t, b in zip(times[name], times[base], strict=True))


def lower_quartile_us(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=4)[0] * 1e6


def factors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    up = torch.randn(M, R, dtype=dtype)
    return {
        "down": torch.randn(R, N, dtype=dtype),
        "up": up,
        "up_t": up.t().contiguous().t(),
        "bias": torch.randn(M, dtype=dtype),
        "dense": torch.randn(M, N, dtype=dtype),
    }


def candidates(x: torch.Tensor, r: int, f: dict[str, torch.Tensor]) -> dict[str, Timed]:
    """Return what is compared: `_t` has the columns of up one after the other in memory."""
    down, up, up_t, bias = f["down"], f["up"], f["up_t"], f["bias"]
    D, U = down[:r].clone(), up[:, :r].contiguous()
    U_t = U.t().contiguous().t()
    rows, columns = prefix(down, up, bias, r), prefix(down, up_t, bias, r)
    packed = prefix(down, up, bias, r, packed=True)
    return {
        "compact": lambda: F.linear(F.linear(x, D), U, bias),
        "compact_t": lambda: F.linear(F.linear(x, D), U_t, bias),
        "dense": lambda: F.linear(x, f["dense"], bias),
        "lowrank_linear": lambda: lowrank_linear(x, down, up, bias, r),
        "lowrank_linear_t": lambda: lowrank_linear(x, down, up_t, bias, r),
        "prefix": lambda: rows(x),
        "prefix_t": lambda: columns(x),
        "prefix_packed": lambda: packed(x),
    }


def products(dtype: torch.dtype, rounds: int, batches: Any, ranks: Any) -> Iterator[dict[str, Any]]:
    f = factors(dtype)
    for batch in batches:
        x = torch.randn(batch, N, dtype=dtype)
        for r in ranks:
            calls = candidates(x, r, f)
            times = paired(calls, max(20, rounds // (1 + batch // 32)))
            row: dict[str, Any] = {"batch": batch, "rank": r}
            row["compact_us"] = round(lower_quartile_us(times["compact"]), 1)
            row["best"] = min(ratio(times, "compact_t", "compact"), 1.0)
            row |= {name: ratio(times, name, "compact") for name in list(calls)[2:]}
            yield {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}


def switches(dtype: torch.dtype, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield what a change of rank costs, microseconds."""
    f, x = factors(dtype), torch.randn(1, N, dtype=dtype)
    down, up, bias, held = f["down"], f["up"], f["bias"], torch.tensor(64)

    def alternating() -> None:
        lowrank_linear(x, down, up, bias, 64)
        lowrank_linear(x, down, up, bias, 72)

    calls: dict[str, Timed] = {
        "64": lambda: lowrank_linear(x, down, up, bias, 64),
        "72": lambda: lowrank_linear(x, down, up, bias, 72),
        "64 then 72": alternating,
        "prefix": lambda: prefix(down, up, bias, 64),
        "prefix_packed": lambda: prefix(down, up, bias, 64, packed=True),
        "buffer": lambda: held.fill_(72),
    }
    times = {name: lower_quartile_us(t) for name, t in paired(calls, rounds).items()}
    change = (times["64 then 72"] - times["64"] - times["72"]) / 2
    yield {"switch": "another int to lowrank_linear", "us": round(change, 2)}
    yield {"switch": "fill_ of a rank buffer", "us": round(times["buffer"], 2)}
    yield {"switch": "a new prefix", "us": round(times["prefix"], 2)}
    yield {"switch": "a new packed prefix, rank 64", "us": round(times["prefix_packed"], 2)}


def show(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print("  ".join(f"{name:>16}" for name in row))
        print("  ".join(f"{value!s:>16}" for value in row.values()), flush=True)
        kept.append(row)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--csv", type=Path, help="write the rows of the products here as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dtype = getattr(torch, given.dtype)
    print(f"torch {torch.__version__}, {platform.machine()}, {given.threads} threads, {dtype}")
    print(f"n=m={N}, R={R}; ratios to two compact products (columns of us apart)")
    with torch.no_grad():
        rows = show(products(dtype, given.rounds, BATCHES, RANKS))
        show(switches(dtype, given.rounds))
    if given.csv:
        same = {"torch": torch.__version__, "threads": given.threads, "dtype": given.dtype}
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*same, *rows[0]])
            writer.writeheader()
            writer.writerows(same | row for row in rows)


def bench_linear() -> None:
    with torch.no_grad():
        assert show(products(torch.float32, 40, (1, 32), (8, 64, 256)))
        assert show(switches(torch.float32, 40))


if __name__ == "__main__":
    main()
