"""What growing is worth: accuracy at equal training FLOPs, on Fashion-MNIST or CIFAR-10 records.

    python packages/neuro-morph/benchmarks/bench_quality.py DATA [--task T] [--epochs E]
        [--seeds N] [--csv FILE]

Arms, each with SGD with momentum and a cosine schedule over its own budget of FLOPs (that of the
large net for E epochs, if nothing else is said):

* ``small``: the small net, for E epochs and for equal FLOPs;
* ``large``: the final architecture from scratch;
* ``grown``: begins small and is widened everywhere at a fifth of the budget, or in two events;
* ``optimizer reset``: grown likewise, with an optimizer made anew after each event;
* ``twins``: grown by even splits (Net2Net), whose copies never part.

FLOPs are counted from a run of each net, forward times three, times samples.
"""

import argparse
import csv
import gzip
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuro_morph import Morpher, Split, Widen, ZeroFanOut
from neuro_morph._morpher import sizes_of_model

BATCH = 128
SMALL, LARGE = 4, 10
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def fashion(folder: Path) -> Data:
    def read(kind: str, what: str, skip: int) -> np.ndarray:
        file = folder / "fashion-mnist" / f"{kind}-{what}-ubyte.gz"
        return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=skip).copy()

    parts: list[Tensor] = []
    for kind in ("train", "t10k"):
        images = torch.from_numpy(read(kind, "images-idx3", 16)).view(-1, 1, 28, 28)
        parts += [
            images.float() / 255 - 0.286,
            torch.from_numpy(read(kind, "labels-idx1", 8)).long(),
        ]
    return parts[0], parts[1], parts[2], parts[3]


def cifar(folder: Path) -> Data:
    parts: list[Tensor] = []
    for name in ("data_batch_1.bin", "test_batch.bin"):
        raw = np.fromfile(folder / "cifar10-bin" / "cifar-10-batches-bin" / name, np.uint8)
        rows = torch.from_numpy(raw[: len(raw) // 3073 * 3073].reshape(-1, 3073).copy())
        parts += [rows[:, 1:].view(-1, 3, 32, 32).float() / 255 - 0.47, rows[:, 0].long()]
    return parts[0], parts[1], parts[2], parts[3]


TASKS: dict[str, Callable[[Path], Data]] = {"fashion-mnist": fashion, "cifar-10": cifar}


def net(channels: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for factor in (1, 2, 4):
        layers += [
            nn.Conv2d(channels, factor * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(factor * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = factor * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Run:
    """One arm: a net, its optimizer, and what it has spent."""

    def __init__(self, data: Data, width: int, seed: int, budget: float) -> None:
        torch.manual_seed(seed)
        self.data, self.budget, self.spent = data, budget, 0.0
        self.model = net(data[0].shape[1], width)
        self.example = data[0][:4]
        self.optimizer = self.new_optimizer()
        self.batches = self._batches(seed)
        self.count()

    def new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def count(self) -> None:
        self.parameters, flops = sizes_of_model(self.model, self._inputs())
        self.step_flops = 3 * flops / len(self.example) * BATCH

    def train_to(self, share: float) -> None:
        """Trains until a share of the budget is spent."""
        self.model.train()
        while self.spent + self.step_flops <= share * self.budget:
            for group in self.optimizer.param_groups:
                group["lr"] = 0.05 * (1 + np.cos(np.pi * self.spent / self.budget))
            images, labels = next(self.batches)
            nn.functional.cross_entropy(self.model(images), labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.spent += self.step_flops

    def widen(self, morpher: Morpher, share: float, init: Any) -> None:
        wanted = {"0": LARGE, "4": 2 * LARGE, "8": 4 * LARGE}
        small = {"0": SMALL, "4": 2 * SMALL, "8": 4 * SMALL}
        for name, size in wanted.items():
            now = morpher.graph[name].size
            by = round(small[name] + share * (size - small[name])) - now
            morpher.apply(Widen(name, by=by, init=init()))
        self.count()

    @torch.no_grad()
    def accuracy(self) -> float:
        self.model.eval()
        images, labels = self.data[2], self.data[3]
        hits = sum(
            int((self.model(x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
        return 100 * hits / len(labels)

    def _inputs(self) -> Any:
        from neuro_morph import ExampleInputs

        return ExampleInputs.of(self.example)

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.data[0]), generator=generator)
            for chosen in order.split(BATCH):
                if len(chosen) == BATCH:
                    yield self.data[0][chosen], self.data[1][chosen]


def grown(run: Run, events: tuple[float, ...], init: Any, *, reset: bool = False) -> None:
    morpher = Morpher(run.model, run.optimizer, example_inputs=run.example, capture="dispatch")
    for k, share in enumerate(events, start=1):
        run.train_to(share)
        run.widen(morpher, k / len(events), init)
        if reset:
            run.optimizer = run.new_optimizer()
            morpher.optimizers = [run.optimizer]
    run.train_to(1.0)


ARMS: dict[str, Callable[[Run], None]] = {
    "grown, one event": lambda run: grown(run, (0.2,), ZeroFanOut),
    "grown, two events": lambda run: grown(run, (0.1, 0.3), ZeroFanOut),
    "grown by uneven splits": lambda run: grown(run, (0.2,), Split),
    "grown, optimizer reset": lambda run: grown(run, (0.2,), ZeroFanOut, reset=True),
    "grown by twins": lambda run: grown(run, (0.2,), lambda: Split(share=0.5)),
}


def rows(task: str, data: Data, epochs: float, seed: int) -> Iterator[dict[str, Any]]:
    samples = epochs * len(data[0])
    small = Run(data, SMALL, seed, float("inf"))
    large = Run(data, LARGE, seed, float("inf"))
    # what a net costs that is small for a fifth of the budget of the large one
    budget = large.step_flops / BATCH * samples
    plans: list[tuple[str, int, float, Callable[[Run], None]]] = [
        ("small", SMALL, small.step_flops / BATCH * samples, lambda run: run.train_to(1.0)),
        ("small, equal FLOPs", SMALL, budget, lambda run: run.train_to(1.0)),
        ("large, equal FLOPs", LARGE, budget, lambda run: run.train_to(1.0)),
        ("large, 70 % of the FLOPs", LARGE, 0.7 * budget, lambda run: run.train_to(1.0)),
        *[(name, SMALL, budget, train) for name, train in ARMS.items()],
        ("grown, 70 % of the FLOPs", SMALL, 0.7 * budget, ARMS["grown, one event"]),
    ]
    for name, width, limit, train in plans:
        start = time.perf_counter()
        run = Run(data, width, seed, limit)
        train(run)
        yield {
            "task": task,
            "arm": name,
            "seed": seed,
            "accuracy": round(run.accuracy(), 2),
            "parameters": run.parameters,
            "training_tflops": round(run.spent / 1e12, 3),
            "seconds": round(time.perf_counter() - start, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=sorted(TASKS), default="fashion-mnist")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv")
    given = parser.parse_args()
    data = TASKS[given.task](given.data)
    with Path(given.csv).open("w", newline="") if given.csv else nullcontext(sys.stdout) as out:
        writer: Any = None
        for seed in range(given.seeds):
            for row in rows(given.task, data, given.epochs, seed):
                if writer is None:
                    writer = csv.DictWriter(out, list(row))
                    writer.writeheader()
                writer.writerow(row)
                out.flush()


if __name__ == "__main__":
    main()
