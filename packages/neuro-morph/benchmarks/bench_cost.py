"""What growth costs, in training steps of the same network.

    python packages/neuro-morph/benchmarks/bench_cost.py [--csv FILE] [--repeats N]

One row a network: the training step (forward, backward, AdamW; batch 32), finding the groups in
both ways, widening the largest group by a quarter (tensors and optimizer alone), and a whole event
with its checks.
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
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

from neuro_morph import GrowthGraph, Morpher, Snapshot, Widen

BATCH = 32


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
        for part, spent in _event(model, optimizer, probe).items():
            found.setdefault(part, []).append(spent)
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
    morpher.slots.close()
    return found


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
