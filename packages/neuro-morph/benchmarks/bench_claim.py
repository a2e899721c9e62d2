"""A claim put to the test: +2.5 points on CIFAR-10 by growth, +12 % parameters, 1.1 x the time.

    python packages/neuro-morph/benchmarks/bench_claim.py --data FOLDER [--epochs E] [--seeds N]
        [--width W] [--csv FILE]

It was made for a network of two convolutions (32 and 64 channels), flattened into a linear layer,
which ``DNMFramework`` grows. Here: that network with W and 2 W channels on the CIFAR-10 records
that are there, images halved; an eighth of the training records are held out for its decisions.
``fixed`` and ``grown`` begin with the same weights and see the same batches; ``as wide`` is fixed
and has from the start the channels that ``grown`` ends with. SGD with momentum and a cosine over
the epochs; images mirrored and shifted; all settings of ``DNMFramework`` as they come.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from quality_runs import BATCH, Data, changed, cifar
from torch import Tensor, nn

from neuro_morph import DNMFramework

HELD_OUT = 8  # one part of so many


class Net(nn.Module):
    """Two convolutions, flattened into a linear layer."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.halve = nn.AvgPool2d(2)
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(second * 16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.halve(x))
        return self.classifier(x.view(x.size(0), -1))


class Watch:
    """What the layers did in the last batch."""

    def __init__(self, net: nn.Module) -> None:
        self.activations: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.requires_grad:
                self.activations[name] = output.detach()
                output.register_hook(lambda gradient: self.gradients.update({name: gradient}))

        return hook


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    hits = sum(
        int((net(x).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    net.train()
    return hits / len(labels)


def trained(net: Net, data: Data, seed: int, epochs: int, *, grow: bool) -> dict[str, Any]:
    images, labels = data[0], data[1]
    held = len(images) // HELD_OUT
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    start, begun = time.perf_counter(), sum(p.numel() for p in net.parameters())
    dnm = DNMFramework(net, {}, optimizer=optimizer, others=[schedule], seed=seed) if grow else None
    watch = Watch(net) if grow else None
    for epoch in range(1, epochs + 1):
        total, count = 0.0, 0
        for chosen in torch.randperm(len(images) - held, generator=generator).split(BATCH):
            optimizer.zero_grad()
            x, y = changed(images[held + chosen], generator), labels[held + chosen]
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total, count = total + float(loss.detach()), count + 1
        schedule.step()
        if dnm is not None and watch is not None:
            result = accuracy(net, images[:held], labels[:held])
            dnm.update_caches(watch.activations, watch.gradients, y)
            dnm.record_performance(result)
            asked, _ = dnm.should_trigger_morphogenesis(
                epoch, {"loss": total / count}, {"accuracy": result}
            )
            if asked:
                dnm.execute_morphogenesis(epoch)
    seconds = time.perf_counter() - start
    if dnm is not None:
        dnm.close()
    parameters = sum(p.numel() for p in net.parameters())
    widths = [m.out_channels for m in net.features if isinstance(m, nn.Conv2d)]
    return {
        "accuracy": round(100 * accuracy(net, data[2], data[3]), 2),
        "widths": "-".join(map(str, widths)),
        "parameters": parameters,
        "parameters_added": round(parameters / begun - 1, 4),
        "events": 0 if dnm is None else sum(e.decision == "committed" for e in dnm.events),
        "seconds": round(seconds, 2),
    }


def rows(data: Data, width: int, epochs: int, seed: int) -> Iterator[dict[str, Any]]:
    wide = (width, 2 * width)
    for arm in ("fixed", "grown", "as wide"):
        torch.manual_seed(seed)
        found = trained(Net(*wide), data, seed, epochs, grow=arm == "grown")
        wide = tuple(map(int, found["widths"].split("-")))[:2] if arm == "grown" else wide
        yield {"arm": arm, "seed": seed, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = cifar(given.data)
    with Path(given.csv).open("w", newline="") if given.csv else nullcontext(sys.stdout) as out:
        writer: Any = None
        for seed in range(given.seeds):
            for row in rows(data, given.width, given.epochs, seed):
                if writer is None:
                    writer = csv.DictWriter(out, list(row))
                    writer.writeheader()
                writer.writerow(row)
                out.flush()


if __name__ == "__main__":
    main()
