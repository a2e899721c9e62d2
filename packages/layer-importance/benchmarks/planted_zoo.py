"""Small nets with redundancy planted at random depths, for the benchmarks of rankings and plans.

Twelve residual blocks are trained with stochastic depth; how often a block is left out, 0, 20, 40
or 60 %, is shuffled over the depth, so that position says nothing about who can be missed. Plain
nets are trained with all blocks, and have what redundancy training leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = 12
FAMILIES = ("vit", "resnet", "charlm")
Batches = list[tuple[Tensor, Tensor]]


class Dropped(nn.Module):
    """A residual block that is left out of some samples while it is trained."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def kept(self, x: Tensor, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x + branch
        shape = [len(x)] + [1] * (x.ndim - 1)
        return x + branch * (torch.rand(shape) >= self.rate) / (1 - self.rate)


class Attending(Dropped):
    """A pre-norm transformer block, causal or not."""

    def __init__(self, rate: float, width: int, *, causal: bool) -> None:
        super().__init__(rate)
        self.causal = causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        with torch.no_grad():  # all blocks begin small, so that none takes the work of all
            self.mix.weight /= BLOCKS**0.5
            self.down.weight /= BLOCKS**0.5

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        attended = self.mix(mixed.transpose(1, 2).flatten(2))
        rest = self.down(F.gelu(self.up(self.norm2(x + attended))))
        return self.kept(x, attended + rest)


class Convolving(Dropped):
    """A pre-activation residual block."""

    def __init__(self, rate: float, width: int) -> None:
        super().__init__(rate)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in "12")

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return self.kept(x, self.conv2(F.relu(self.norm2(y))))


class Vit(nn.Module):
    """Digits of 8 x 8 in patches of 2 x 2."""

    def __init__(self, rates: Sequence[float], width: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.place = nn.Parameter(torch.randn(16, width))
        self.blocks = nn.ModuleList(Attending(r, width, causal=False) for r in rates)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Resnet(nn.Module):
    """Digits of 8 x 8, one stage."""

    def __init__(self, rates: Sequence[float], width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(Convolving(r, width) for r in rates)
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class CharLM(nn.Module):
    """The next character of each of 48."""

    def __init__(self, rates: Sequence[float], characters: int, width: int = 48) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, width), nn.Embedding(48, width)
        self.blocks = nn.ModuleList(Attending(r, width, causal=True) for r in rates)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@dataclass(frozen=True, slots=True)
class Planted:
    """A trained net, the data to study it on and other data to know the truth from."""

    family: str
    seed: int
    net: nn.Module
    task: str
    calibration: Batches
    held_out: Batches
    loss: float


def planted(
    family: str,
    seed: int,
    *,
    steps: int,
    samples: int = 256,
    text: str | None = None,
    cache: str | None = None,
    plain: bool = False,
) -> Planted:
    """Returns a net of a family, trained; ``text`` is a file that ``charlm`` reads.

    ``cache`` is a folder that trained weights are kept in, so that a net is trained once. A
    ``plain`` net has all of its blocks all the time.
    """
    torch.manual_seed(seed)
    rates = torch.tensor([0.0, 0.2, 0.4, 0.6]).repeat(BLOCKS // 4)[torch.randperm(BLOCKS)].tolist()
    if plain:
        rates = [0.0] * BLOCKS
    if family == "charlm":
        if text is None:
            raise ValueError("charlm needs --text FILE")
        draw, calibration, held_out, characters = _characters(Path(text), samples)
        net: nn.Module = CharLM(rates, characters)
    else:
        draw, calibration, held_out = _digits(seed, samples)
        net = Vit(rates) if family == "vit" else Resnet(rates)
    name = f"{family}{' plain' * plain}"
    kept = None if cache is None else Path(cache) / f"{name}-{seed}-{steps}.safetensors"
    loss = _trained(net, draw, steps, kept)
    task = "generation" if family == "charlm" else "classification"
    return Planted(name, seed, net.eval(), task, calibration, held_out, loss)


def _digits(seed: int, samples: int) -> tuple[Any, Batches, Batches]:
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    # as they are, digits need no twelve blocks
    images += 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor(y)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]

    def draw() -> tuple[Tensor, Tensor]:
        rows = torch.randint(0, 1000, (64,))
        return images[rows] + 0.3 * torch.randn(64, 1, 8, 8), labels[rows]

    calibration = slice(1000, 1000 + samples)
    rest = slice(1000 + samples, None)
    return draw, *(
        list(zip(images[part].split(32), labels[part].split(32), strict=True))
        for part in (calibration, rest)
    )


def _characters(path: Path, samples: int) -> tuple[Any, Batches, Batches, int]:
    text = path.read_text(encoding="utf-8")
    known = sorted(set(text))
    ids = torch.tensor([known.index(c) for c in text])
    cut = int(0.9 * len(ids))

    def rows(starts: Tensor) -> tuple[Tensor, Tensor]:
        windows = ids[starts[:, None] + torch.arange(49)]
        return windows[:, :-1], windows[:, 1:]

    def draw() -> tuple[Tensor, Tensor]:
        return rows(torch.randint(0, cut - 50, (32,)))

    starts = torch.arange(cut, len(ids) - 50, 50)
    starts = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))]
    parts = starts[:samples], starts[samples : samples + 512]
    return draw, *([rows(s) for s in part.split(32)] for part in parts), len(known)


def _trained(net: nn.Module, draw: Any, steps: int, kept: Path | None) -> float:
    """Trains a net, or reads what was kept of it; returns its loss in training."""
    if kept is not None and kept.exists():
        with safe_open(kept, "pt") as file:
            net.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            return float(file.metadata()["loss"])
    loss = _train(net, draw, steps)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), kept, {"loss": repr(loss)})
    return loss


def _train(net: nn.Module, draw: Any, steps: int) -> float:
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loss = torch.zeros(())
    for _ in range(steps):
        x, y = draw()
        loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return float(loss.detach())
