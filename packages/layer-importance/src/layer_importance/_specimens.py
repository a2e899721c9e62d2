"""Small models with known truths, for the laws that every method keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance._analyze import analyze
from layer_importance._batch import take
from layer_importance._method import Method
from layer_importance._report import Report
from layer_importance._task import Task
from layer_importance._tasks.classification import Classification

SAMPLES, TOKENS, WIDTH, CLASSES, UNITS = 48, 4, 8, 3, 3


class Attention(nn.Module):
    """Two heads without biases: a module of zeros has no gradient at all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A residual block: attention, then an MLP, with dropout that must stay switched off."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(x))
        return x + self.dropout(self.down(self.up(x).relu()))


class Classifier(nn.Module):
    """Blocks in a row under a linear head over the mean token; ``name`` is where they are."""

    def __init__(self, blocks: Sequence[nn.Module], *, name: str = "blocks") -> None:
        super().__init__()
        self.name = name
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.add_module(name, nn.ModuleList(blocks))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in getattr(self, self.name):
            x = block(x)
        return self.head(x.mean(1))


@dataclass(frozen=True, slots=True)
class Specimen:
    """A model, all of its data as one batch, its task and where its units are.

    Attributes:
        model: it.
        data: one batch.
        units: paths of its units, in order of execution.
        task: how it is judged.
    """

    model: nn.Module
    data: Any
    units: tuple[str, ...]
    task: Task

    def batches(self, *sizes: int) -> list[Any]:
        """Returns the data in batches of these sizes, in their order."""
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        rows = [list(range(e - s, e)) for s, e in zip(sizes, ends, strict=True)]
        return [take(self.data, some) for some in rows]

    def report(self, method: Method, batches: Sequence[Any] | None = None) -> Report:
        """Returns what a method says about the model on batches, else on all its data."""
        return analyze(
            self.model,
            [self.data] if batches is None else batches,
            task=self.task,
            methods=[method],
            units=list(self.units),
        )

    def with_task(self, task: Task) -> "Specimen":
        """Returns the same under another task."""
        return replace(self, task=task)


class Scaled(Classification):
    """Classification whose loss is ``factor`` times as large."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Cross entropy, scaled."""
        return self.factor * super().loss(output, labels, batch)


def classifier(*, zero: int | None = None, name: str = "blocks") -> Specimen:
    """Returns a residual classifier of sentences in float64, the same every time.

    It is right about nearly every sample, so that whatever it loses does harm. Block ``zero``, if
    one is named, has nothing but zeros as weights: its branch adds nothing, whatever comes in, and
    its parameters have no gradient.
    """
    generator = torch.Generator().manual_seed(10)
    model = Classifier([Block(WIDTH) for _ in range(UNITS)], name=name).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7 * parameter.shape[-1] ** -0.5, generator=generator)
        for number, block in enumerate(getattr(model, name)):
            block.up.weight[0, 0] = 8.0  # one weight stands out
            if number == zero:
                for parameter in block.parameters():
                    parameter.zero_()
        x = torch.randn(SAMPLES, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
        logits = model.eval()(x)
    model.train()
    units = tuple(f"{name}.{i}" for i in range(UNITS))
    return Specimen(model, (x, logits.argmax(1)), units, Classification())


class Chaos(nn.Module):
    """A block whose output says nothing about its input, as far as any estimate can tell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return (1e6 * self.b(self.a(x).sin())).sin()


def unrelated(*, samples: int) -> Specimen:
    """Returns a classifier whose units hand on what is independent of what came in."""
    generator = torch.Generator().manual_seed(11)
    model = Classifier([Chaos(WIDTH) for _ in range(2)]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    x = torch.randn(samples, 1, WIDTH, generator=generator, dtype=torch.float64)
    y = torch.randint(0, CLASSES, (samples,), generator=generator)
    return Specimen(model, (x, y), ("blocks.0", "blocks.1"), Classification())
