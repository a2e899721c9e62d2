"""Differences among numbers that are far larger."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import GrowthRefusedError, Morpher, Split, Widen
from neuro_morph._checking import change_between

MASK = torch.tensor([False, False, True])


def masked(y: Tensor, fill: float) -> Tensor:
    return y.masked_fill(MASK, fill)


def masked_here_and_there(y: Tensor, fill: float) -> Tensor:
    return y.masked_fill((torch.arange(y.numel()) % 3 == 0).view_as(y), fill)


def beside_coordinates(y: Tensor, fill: float) -> Tensor:
    return torch.cat([y.sigmoid(), y[:, :1].detach() * 0 + torch.linspace(-1, 1, 4) * fill], -1)


def in_channels(y: Tensor, fill: float) -> Tensor:
    return torch.stack([y, torch.ones_like(y) * fill, y.flip(-1)], 1)


OUTPUTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "masked": masked,
    "masked here and there": masked_here_and_there,
    "beside coordinates": beside_coordinates,
    "in channels": in_channels,
}


class Filled(nn.Module):
    """Two layers, the hidden units scaled by their number or not, some of the outputs huge."""

    def __init__(self, name: str, fill: float, *, counted: bool) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 8), nn.Linear(8, 3)
        self.name, self.fill, self.counted = name, fill, counted

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        y = self.c(h / h.shape[-1] ** 0.5 if self.counted else h)
        return OUTPUTS[self.name](y, self.fill)


def morpher_of(name: str, fill: float, dtype: torch.dtype, *, counted: bool) -> Morpher:
    torch.manual_seed(0)
    model = Filled(name, fill, counted=counted).to(dtype)
    return Morpher(model, example_inputs=torch.randn(6, 4).to(dtype), capture="dispatch")


FILLS = [-1e4, -1e9, float(torch.finfo(torch.float32).min)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", OUTPUTS)
def test_huge_numbers_in_the_output_hide_no_change(
    name: str, fill: float, dtype: torch.dtype
) -> None:
    morpher = morpher_of(name, fill, dtype, counted=True)
    with pytest.raises(GrowthRefusedError, match="the output changes by"):
        morpher.apply(Widen("a", by=8))
    assert morpher.model.a.weight.shape == (8, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", OUTPUTS)
def test_huge_numbers_in_the_output_refuse_no_exact_growth(
    name: str, fill: float, dtype: torch.dtype
) -> None:
    morpher = morpher_of(name, fill, dtype, counted=False)
    for init in ({}, {"init": Split()}):
        assert morpher.apply(Widen("a", by=8, **init)).decision == "committed"


def logits(rows: int) -> Tensor:
    return torch.randn(rows, 7, 50, generator=torch.Generator().manual_seed(0)).double()


ROUNDED: dict[str, Callable[[], Tensor]] = {
    "one row": lambda: logits(1)[:, 0],
    "many": lambda: logits(8),
    "a few small by chance": lambda: logits(8) * torch.tensor([1e-9] * 5 + [1.0] * 45).double(),
    "all alike": lambda: logits(1).expand(8, 7, 50),
    "probabilities": lambda: (30 * logits(8)).softmax(-1),
    "saturated": lambda: torch.tanh(100 * logits(8)),
    "mostly zeros": lambda: torch.relu(logits(8) - 2.5),
    "each of another size": lambda: logits(8) * torch.logspace(-3, 3, 50).double(),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_stays_rounding_however_the_sizes_are_spread(name: str, seed: int) -> None:
    y = ROUNDED[name]()
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).double()
    rounded = y + 2e-7 * noise * (y.abs() if name == "each of another size" else y.abs().max())
    change = change_between({"": y.float()}, {"": rounded.float()})
    assert 0 < change.relative <= 1e-5


def test_what_cancels_but_for_rounding_is_no_change() -> None:
    y = logits(8).float()
    parts = [torch.cat([y, 1e-7 * logits(8).flip(k).float()], -1) for k in (0, 1)]
    assert change_between({"": parts[0]}, {"": parts[1]}).within(1e-5)


SHAPES: list[Any] = [(), (5,), (1, 1), (2, 3), (2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_numbers_of_one_size_are_judged_by_the_largest(shape: Any, scale: float) -> None:
    y = scale * torch.ones(shape).double()
    assert change_between({"": y}, {"": 1.01 * y}).relative == pytest.approx(0.01)
    assert change_between({"": y}, {"": y.clone()}).relative == 0.0
