"""Budgets in seconds against the clock: what a call was predicted to take, and what it takes.

`python bench_budgets.py --csv rows.csv` makes three small networks elastic, measures them on a
batch, sets five budgets across the range that each can run at, and times calls of the whole
network at each, the budgets taking turns. All of it several times; medians count. `over` is what
calls take more (or less) than predicted, `worst` the largest of all times.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from adlrns_models import ElasticModel, make_elastic

SHARES = (0.1, 0.3, 0.5, 0.7, 0.95)  # of the way from the cheapest point to the dense network
RUNS, ROUNDS, WARM, TIMED = 3, 5, 18, 5
Row = dict[str, object]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[batch, tokens, width]`."""
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)) for f in (self.q, self.k, self.v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return networks and a batch for each; times do not depend on their weights."""
    mlp = nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
    cnn = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 64, 10),
    )
    return {
        "mlp 784-1024-1024-10, batch 64": (mlp, torch.randn(64, 784)),
        "transformer 4x256, 4x64 tokens": (
            nn.Sequential(*(Block(256, 4) for _ in range(4))),
            torch.randn(4, 64, 256),
        ),
        "cnn 32-64-128-128, batch 8": (cnn, torch.randn(8, 3, 32, 32)),
    }


@torch.no_grad()
def rows_of(name: str, network: nn.Module, batch: Tensor) -> list[Row]:
    """Return predicted and real times of one network at each budget."""
    elastic = make_elastic(network.eval(), [batch]).eval()
    runs = []
    for _ in range(RUNS):
        rest = elastic.measure(batch).rest_s
        points = elastic.frontier("latency_s")
        low, high = points.min_cost + rest, points.max_cost + rest
        budgets = [low + share * (high - low) for share in SHARES]
        predicted = [elastic.point_for(latency_s=b).cost + rest for b in budgets]
        runs.append(list(zip(predicted, times_at(elastic, budgets, batch), strict=True)))
    rows: list[Row] = []
    for i, share in enumerate(SHARES):
        pairs = [run[i] for run in runs]
        over = [real / predicted - 1 for predicted, real in pairs]
        rows.append(
            {
                "network": name,
                "share": share,
                "predicted_ms": round(1e3 * statistics.median(p for p, _ in pairs), 2),
                "real_ms": round(1e3 * statistics.median(r for _, r in pairs), 2),
                "over": round(statistics.median(over), 3),
                "worst": round(max(over, key=abs), 3),
            }
        )
    return rows


def times_at(elastic: ElasticModel, budgets: list[float], batch: Tensor) -> list[float]:
    """Return the median seconds of a call at each budget, once it has been in force a while."""
    times: list[list[float]] = [[] for _ in budgets]
    for _ in range(ROUNDS):
        for found, budget in zip(times, budgets, strict=True):
            elastic.set_budget(latency_s=budget)
            for _ in range(WARM):
                elastic(batch)
            for _ in range(TIMED):
                start = time.perf_counter()
                elastic(batch)
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = [row for name, made in networks().items() for row in rows_of(name, *made)]
    for row in rows:
        print(row)
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
