from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import Duplicate, GrowthRefusedError, Morpher, Split, Widen

OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(
        p, 0.01, momentum=0.5, centered=True, weight_decay=0.01
    ),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, weight_decay=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, 0.5),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "radam": lambda p: torch.optim.RAdam(p, 0.01),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),  # one before BatchNorm has only noise to follow
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 2),
    ).double()


X = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(X) - X.mean((2, 3))).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()(X).detach()


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
@pytest.mark.parametrize("init", [Split(), Duplicate()], ids=["split", "duplicate"])
def test_training_goes_on_as_if_nothing_had_grown(kind: str, init: Any) -> None:
    outputs = []
    for grows in (False, True):
        model = net()
        optimizer = OPTIMIZERS[kind](model.parameters())
        train(model.train(), optimizer, 5)
        if grows:
            morpher = Morpher(
                model.train(),
                optimizer,
                example_inputs=X,
                dynamics="exact",
                capture="dispatch",
            )
            for name, size in (("0", 4), ("3", 6)):
                morpher.apply(Widen(name, by=size, init=init))
            morpher.apply(Widen("0", by=8, init=init))
        outputs.append(train(model.train(), optimizer, 20))
    assert float((outputs[0] - outputs[1]).abs().max()) <= 1e-10


@pytest.mark.parametrize("first, second", [("exact", "exact"), ("exact", "plain")])
@pytest.mark.parametrize("init", [Split(), Duplicate()], ids=["split", "duplicate"])
def test_what_another_run_of_the_model_grew_goes_on_as_well(
    first: str, second: str, init: Any
) -> None:
    outputs = []
    for runs in (0, 1, 2):
        model = net()
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        train(model.train(), optimizer, 5)
        for run in range(runs):
            dynamics = (first, second)[run]
            morpher = Morpher(
                model.train(), optimizer, example_inputs=X, dynamics=dynamics, capture="dispatch"
            )
            name, by = (("0", 4), ("3", 6))[run]
            morpher.apply(Widen(name, by=by, init=init))
        outputs.append(train(model.train(), optimizer, 20))
        if runs == 2:
            morpher.release()
            train(model.train(), optimizer, 1)
    assert float((outputs[0] - outputs[1]).abs().max()) <= 1e-10
    if second == "exact":
        assert float((outputs[0] - outputs[2]).abs().max()) <= 1e-10


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_units_that_are_normalised_together_train_on_as_they_did_at_even_shares(kind: str) -> None:
    outputs = []
    for grows in (False, True):
        model = net()
        optimizer = OPTIMIZERS[kind](model.parameters())
        train(model.train(), optimizer, 5)
        if grows:
            morpher = Morpher(
                model.train(), optimizer, example_inputs=X, dynamics="exact", capture="dispatch"
            )
            with pytest.raises(GrowthRefusedError, match=r"'6' cannot be widened with dynamics="):
                morpher.apply(Widen("6", by=5, init=Duplicate()))
            morpher.apply(Widen("6", by=5, init=Duplicate(share=0.5)))
            morpher.apply(Widen("3", by=6, init=Duplicate()))
        outputs.append(train(model.train(), optimizer, 20))
    assert float((outputs[0] - outputs[1]).abs().max()) <= 1e-10


def test_training_would_go_another_way_if_the_optimizer_began_anew() -> None:
    outputs = []
    for grows in (False, True):
        model = net()
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        train(model.train(), optimizer, 5)
        if grows:
            Morpher(model, example_inputs=X, capture="dispatch").apply(
                Widen("0", by=4, init=Split())
            )
            optimizer = OPTIMIZERS["adamw"](model.parameters())
        outputs.append(train(model.train(), optimizer, 20))
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["momentum", "adam", "adagrad"])
def test_moments_are_those_of_the_gradients_that_the_copies_would_have_had(kind: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    optimizer = OPTIMIZERS[kind](model.parameters())
    x = torch.randn(4, 3).double()
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = {k: v.clone() for k, v in optimizer.state[model[0].weight].items() if k != "step"}
    columns = {k: v.clone() for k, v in optimizer.state[model[2].weight].items() if k != "step"}
    Morpher(model, optimizer, example_inputs=x).apply(
        Widen("0", by=1, init=Split(share=0.25, parents=(1,)))
    )
    for key, power in (("momentum_buffer", 1), ("exp_avg", 1), ("exp_avg_sq", 2), ("sum", 2)):
        if key in before:
            rows = optimizer.state[model[0].weight][key]
            torch.testing.assert_close(rows[2], before[key][1] * 0.25**power)
            torch.testing.assert_close(rows[1], before[key][1] * 0.75**power)
            torch.testing.assert_close(rows[0], before[key][0])
            wide = optimizer.state[model[2].weight][key]
            torch.testing.assert_close(wide, columns[key][:, [0, 1, 1]])


def test_identities_of_parameters_are_kept() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    before = [id(p) for p in model.parameters()]
    Morpher(model, optimizer, example_inputs=X, capture="dispatch").apply(Widen("0", by=3))
    assert [id(p) for p in model.parameters()] == before
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == before
