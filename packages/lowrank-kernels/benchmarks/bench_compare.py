"""Time this package against other ways to run two factors of the same rank.

- `sequential`: `nn.Sequential(nn.Linear(n, r, bias=False), nn.Linear(r, m))`, what adapters and
  factored checkpoints are usually run as; each rank is a model of its own.
- `compiled`: `torch.compile` of `F.linear(F.linear(x, D), U, bias)` with contiguous copies.
- `identity`: `lowrank_linear_identity`, which has r² fewer weights than the others;
  `identity_as_is` leaves its outputs in the order in which they are computed.

All take turns, many times over; a ratio is the median over the rounds of the ratio within a round,
and `best` of the others is the one of `sequential` and `compiled` that it is larger against.

    python bench_compare.py [--threads 1] [--dtype float32] [--seconds 1] [--csv PATH]
"""

import argparse
import csv
import platform
import random
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lowrank_kernels import (
    Dispatcher,
    calibrate,
    dispatch,
    identity_block,
    lowrank_linear,
    lowrank_linear_identity,
    prefix,
)

BATCHES = (1, 8, 32, 256)
RANKS = (16, 64, 256, 512)
N, M, R = 1024, 1024, 512
OTHERS = ("sequential", "compiled")
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


def sequential(D: torch.Tensor, U: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    r = D.shape[0]
    layers = nn.Sequential(nn.Linear(N, r, bias=False), nn.Linear(r, M)).to(D.dtype)
    for layer, weight in zip(layers, (D, U), strict=True):
        layer.weight.copy_(weight)
    layers[1].bias.copy_(bias)
    return layers.eval()


def compiled(D: torch.Tensor, U: torch.Tensor, bias: torch.Tensor) -> Any:
    torch._dynamo.reset()  # each row compiles for its own shapes
    return torch.compile(lambda x: F.linear(F.linear(x, D), U, bias), dynamic=False)


def candidates(
    x: torch.Tensor, down: Any, up: Any, bias: Any, r: int, measured: Dispatcher
) -> dict[str, Timed]:
    D, U, W = down[:r].clone(), up[:, :r].contiguous(), up[:, :r] @ down[:r]
    layers, graph, views = sequential(D, U, bias), compiled(D, U, bias), prefix(down, up, bias, r)
    best = dispatch(down, up, bias, r, dispatcher=measured)
    block = identity_block(down, up, bias, r)
    return {
        "sequential": lambda: layers(x),
        "compiled": lambda: graph(x),
        "dense": lambda: F.linear(x, W, bias),
        "lowrank_linear": lambda: lowrank_linear(x, down, up, bias, r),
        "prefix": lambda: views(x),
        "dispatch": lambda: best(x),
        "identity": lambda: lowrank_linear_identity(x, *block),
        "identity_as_is": lambda: lowrank_linear_identity(x, *block._replace(order=None)),
    }


def products(dtype: torch.dtype, batches: Any, ranks: Any, seconds: float) -> Iterator[Any]:
    torch.manual_seed(0)
    down, up, bias = (torch.randn(s).to(dtype) for s in ((R, N), (M, R), (M,)))
    measured = Dispatcher([calibrate(N, M, R, dtype=dtype, save=False)], cache=False)
    for batch in batches:
        x = torch.randn(batch, N).to(dtype)
        for r in ranks:
            times = paired(candidates(x, down, up, bias, r, measured), seconds)
            row: dict[str, Any] = {"batch": batch, "rank": r}
            for name in OTHERS:
                row[f"{name}_us"] = round(statistics.median(times[name]) * 1e6, 1)
            for name in list(times)[2:]:
                row[f"{name}/best"] = round(max(ratio(times, name, o) for o in OTHERS), 3)
            yield row


def show(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print("  ".join(f"{name:>14}" for name in row))
        print("  ".join(f"{v!s:>{max(14, len(name))}}" for name, v in row.items()), flush=True)
        kept.append(row)
    return kept


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
    print(f"n=m={N}, R={R}; ratios to the best of {', '.join(OTHERS)}")
    with torch.no_grad():
        rows = show(products(dtype, BATCHES, RANKS, given.seconds))
    if given.csv:
        same = {"torch": torch.__version__, "threads": given.threads, "dtype": given.dtype}
        new = not given.csv.exists()
        with given.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, [*same, *rows[0]])
            if new:
                writer.writeheader()
            writer.writerows(same | row for row in rows)


def bench_compare() -> None:
    with torch.no_grad(), warnings.catch_warnings():
        # inductor's own use of what torch has deprecated
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        assert show(products(torch.float32, (1,), (16,), 0.05))


if __name__ == "__main__":
    main()
