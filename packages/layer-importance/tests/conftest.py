"""Nets and runs that several tests share."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Method, MethodScores, analyze


class Map(nn.Module):
    """A function as a block; the layers in it are there so that it has weights, and do not run."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Head(nn.Module):
    """The first token of blocks in a row; knows of a mask and leaves it to the task."""

    def __init__(self, blocks: nn.Sequential) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.blocks(x).flatten(1, -2)[:, 0] if x.ndim > 2 else self.blocks(x)


Score = Callable[..., MethodScores]


@pytest.fixture
def score_blocks() -> Score:
    """Runs one method on functions or modules in a row, in float64; units are `blocks.0`, ..."""

    def run(
        method: Method,
        blocks: Sequence[Callable[[Tensor], Tensor] | nn.Module],
        x: Tensor,
        labels: Tensor | None = None,
        *,
        split: int = 64,
        **options: Any,
    ) -> MethodScores:
        mapped = [b if isinstance(b, nn.Module) else Map(b, x.shape[-1]) for b in blocks]
        model = Head(nn.Sequential(*mapped)).to(x.dtype)
        labels = torch.zeros(len(x), dtype=torch.long) if labels is None else labels
        batches = list(zip(x.split(split), labels.split(split), strict=True))
        units = [f"blocks.{i}" for i in range(len(blocks))]
        return analyze(model, batches, methods=[method], units=units, **options)[method.name]

    return run


@pytest.fixture
def score_padded() -> Callable[..., list[MethodScores]]:
    """Runs a method twice on sentences of different lengths, with other padding each time."""

    def run(
        method: Callable[[], Method], blocks: Sequence[Callable[[Tensor], Tensor] | nn.Module]
    ) -> list[MethodScores]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(40, 5, 6, generator=generator, dtype=torch.float64)
        lengths = torch.randint(1, 6, (40, 1), generator=generator)
        mask = (torch.arange(5) < lengths).long()
        mapped = [b if isinstance(b, nn.Module) else Map(b, 6) for b in blocks]
        model = Head(nn.Sequential(*mapped)).double()
        units = [f"blocks.{i}" for i in range(len(blocks))]
        labels = (x[:, 0, 0] > 0).long()
        found = []
        for filling in (0.0, 1e3):
            filled = torch.where(mask[..., None].bool(), x, filling)
            batch = {"x": filled, "attention_mask": mask, "labels": labels}
            report = analyze(model, [batch], methods=[one := method()], units=units)
            found.append(report[one.name])
        return found

    return run
