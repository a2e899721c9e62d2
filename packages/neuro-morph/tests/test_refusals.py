"""What cannot be grown is refused by name, and nothing has changed then."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from neuro_morph import GrowthGraph, GrowthRefusedError, Morpher, Split, Widen

X = torch.linspace(-1, 1, 8).view(2, 4)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def complex_layers() -> nn.Sequential:
    kind = torch.complex64
    return nn.Sequential(nn.Linear(4, 8, dtype=kind), nn.Linear(8, 2, dtype=kind))


class Twice(nn.Module):
    """Layers that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = self.down(self.up(x).tanh())
        return x


class Coded(nn.Module):
    """A view with a number that stands in the code alone."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        return self.down(x.view(len(x), 3, 2).transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_weights_that_are_computed_are_refused_by_name(wrap: Callable[[Any], Any]) -> None:
    model = nn.Sequential(wrap(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    graph = GrowthGraph.capture(model, X, capture="dispatch")
    assert not any(group.growable for group in graph)
    assert any("parametrizations" in str(group.reason) for group in graph)


def test_a_size_that_stands_in_the_code_is_refused_by_name() -> None:
    graph = GrowthGraph.capture(Coded(), X, capture="dispatch")
    assert not any(group.growable for group in graph)
    assert "a number in the code" in str(graph["up.0"].reason)


@pytest.mark.parametrize(
    "model, x, why",
    [
        (mlp().to("meta"), X.to("meta"), "meta|not finite"),
        (complex_layers(), X, "complex"),
        (mlp(), X[:0], "empty"),
        (mlp(), X * float("nan"), "must hold numbers"),
        (mlp(), X * float("inf"), "not finite"),
    ],
)
def test_what_cannot_be_checked_is_refused_by_name(model: nn.Module, x: Any, why: str) -> None:
    x = x.to(next(model.parameters()).dtype)
    shapes = [p.shape for p in model.parameters()]
    refusals = (GrowthRefusedError, RuntimeError, ValueError)  # no numbers on meta
    with pytest.raises(refusals, match=why):
        Morpher(model, example_inputs=x, capture="dispatch").apply(Widen("0", by=2))
    assert [p.shape for p in model.parameters()] == shapes


def test_layers_called_twice_grow_once() -> None:
    model, x = Twice().double(), X.double()
    event = Morpher(model, example_inputs=x).apply(Widen("up", by=3, init=Split()))
    assert event.relative_change is not None
    assert event.relative_change <= 1e-12
    assert model.up.weight.shape == (11, 4)


def test_a_gradient_that_waits_is_refused_and_kept() -> None:
    model = mlp()
    model(X).sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    with pytest.raises(GrowthRefusedError, match="gradient"):
        Morpher(model, example_inputs=X).apply(Widen("0", by=1))
    assert all(
        torch.equal(g, p.grad)  # type: ignore[arg-type]
        for g, p in zip(grads, model.parameters(), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_grows_in_its_own_dtype(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    event = Morpher(model, example_inputs=X.to(dtype)).apply(Widen("0", by=2))
    assert event.relative_change is not None
    assert event.relative_change <= 1e-2
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_frozen_stays_frozen_memory_formats_and_modes_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Conv2d(4, 2, 1))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model[0].requires_grad_(False)
    model[1].eval()
    Morpher(model, example_inputs=torch.randn(2, 3, 5, 5)).apply(Widen("0", by=3))
    assert not model[0].weight.requires_grad
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert [m.training for m in model] == [True, False, True]
