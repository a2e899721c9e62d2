"""What growing is worth: accuracy at equal training FLOPs, on Fashion-MNIST or CIFAR-10 records.

    python packages/neuro-morph/benchmarks/bench_quality.py --data FOLDER [--task T] [--epochs E]
        [--seeds N] [--first-seed K] [--arms A,B] [--csv FILE]
    python packages/neuro-morph/benchmarks/bench_quality.py --table FILE...

All arms have SGD with momentum and a cosine over their own budget of FLOPs; the whole budget is
that of the large net (16, 32, 64 channels) for E epochs. The small net has 4, 8, 16 channels.

* ``small``, ``large``: fixed sizes; large also with parts of the budget;
* ``planned``: begins small and is widened everywhere after 2 % and 8 % of the budget, with the
  defaults of ``GrowthPlan`` otherwise; also with parts of the budget;
* ``late``: at 15 % and 40 %; ``at once``: at 8 % in one step;
* ``optimizer reset``, ``by splits``, ``by twins``: planned, but what the optimizer holds is
  dropped at each event, by uneven splits, by even ones (Net2Net), whose copies never part;
* ``policy``: ``GrowthPolicy`` decides when and where, within the large net's FLOPs; what it spends
  on statistics and trials is counted; ``policy's net``: the net it came to, from scratch.

FLOPs are those of a forward run times three, times samples; those of a policy's own work are
counted as they are done. Means with 95 % intervals (t); differences are paired over seeds.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from quality_runs import BATCH, TASKS, Data, Run, widths_of
from scipy import stats
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neuro_morph import AntisymmetricPair, Budget, GrowthPlan, GrowthPolicy, Morpher, Split

SMALL, LARGE = (4, 8, 16), (16, 32, 64)
Train = Callable[[Run], None]


def fixed(run: Run) -> None:
    run.train()


def planned(*at: float, init: Any = None, reset: bool = False) -> Train:
    def train(run: Run) -> None:
        morpher = Morpher(run.model, run.optimizer, example_inputs=run.example, capture="dispatch")
        groups = [group.id for group in morpher.graph if group.growable]
        plan = GrowthPlan(morpher, dict(zip(groups, LARGE, strict=True)), at=at, init=init)

        def after(loss: Tensor) -> None:
            if plan.step(loss, progress=run.progress) is None:
                return
            run.count()
            if reset:
                run.optimizer.state.clear()

        run.train(after)

    return train


def by_policy(run: Run) -> None:
    """Grows by the default policy; an eighth of the data, 2,048 at most, is kept for decisions."""
    images, labels, *rest = run.data
    kept = min(len(images) // 8, 2048)
    run.data = images[:-kept], labels[:-kept], *rest
    held = list(zip(images[-kept:].split(500), labels[-kept:].split(500), strict=True))
    seen = list(zip(run.data[0].split(BATCH), run.data[1].split(BATCH), strict=True))
    largest = Run(run.data, LARGE, 0, 1.0, flips=False)
    flops = int(largest.step_flops / 3 / BATCH) * len(run.example)
    morpher = Morpher(run.model, run.optimizer, example_inputs=run.example, capture="dispatch")
    policy = GrowthPolicy(morpher, losses, seen, held, budget=Budget(flops=flops))

    def after(loss: Tensor) -> None:
        with FlopCounterMode(display=False) as counter:
            event = policy.step(loss, progress=run.progress)
        run.spent += counter.get_total_flops()
        if event is not None:
            run.count()

    run.train(after)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


EARLY = (0.02, 0.08)
ARMS: dict[str, tuple[tuple[int, ...], float, Train]] = {
    "small": (SMALL, 1.0, fixed),
    "large": (LARGE, 1.0, fixed),
    "large at 70 %": (LARGE, 0.7, fixed),
    "large at 50 %": (LARGE, 0.5, fixed),
    "planned": (SMALL, 1.0, planned(*EARLY)),
    "planned at 70 %": (SMALL, 0.7, planned(*EARLY)),
    "planned at 50 %": (SMALL, 0.5, planned(*EARLY)),
    "earlier": (SMALL, 1.0, planned(0.01, 0.03)),
    "late": (SMALL, 1.0, planned(0.15, 0.4)),
    "at once": (SMALL, 1.0, planned(0.08)),
    "by splits": (SMALL, 1.0, planned(*EARLY, init=Split())),
    "by pairs": (SMALL, 1.0, planned(*EARLY, init=AntisymmetricPair())),
    "by pairs at 0.3": (SMALL, 1.0, planned(*EARLY, init=AntisymmetricPair(0.3))),
    "by twins": (SMALL, 1.0, planned(*EARLY, init=Split(share=0.5))),
    "optimizer reset": (SMALL, 1.0, planned(*EARLY, reset=True)),
    "policy": (SMALL, 1.0, by_policy),
}


def rows(
    task: str, data: Data, epochs: float, seed: int, arms: list[str]
) -> Iterator[dict[str, Any]]:
    flips = task == "cifar-10"
    whole = Run(data, LARGE, seed, 1.0, flips=flips).step_flops / BATCH * epochs * len(data[0])
    plans = [(name, *ARMS[name]) for name in arms]
    for name, widths, part, train in plans:
        start = time.perf_counter()
        run = Run(data, widths, seed, part * whole, flips=flips)
        train(run)
        yield {
            "task": task,
            "arm": name,
            "seed": seed,
            "accuracy": round(run.accuracy(), 2),
            "widths": "-".join(map(str, widths_of(run.model))),
            "parameters": run.parameters,
            "steps": run.steps,
            "training_tflops": round(run.spent / 1e12, 4),
            "seconds": round(time.perf_counter() - start, 1),
        }
        if name == "policy":
            plans.append(("policy's net", widths_of(run.model), 1.0, fixed))


def table(files: list[str]) -> None:
    """Prints means over seeds, and differences to the large and the small net."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for file in files:
        with Path(file).open() as lines:
            for row in csv.DictReader(lines):
                arms = found.setdefault(row["task"], {})
                arms.setdefault(row["arm"], {})[int(row["seed"])] = float(row["accuracy"])
    for task, arms in found.items():
        print(f"| {task} | accuracy | against large | against small |\n|---|---|---|---|")
        for name, each in arms.items():
            against = [_difference(each, arms.get(other, {})) for other in ("large", "small")]
            print(f"| {name} | {_interval(list(each.values()))} | {' | '.join(against)} |")


def _difference(each: dict[int, float], other: dict[int, float]) -> str:
    shared = sorted(each.keys() & other.keys())
    return "–" if each is other else _interval([each[s] - other[s] for s in shared], signed=True)


def _interval(values: list[float], *, signed: bool = False) -> str:
    if len(values) < 2:
        return "–" if not values else f"{values[0]:{'+' * signed}.2f}"
    numbers = torch.tensor(values, dtype=torch.float64)
    half = stats.t.ppf(0.975, len(values) - 1) * float(numbers.std()) / len(values) ** 0.5
    return f"{float(numbers.mean()):{'+' * signed}.2f} ± {half:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--task", choices=sorted(TASKS), default="fashion-mnist")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--csv")
    parser.add_argument("--table", nargs="+")
    given = parser.parse_args()
    if given.table:
        return table(given.table)
    torch.set_num_threads(1)
    data = TASKS[given.task](given.data)
    with Path(given.csv).open("a", newline="") if given.csv else nullcontext(sys.stdout) as out:
        writer: Any = None
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for row in rows(given.task, data, given.epochs, seed, given.arms.split(",")):
                if writer is None:
                    writer = csv.DictWriter(out, list(row))
                    if not given.csv or out.tell() == 0:
                        writer.writeheader()
                writer.writerow(row)
                out.flush()
    return None


if __name__ == "__main__":
    main()
