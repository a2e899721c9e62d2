import pytest
import torch
from torch import nn

from neuro_morph import Divide, Morpher, Widen


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()


X = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    (model(X) - 1).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_units_divide_with_noise_and_the_network_computes_what_it_did() -> None:
    model = net().eval()
    before, rows = model(X), model[0].weight.detach().clone()
    Morpher(model, example_inputs=X).apply(
        Widen("0", by=2, init=Divide(parents=(3, 1), noise=0.1, steps=5))
    )
    torch.testing.assert_close(model(X), before, rtol=0, atol=1e-12)
    distance = (model[0].weight.detach()[4:] - rows[[3, 1]]).norm() / rows[[3, 1]].norm()
    assert 0.03 < float(distance) < 0.3


def test_what_reads_a_new_unit_comes_in_step_by_step() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    columns = model[4].weight.detach().clone()[:, 16:32]
    morpher = Morpher(model, optimizer, example_inputs=X)
    morpher.apply(Widen("0", by=1, init=Divide(parents=(1,), noise=0.0, steps=4)))
    for taken in range(6):
        share = 0.5 * min(taken / 4, 1.0)
        torch.testing.assert_close(model[4].weight.detach()[:, 64:], columns * share)
        step(model, optimizer)


def test_columns_train_while_they_come_in() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    morpher = Morpher(model, optimizer, example_inputs=X)
    morpher.apply(Widen("0", by=2, init=Divide(parents=(0, 1), steps=10)))
    losses = []
    for _ in range(30):
        losses.append(float((model(X) - 1).square().mean().detach()))
        step(model, optimizer)
    assert losses[-1] < losses[0] / 5
    assert not morpher.slots.slots[model[4].weight].ramps


def test_a_network_grows_again_while_units_come_in() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    morpher = Morpher(model, optimizer, example_inputs=X)
    morpher.apply(Widen("0", by=2, init=Divide(parents=(0, 1), steps=4)))
    step(model, optimizer)
    ramp = morpher.slots.slots[model[4].weight].ramps[0]
    assert ramp.held is not None
    held = ramp.held.clone()
    morpher.apply(Widen("0", by=3))
    ramp = morpher.slots.slots[model[4].weight].ramps[0]
    torch.testing.assert_close(ramp.held, held)
    torch.testing.assert_close(model[4].weight.detach()[:, ramp.entries], held * 0.25)


def test_undoing_takes_the_ramp_away() -> None:
    model = net()
    morpher = Morpher(model, torch.optim.SGD(model.parameters(), 0.1), example_inputs=X)
    kept = morpher.snapshot()
    morpher.apply(Widen("0", by=1, init=Divide(parents=(0,), steps=4)))
    kept.restore()
    assert not morpher.slots.slots
    assert model[4].weight.shape == (3, 64)


@pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"noise": float("nan")}, {"steps": -1}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Divide(parents=(0,), **wrong)  # type: ignore[arg-type]
    model = net()
    with pytest.raises(ValueError, match="parents must be 2 units from 0 to 3"):
        Morpher(model, example_inputs=X).apply(Widen("0", by=2, init=Divide(parents=(0, 4))))
