"""Frontier against exact and usual allocations: loss ratios, and the time of a new budget.

`python bench_allocate.py --csv rows.csv` measures, prints and writes; pytest runs it as a bench.
Layers are heterogeneous on purpose: sizes from 64 to 4096, spectra i^-a with a from 0.25 to 1, and
sensitivities over two orders of magnitude. Ranks come in blocks of 8, costs are multiply-adds per
row. The kind `dense` ends each layer with the dense product, which costs less than the last ranks;
`stairs` ends so too, and pays for ranks in treads of four blocks, as measured times do; `two` asks
for two budgets at once, stairs (seconds) and the linear cost (bytes).
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rank_sched import Frontier, energy_fraction, frontier, uniform
from rank_sched.testing import dynamic_program, multi_dynamic_program

BLOCK = 8
SHARES = (0.2, 0.4, 0.6, 0.8)  # of the way from the smallest to the largest useful cost
KINDS = ("linear", "dense", "stairs")
SIZES = (12, 100, 1000)
Table = dict[str, np.ndarray]


def make_layers(count: int, kind: str, seed: int, *, ranks: int) -> tuple[Table, Table]:
    """Return loss curves and costs of `count` layers with up to `ranks` blocks."""
    rng, loss_curves, costs = np.random.default_rng(seed), {}, {}
    for i in range(count):
        m, n = 2 ** rng.integers(6, 13, size=2)
        blocks = min(int(min(m, n)) // BLOCK, ranks)
        spectrum = np.arange(1, blocks * BLOCK + 1) ** (-2 * rng.uniform(0.25, 1.0))
        drops = 10 ** rng.uniform(-1, 1) * spectrum.reshape(blocks, BLOCK).sum(axis=1)
        curve = np.append(np.cumsum(drops[::-1])[::-1], 0.0)
        cost = np.arange(blocks + 1) * BLOCK * int(m + n)
        if kind == "stairs":
            blocks_paid = np.ceil(np.arange(blocks + 1) / 4) * 4
            cost = (0.9 * blocks_paid + 0.1 * np.arange(blocks + 1)) * BLOCK * int(m + n)
        if kind in ("dense", "stairs"):
            cost[-1] = min(cost[-1], int(m * n))
        loss_curves[f"layer{i}"], costs[f"layer{i}"] = curve, cost
    return loss_curves, costs


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def budget_at(points: Frontier, share: float) -> float:
    return points.min_cost + share * (points.max_cost - points.min_cost)


def time_rows(count: int, kind: str) -> list[dict[str, object]]:
    """Return the times of building a frontier and of asking it."""
    tables = make_layers(count, kind, seed=0, ranks=64)
    points = frontier(*tables)
    rng = np.random.default_rng(1)
    budgets = iter(budget_at(points, share) for share in rng.random(10**4))
    limits = iter(points.losses[rng.integers(0, len(points), 10**4)] * 1.0001)
    measured = {
        "build": seconds(lambda: frontier(*tables), 5),
        "new budget": seconds(lambda: points.at(next(budgets)), 200),
        "new loss": seconds(lambda: points.at_loss(next(limits)), 30),
        "indexed point": seconds(lambda: points[len(points) // 2], 200),
    }
    return [
        {"what": f"time: {name}", "layers": count, "kind": kind, "points": len(points)}
        | {"value": round(value * 1e3, 4), "unit": "ms"}
        for name, value in measured.items()
    ]


def ratio_rows(count: int, kind: str, share: float, *, seeds: int) -> list[dict[str, object]]:
    """Return losses as multiples of the oracle's, or of the lower bound where that is too big."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        tables = make_layers(count, kind, seed, ranks=32 if count <= 12 else 64)
        points = frontier(*tables)
        budget = budget_at(points, share)
        reference = points.lower_bound(budget)
        if count <= 12:
            reference = dynamic_program(*tables, budget).loss
        prefix = points.losses[np.searchsorted(points.costs, budget, side="right") - 1]
        for name, loss in {
            "frontier": points.at(budget).loss,
            "sorted steps alone": float(prefix),
            "uniform": uniform(*tables, budget).loss,
            "energy fraction": energy_fraction(*tables, budget).loss,
        }.items():
            found.setdefault(name, []).append(loss / reference)
    against = "oracle" if count <= 12 else "lower bound"
    return [
        {"what": f"loss: {name} / {against}", "layers": count, "kind": kind, "budget": share}
        | {"value": round(statistics.median(values), 5), "worst": round(max(values), 5)}
        | {"unit": f"ratio, median and worst of {seeds}"}
        for name, values in found.items()
    ]


def two_rows(count: int, *, seeds: int) -> list[dict[str, object]]:
    """Return the time under two budgets that both bind, and the loss over the dual bound."""
    ratios, times = [], []
    for seed in range(seeds):
        curves, latency = make_layers(count, "stairs", seed, ranks=64)
        costs = {"latency": latency, "memory": make_layers(count, "linear", seed, ranks=64)[1]}
        points = frontier(curves, costs)
        for share in SHARES:
            budgets = two_budgets(costs, share)
            times.append(seconds(lambda points=points, b=budgets: points.at(b), 3))
            ratios.append(points.at(budgets).loss / points.lower_bound(budgets))
    head = {"layers": count, "kind": "two"}
    return [
        {"what": "time: new budgets"} | head
        | {"value": round(statistics.median(times) * 1e3, 4), "worst": round(max(times) * 1e3, 4)}
        | {"unit": "ms"},
        {"what": "loss: two budgets / dual bound"} | head
        | {"value": round(statistics.median(ratios), 5), "worst": round(max(ratios), 5)}
        | {"unit": f"ratio, median and worst of {len(ratios)}"},
    ]  # fmt: skip


def two_exact_rows(*, seeds: int) -> list[dict[str, object]]:
    """Return the loss under two budgets over the exact optimum, for layers few and small."""
    ratios = []
    for seed in range(seeds):
        curves, latency = make_layers(6, "stairs", seed, ranks=10)
        costs = {"latency": latency, "memory": make_layers(6, "linear", seed, ranks=10)[1]}
        points = frontier(curves, costs)
        for share in SHARES:
            budgets = two_budgets(costs, share)
            exact = multi_dynamic_program(curves, costs, budgets).loss
            ratios.append(points.at(budgets).loss / exact)
    row = {"what": "loss: two budgets / oracle", "layers": 6, "kind": "two"}
    row |= {"value": round(statistics.median(ratios), 5), "worst": round(max(ratios), 5)}
    return [row | {"unit": f"ratio, median and worst of {len(ratios)}"}]


def two_budgets(costs: dict[str, Table], share: float) -> dict[str, float]:
    """Return a share of the largest total of each cost, a tenth more of the memory."""
    most = {
        name: sum(float(cost.max()) for cost in table.values()) for name, table in costs.items()
    }
    return {"latency": share * most["latency"], "memory": 1.1 * share * most["memory"]}


def measure(sizes: tuple[int, ...] = SIZES, seeds: int = 12) -> list[dict[str, object]]:
    """Return all rows."""
    rows = [r for count in sizes for kind in KINDS for r in time_rows(count, kind)]
    rows += two_exact_rows(seeds=seeds)
    for count in sizes:
        rows += two_rows(count, seeds=2)
        for kind in KINDS:
            for share in SHARES:
                rows += ratio_rows(count, kind, share, seeds=seeds if count <= 12 else 2)
    return rows


def show(rows: list[dict[str, object]]) -> None:
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}")
    for row in rows:
        share, worst = row.get("budget", ""), row.get("worst", "")
        print(
            f"{row['what']:38} {row['layers']:>5} {row['kind']:7} {share!s:4} "
            f"{row['value']:>10} {worst!s:>10}  {row['unit']}"
        )


def bench_allocate() -> None:
    show(measure())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, help="where to write the rows")
    arguments = parser.parse_args()
    rows = measure()
    show(rows)
    if arguments.csv:
        columns = ["what", "layers", "kind", "points", "budget", "value", "worst", "unit"]
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
