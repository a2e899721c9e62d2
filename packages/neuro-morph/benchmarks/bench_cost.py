"""What growth costs, in training steps of the same network.

    python packages/neuro-morph/benchmarks/bench_cost.py [--csv FILE] [--repeats N]

One row a network: the training step (forward, backward, AdamW; batch 32), finding the groups in
both ways, widening by a quarter the group whose units cost most and the one in the middle (tensors
and optimizer alone), that event with its checks, a pass for statistics (a batch, for the default
score and for all metrics), the score, and a whole event from nothing: statistics of three batches,
score, proposal of units for the best group that has one, finding the groups, widening, check.
Medians; the parts take turns with training steps, so that a busy machine slows both.
"""

import argparse
import csv
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

from neuro_morph import (
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    Proposal,
    Snapshot,
    Statistics,
    Widen,
    collect_statistics,
    propose_units,
    scores_of,
)

BATCH = 32
BATCHES = 3  # that statistics are taken of


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=10,
    )
    return transformers.ResNetForImageClassification(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=32,
        patch_size=4,
        num_labels=10,
    )
    return transformers.ViTForImageClassification(config)


NETS: dict[str, Callable[[], nn.Module]] = {"resnet-18": resnet, "vit-tiny": vit}


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(name: str, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = NETS[name]()
    optimizer = torch.optim.AdamW(model.parameters())
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(images).logits
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    found: dict[str, list[float]] = {}
    probe = images[:2]
    for _ in range(repeats):
        parts = {"step": step, **_captures(model, probe)}
        for part, work in parts.items():
            found.setdefault(part, []).append(seconds(work))
        for spent in (
            _event(model, optimizer, probe),
            _whole(model, optimizer, probe, (images, labels)),
        ):
            for part, each in spent.items():
                found.setdefault(part, []).append(each)
    times = {part: median(each) for part, each in found.items()}
    ratios = {f"{part}_steps": round(t / times["step"], 3) for part, t in times.items()}
    return {"net": name, "step_s": round(times["step"], 4), **ratios}


def _captures(model: nn.Module, probe: torch.Tensor) -> dict[str, Callable[[], Any]]:
    return {
        "capture_export": lambda: GrowthGraph.capture(model, probe, capture="export"),
        "capture_dispatch": lambda: GrowthGraph.capture(model, probe, capture="dispatch"),
    }


def _event(
    model: nn.Module, optimizer: torch.optim.Optimizer, probe: torch.Tensor
) -> dict[str, float]:
    morpher = Morpher(model, optimizer, example_inputs=probe, outputs=("logits",))
    kept: list[Snapshot] = []
    found = {"snapshot": seconds(lambda: kept.append(morpher.snapshot()))}
    graph = morpher.graph
    group = max((g for g in graph if "free" in graph.ways(g)), key=lambda g: g.unit_cost)
    start = time.perf_counter()
    event = morpher.apply(Widen(group.id, by=max(group.size // 4, 1)))
    found["event_after_capture"] = time.perf_counter() - start
    found["edit"] = event.seconds["edit"] + event.seconds["migrate"]
    found["restore"] = seconds(kept[0].restore)
    costs = sorted((g for g in graph if "free" in graph.ways(g)), key=lambda g: g.unit_cost)
    middle = costs[len(costs) // 2]
    morpher._graph = graph
    event = morpher.apply(Widen(middle.id, by=max(middle.size // 4, 1)))
    found["edit_middle"] = event.seconds["edit"] + event.seconds["migrate"]
    kept[0].restore()
    morpher.slots.close()
    return found


def _whole(
    model: nn.Module, optimizer: torch.optim.Optimizer, probe: torch.Tensor, batch: Any
) -> dict[str, float]:
    """Seconds of statistics, score and a whole event, with nothing left of it."""
    found: dict[str, float] = {}
    kept = Snapshot(model, [optimizer])
    graph = GrowthGraph.capture(model, probe, outputs=("logits",))
    for name, parts in (("statistics", ("gains",)), ("statistics_all", ("gains", "gradients"))):
        work = partial(collect_statistics, model, graph, [batch], loss_fn, parts=parts)
        found[name] = seconds(work)
    start = time.perf_counter()
    morpher = Morpher(model, optimizer, example_inputs=probe, outputs=("logits",))
    held = collect_statistics(model, morpher.graph, [batch] * BATCHES, loss_fn, parts=("gains",))
    middle = time.perf_counter()
    ranked = scores_of(held)
    found["score"] = time.perf_counter() - middle
    best = next(name for name in ranked if held[name].maker is not None)
    proposal = proposed(held, best)
    morpher.apply(Widen(best, by=len(proposal.gains)))
    found["whole_event"] = time.perf_counter() - start
    morpher.slots.close()
    kept.restore()
    return found


def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]).logits, batch[1])


def proposed(held: Statistics, name: str) -> Proposal:
    """A quarter more units for a group, for the residual if that is to be had."""
    by = max(held[name].size // 4, 1)
    try:
        return propose_units(held[name], by)
    except GrowthRefusedError:
        return propose_units(held[name], by, target="gradient")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rows = [row(name, given.repeats) for name in NETS]
    with Path(given.csv).open("w", newline="") if given.csv else nullcontext(sys.stdout) as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(
        f"# {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
