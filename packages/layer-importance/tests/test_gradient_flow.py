"""Gradient flow against closed forms."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Units, analyze, discover
from layer_importance._methods.gradient_flow import GradientFlow


def _rotation(seed: int, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(matrix)[0]


def _turn(gain: float, seed: int) -> Callable[[Tensor], Tensor]:
    matrix = gain * _rotation(seed)
    return lambda x: x @ matrix


X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("gain", [1.3, 0.5, 1.0])
def test_scaled_rotations_amplify_by_their_gain(gain: float, score_blocks: Any) -> None:
    blocks = [_turn(gain, seed) for seed in range(5)]
    found = score_blocks(GradientFlow(), blocks, X, split=7)
    for name, score in found.items():
        assert score.value == pytest.approx(abs(gain - 1), abs=1e-10)
        assert found.extras["amplification"][name] == pytest.approx(gain, rel=1e-10)
        assert found.extras["log_amplification"][name] == pytest.approx(math.log(gain), abs=1e-10)
        # each step to the front multiplies by the gain, each step in depth divides by it
        assert found.extras["log_slope"][name] == pytest.approx(-math.log(gain), abs=1e-10)


def test_a_zero_branch_hands_gradients_on(score_blocks: Any) -> None:
    found = score_blocks(GradientFlow(), [lambda x: x + 0 * x.sin(), _turn(2.0, 1)], X)
    assert found["blocks.0"].value == pytest.approx(0, abs=1e-12)
    assert found.extras["amplification"]["blocks.0"] == pytest.approx(1)
    assert found.extras["skip_share"]["blocks.0"] == pytest.approx(1)


def test_the_branch_and_the_skip_share_a_gradient(score_blocks: Any) -> None:
    matrix = _rotation(3)
    found = score_blocks(GradientFlow(), [lambda x: x + 3 * x @ matrix], X)
    assert found.extras["skip_share"]["blocks.0"] == pytest.approx(1 / 4, rel=1e-10)


def test_a_detached_unit_lets_nothing_through(score_blocks: Any) -> None:
    matrix = _rotation(1)
    blocks = [_turn(1.0, 0), lambda x: x.detach() @ matrix, _turn(1.0, 2)]
    found = score_blocks(GradientFlow(), blocks, X)
    assert found["blocks.1"].value == 1
    assert found.extras["amplification"]["blocks.1"] == 0
    assert found["blocks.2"].value == pytest.approx(0, abs=1e-10)
    # nothing reaches the first unit's output: a ratio of zeros says nothing
    assert "blocks.0" not in found.scores
    assert found.missing["blocks.0"]


def test_padding_does_not_count(score_padded: Any) -> None:
    first, second = score_padded(GradientFlow, [torch.sin, torch.tanh])
    for name in first:
        assert first[name].value == pytest.approx(second[name].value, rel=1e-12)


def test_a_branch_is_judged_by_what_comes_back_through_it() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6, bias=False, dtype=torch.float64)
            with torch.no_grad():
                self.layer.weight.copy_(0.5 * _rotation(0))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(Half() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for branch in self.branches:
                x = x + branch(x)
            return x

    model, batch = Residual(), (X, torch.arange(30) % 6)
    found = discover(model, batch, units=[f"branches.{i}" for i in range(3)])
    units = Units(tuple(replace(unit, removal="zero") for unit in found))
    scores = analyze(model, [batch], methods=["gradient_flow"], units=units)["gradient_flow"]
    amplification = list(scores.extras["amplification"].values())
    assert amplification == pytest.approx([0.5] * 3, rel=1e-10)
