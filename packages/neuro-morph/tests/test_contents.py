from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import GrowthRefusedError, Morpher, Widen


def net() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)


def step(model: nn.Module, x: Any) -> Any:
    for parameter in model.parameters():
        parameter.grad = None
    loss = model(x).square().mean()
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        parameter.grad = None
    return loss


def test_a_loss_that_is_still_held_does_not_stand_in_the_way_of_growth() -> None:
    model, x = net()
    held = [step(model, x)]
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    morpher.apply(Widen("0", by=2))
    held.append(step(model, x))
    snapshot = morpher.snapshot()
    morpher.apply(Widen("0", by=3))
    held.append(step(model, x))
    snapshot.restore()
    held.append(step(model, x))
    strict = Morpher(model, example_inputs=x, capture="dispatch")
    strict.tolerance = -1.0  # nothing is within it
    with pytest.raises(GrowthRefusedError, match="the output changes"):
        strict.apply(Widen("0", by=1))
    held.append(step(model, x))
    assert model[0].weight.shape == (6, 3)
    assert len(held) == 5


def test_hooks_of_a_parameter_go_on() -> None:
    model, x = net()
    seen: list[Any] = []
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.shape))
    held = step(model, x)
    Morpher(model, example_inputs=x, capture="dispatch").apply(Widen("0", by=2))
    step(model, x)
    assert seen == [(4, 3), (6, 3)]
    assert held.grad_fn is not None
