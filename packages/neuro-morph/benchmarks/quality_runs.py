"""Data, nets and training by a budget of FLOPs, for ``bench_quality.py`` and ``bench_claim.py``."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from neuro_morph import ExampleInputs
from neuro_morph._counting import sizes_of_model

BATCH = 128
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def fashion(folder: Path) -> Data:
    """Returns 60,000 training and 10,000 test images of Fashion-MNIST."""

    def read(kind: str, what: str, skip: int) -> np.ndarray:
        file = folder / "fashion-mnist" / f"{kind}-{what}-ubyte.gz"
        return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=skip).copy()

    parts: list[Tensor] = []
    for kind in ("train", "t10k"):
        images = torch.from_numpy(read(kind, "images-idx3", 16)).view(-1, 1, 28, 28)
        labels = torch.from_numpy(read(kind, "labels-idx1", 8)).long()
        parts += [(images.float() / 255 - 0.286) / 0.353, labels]
    return parts[0], parts[1], parts[2], parts[3]


def cifar(folder: Path) -> Data:
    """Returns the training and the test records of CIFAR-10 that are there."""
    parts: list[Tensor] = []
    for name in ("data_batch_1.bin", "test_batch.bin"):
        raw = np.fromfile(folder / "cifar10-bin" / "cifar-10-batches-bin" / name, np.uint8)
        rows = torch.from_numpy(raw[: len(raw) // 3073 * 3073].reshape(-1, 3073).copy())
        images = rows[:, 1:].view(-1, 3, 32, 32).float() / 255
        parts += [(images - 0.47) / 0.25, rows[:, 0].long()]
    return parts[0], parts[1], parts[2], parts[3]


TASKS: dict[str, Callable[[Path], Data]] = {"fashion-mnist": fashion, "cifar-10": cifar}


def net(channels: int, widths: tuple[int, ...]) -> nn.Module:
    """Returns three convolutions with BatchNorm on images that are halved first."""
    first, second, third = widths
    layers = [
        nn.AvgPool2d(2),
        nn.Conv2d(channels, first, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(second, third, 3, padding=1, bias=False),
        nn.BatchNorm2d(third),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(third, 10),
    ]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def widths_of(model: nn.Module) -> tuple[int, ...]:
    return tuple(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


def changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images half of which are mirrored, all shifted by up to three pixels."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    down, right = torch.randint(-3, 4, (2,), generator=generator).tolist()
    return torch.roll(images, (down, right), (2, 3))


class Run:
    """One arm: a net, its optimizer, and what it has spent.

    The learning rate falls as a cosine over the budget of FLOPs, whatever the net's size.
    """

    def __init__(
        self, data: Data, widths: tuple[int, ...], seed: int, budget: float, *, flips: bool
    ) -> None:
        torch.manual_seed(seed)
        self.data, self.budget, self.spent, self.steps = data, budget, 0.0, 0
        self.flips, self.events = flips, 0
        self.model = net(data[0].shape[1], widths)
        self.example = data[0][:256]
        self.optimizer = self.new_optimizer()
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = self._batches()
        self.count()

    def new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.model.parameters(), 0.2, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def count(self) -> None:
        """Counts the net as it is: its parameters, and the FLOPs of a training step."""
        inputs = ExampleInputs.of(self.example[:1])
        self.parameters, flops = sizes_of_model(self.model, inputs)
        self.step_flops = 3.0 * flops * BATCH

    @property
    def progress(self) -> float:
        """The part of the budget that is spent."""
        return self.spent / self.budget

    def train(self, after: Callable[[Tensor], None] = lambda loss: None) -> None:
        """Trains until the budget is spent; ``after`` is called after every step."""
        self.model.train()
        while self.spent + self.step_flops <= self.budget:
            for group in self.optimizer.param_groups:
                warm = min(self.progress / 0.02 + 1e-3, 1.0)
                group["lr"] = 0.1 * warm * (1 + np.cos(np.pi * self.progress))
            self.optimizer.zero_grad()
            images, labels = next(self.batches)
            loss = nn.functional.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            self.spent += self.step_flops
            self.steps += 1
            after(loss)

    @torch.no_grad()
    def accuracy(self) -> float:
        self.model.eval()
        images, labels = self.data[2], self.data[3]
        hits = sum(
            int((self.model(x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
        return 100 * hits / len(labels)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            order = torch.randperm(len(self.data[0]), generator=self.generator)
            for chosen in order.split(BATCH):
                if len(chosen) == BATCH:
                    images = self.data[0][chosen]
                    if self.flips:
                        images = changed(images, self.generator)
                    yield images.contiguous(memory_format=torch.channels_last), self.data[1][chosen]
