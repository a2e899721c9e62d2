"""What a look at a model must leave as it was although the model itself acts on it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuro_morph import (
    Budget,
    Deepen,
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    collect_statistics,
)


class Merging(nn.Linear):
    """A layer with a low-rank part that is merged into its weight for evaluation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(3, 2))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.merged else y + x @ self.down.T @ self.up.T


class Freezing(nn.Linear):
    """A layer that is frozen in evaluation mode."""

    def train(self, mode: bool = True) -> "Freezing":
        self.requires_grad_(mode)
        return super().train(mode)


LAST: dict[str, Callable[[], nn.Module]] = {
    "merges": lambda: Merging(8, 3),
    "freezes": lambda: Freezing(8, 3),
}


def apply(morpher: Morpher, edit: Any) -> None:
    with suppress(GrowthRefusedError):
        morpher.apply(edit)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


LOOKS: dict[str, Callable[[Morpher, Tensor], Any]] = {
    "capture": lambda m, x: GrowthGraph.capture(m.model, x, capture="dispatch"),
    "probe": lambda m, x: m.probe(),
    "counting": lambda m, x: Budget().measure(m),
    "statistics": lambda m, x: collect_statistics(
        m.model, m.graph, [(x, torch.zeros(len(x), 3))], loss
    ),
    "a refused edit": lambda m, x: apply(m, Widen("2", by=1)),
    "an edit": lambda m, x: apply(m, Widen("0", by=2)),
}


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("last", LAST)
def test_a_model_whose_modes_do_something_is_left_as_it_was(
    last: str, look: str, mode: bool
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), LAST[last]()), torch.randn(5, 4)
    model.train(mode)
    before, frozen = model(x).detach(), [p.requires_grad for p in model.parameters()]
    LOOKS[look](Morpher(model, example_inputs=x, capture="dispatch"), x)
    torch.testing.assert_close(model(x).detach(), before, rtol=1e-5, atol=1e-6)
    assert [p.requires_grad for p in model.parameters()] == frozen
    assert all(m.training == mode for m in model.modules())


EDITS: dict[str, Any] = {
    "units": Widen("0", by=2),
    "copies": Widen("0", by=3, init=Split()),
    "a layer": Deepen("1"),
}


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("edit", EDITS)
def test_growth_under_autocast_is_growth(edit: str, used: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    before = model(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        if used:  # its copies of parameters are kept until the block ends
            model(x)
        event = Morpher(model, example_inputs=x, capture="dispatch").apply(EDITS[edit])
        assert model(x).dtype == torch.bfloat16
        torch.testing.assert_close(model(x).float(), before, rtol=0.05, atol=0.02)
    assert event.relative_change is not None
    assert event.relative_change <= 1e-5
    torch.testing.assert_close(model(x).detach(), before)
