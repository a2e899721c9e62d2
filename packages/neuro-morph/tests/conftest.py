"""Nets that several tests share; every one is built with random weights, statistics and biases."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Returns the model in float64 with nothing left at its first value: no zero hides an error."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            noise = noise.abs() + 0.5
        elif tensor.dim() > 1:
            noise = noise / max(tensor[0].numel(), 1) ** 0.5
        tensor.data = noise if tensor.dim() != 1 or "var" in name else noise * 0.3 + 0.7
    return model


class Residual(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Seed(nn.Module):
    """Two convolutions, their maps flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()
        )
        self.classifier = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class Joined(nn.Module):
    """Two branches concatenated, then grouped and depthwise convolutions with a shuffle between."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.norm, self.deep = nn.BatchNorm2d(10), nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.mix, self.head = nn.Conv2d(10, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = self.mix(self.deep(torch.relu(self.norm(x))))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Multi-head attention written out, with more query heads than key heads."""

    def __init__(self, width: int = 12, heads: int = 4, keys: int = 2) -> None:
        super().__init__()
        self.heads, self.keys, self.size = heads, keys, width // heads
        self.q = nn.Linear(width, heads * self.size)
        self.k, self.v = (nn.Linear(width, keys * self.size) for _ in range(2))
        self.o = nn.Linear(heads * self.size, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(n, t, self.keys, self.size).transpose(1, 2)
        v = self.v(x).view(n, t, self.keys, self.size).transpose(1, 2)
        k, v = (a.repeat_interleave(self.heads // self.keys, 1) for a in (k, v))
        a = (q @ k.transpose(-1, -2) / self.size**0.5).softmax(-1)
        return self.o((a @ v).transpose(1, 2).reshape(n, t, -1))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(9, 12), nn.Parameter(torch.zeros(5, 12))
        self.norm, self.attention, self.block = nn.LayerNorm(12), Attention(), Residual(12, 7)
        self.last = nn.LayerNorm(12)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.places
        x = self.block(x + self.attention(self.norm(x)))
        return self.last(x) @ self.table.weight.t()


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 6), nn.Sigmoid(), nn.Linear(6, 3))


def _images(n: int = 2, size: int = 4) -> Tensor:
    return torch.randn(n, 3, size, size, dtype=torch.float64, generator=_generator())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


NETS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "mlp": lambda: (_mlp(), torch.randn(3, 4, dtype=torch.float64, generator=_generator())),
    "seed": lambda: (Seed(), _images()),
    "joined": lambda: (Joined(), _images()),
    "transformer": lambda: (Transformer(), torch.randint(0, 9, (2, 5), generator=_generator())),
    "encoder": lambda: (
        nn.Sequential(
            nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 10, batch_first=True), nn.Linear(8, 2)
        ),
        torch.randn(2, 3, 4, dtype=torch.float64, generator=_generator()),
    ),
}


@pytest.fixture(params=sorted(NETS))
def net(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    """A net in float64 with random weights, and an input of it."""
    model, inputs = NETS[request.param]()
    return randomized(model).eval(), inputs
