"""What a rank dial costs: switching, running, watching, and choosing ranks for a budget.

`python bench_layers.py --csv rows.csv` measures, prints and writes; pytest runs it as a bench.
Each ratio comes from calls that take turns within one run; times are medians. Baselines are the
best that could be done at the same rank: contiguous copies of the factors, by `F.linear` alone and
as modules, and the same layers with adaptation off.
"""

import argparse
import copy
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models import (
    AdaptConfig,
    AdaptiveLinear,
    iter_adaptive_layers,
    make_elastic,
    materialize_model,
    wrap_model_with_adaptive,
)

Row = dict[str, object]
RIVALS = {
    "two compact products": "compact",
    "nn.Sequential of two nn.Linear": "modules",
    "dense layer": "dense",
}


def paired(calls: dict[str, Callable[[], object]], repeats: int, inner: int) -> dict[str, float]:
    """Return the median seconds of each call, the calls taking turns.

    Before its turn each runs once untimed: it would pay for the caches that the last one emptied.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            for _ in range(inner):
                call()
            times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def row(what: str, shape: str, value: float, unit: str) -> Row:
    return {"what": what, "shape": shape, "value": round(value, 4), "unit": unit}


def switch_rows() -> list[Row]:
    """Return what it costs to change a rank, and all ranks of a model for a new budget."""
    layer = AdaptiveLinear(nn.Linear(1024, 1024), AdaptConfig(r_max=1024))
    ranks = iter([16, 512] * 10**6)
    switch = paired({"switch": lambda: layer.set_rank(next(ranks))}, 200, 100)["switch"]
    model = nn.Sequential(*[nn.Linear(256, 256) for _ in range(24)])
    elastic = make_elastic(model, [torch.randn(512, 256)])
    elastic.frontier()
    shares = iter([0.3, 0.5, 0.8] * 10**6)
    budget = paired({"set": lambda: elastic.set_budget(flops=next(shares))}, 50, 5)["set"]
    return [
        row("rank switch", "1024x1024", switch * 1e6, "us"),
        row("set_budget", "24 layers of 256x256", budget * 1e6, "us"),
    ]


def forward_calls(layer: AdaptiveLinear, dense: nn.Linear, x: Tensor) -> dict[str, Callable]:
    """Return the layer at its rank and its rivals, all with compact copies of the factors."""
    rank = layer.current_rank()
    down = layer.down[:rank].detach().clone()
    up = layer.up[:, :rank].detach().contiguous()
    inner, bias = layer.inner_bias[:rank].detach().clone(), layer.outer_bias.detach()
    modules = materialize_model(layer, "factored")
    return {
        "layer": lambda: layer(x),
        "compact": lambda: F.linear(F.linear(x, down, inner), up, bias),
        "modules": lambda: modules(x),
        "dense": lambda: dense(x),
    }


def forward_rows(size: int = 1024) -> list[Row]:
    """Return the forward pass as a multiple of two products with compact factors."""
    dense = nn.Linear(size, size).eval()
    elastic = make_elastic(nn.Sequential(dense), [torch.randn(2 * size, size)])
    (layer,) = elastic.layers().values()
    found = []
    for batch in (1, 32, 256):
        for rank in (16, 64, 128, 256, 400):
            layer.set_rank(rank)
            calls = forward_calls(layer, dense, torch.randn(batch, size))
            with torch.no_grad():
                times = paired(calls, 60, max(1, 256 // batch))
            shape = f"batch {batch}, {size}x{size}, rank {rank}"
            for name, rival in RIVALS.items():
                ratio = times["layer"] / times[rival]
                found.append(row(f"layer / {name}", shape, ratio, "ratio"))
    return found


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    wide = [part for _ in range(3) for part in (nn.Linear(1024, 1024), nn.ReLU())]
    conv = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    return {
        "MLP 3 x 1024, batch 256": (nn.Sequential(*wide), (256, 1024)),
        "conv 64-128-128, batch 32, 16x16": (conv, (32, 3, 16, 16)),
    }


class Stopwatch:
    """Adds up the time inside the observation of all layers."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        for layer in iter_adaptive_layers(model):
            layer._observe = self.timed(layer._observe)  # type: ignore[method-assign]

    def timed(self, observe: Callable[..., None]) -> Callable[..., None]:
        def run(x: Tensor, **options: bool) -> None:
            start = time.perf_counter()
            observe(x, **options)
            self.seconds += time.perf_counter() - start

        return run


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    return time.perf_counter() - start


def watching_rows(steps: int) -> list[Row]:
    """Return the share of training that watching takes, at the defaults and an equal rank.

    Steps with adaptation on and off take turns over whole cycles of sampling, looking and
    re-fitting; both run at the same ranks. The first helpings of rows are free of the cost cap
    and not counted: a third as many steps pass before.
    """
    found = []
    for name, (plain, shape) in networks().items():
        models = {"on": wrap_model_with_adaptive(plain)}
        models["off"] = copy.deepcopy(models["on"])
        for layer in iter_adaptive_layers(models["off"]):
            layer.enable_adaptation(False)
        watch = Stopwatch(models["on"])
        optimizers = {key: torch.optim.SGD(m.parameters(), lr=1e-4) for key, m in models.items()}
        x, total = torch.randn(shape), dict.fromkeys(models, 0.0)
        for i in range(steps + steps // 3):
            if i == steps // 3:
                total, watch.seconds = dict.fromkeys(models, 0.0), 0.0
            for key, model in models.items():
                total[key] += step(model, optimizers[key], x)
            for on, off in zip(*(iter_adaptive_layers(m) for m in models.values()), strict=True):
                off.set_rank(on.current_rank())
        found += [
            row("training step, watching on / off", name, total["on"] / total["off"], "ratio"),
            row("inside observation", name, 100 * watch.seconds / total["on"], "% of the step"),
        ]
    return found


def measure(steps: int = 600) -> list[Row]:
    """Return all rows."""
    return [*switch_rows(), *forward_rows(), *watching_rows(steps)]


def show(rows: list[Row]) -> None:
    machine = platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), float32")
    for r in rows:
        print(f"{r['what']:42} {r['shape']:38} {r['value']:>10} {r['unit']}")


def bench_layers() -> None:
    show(measure(steps=300))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, help="where to write the rows")
    parser.add_argument("--steps", type=int, default=600, help="training steps that are timed")
    arguments = parser.parse_args()
    rows = measure(arguments.steps)
    show(rows)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["what", "shape", "value", "unit"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
