"""What trains a network beside its optimizer's moments: schedulers, scalers, averages, factors."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neuro_morph import (
    Connect,
    Deepen,
    Duplicate,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
    register_optimizer_state,
)
from neuro_morph._optimizer_state import STATE_POWERS

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)
    ).double()


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = (model(X) - X[:, :2].square()).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "steps": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 15),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=20),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, threshold=0.2),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [6]
    ),
}


def pace(optimizer: torch.optim.Optimizer) -> list[float]:
    return [v for g in optimizer.param_groups for v in (g["lr"], g.get("initial_lr"), *g["betas"])]


@pytest.mark.parametrize("kind", sorted(SCHEDULERS))
@pytest.mark.parametrize("grows", [True, False], ids=["grown", "put back"])
def test_schedulers_go_on_as_if_nothing_had_grown(kind: str, grows: bool) -> None:
    courses, losses = [], []
    for edited in (False, True):
        model = net()
        weights = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() == 1]
        optimizer = torch.optim.AdamW([{"params": weights}, {"params": rest, "lr": 3e-3}], 1e-2)
        scheduler = SCHEDULERS[kind](optimizer)
        morpher = Morpher(
            model, optimizer, example_inputs=X, others=[scheduler], capture="dispatch"
        )
        losses.append([])
        courses.append([])

        def train(
            count: int, model: Any = model, optimizer: Any = optimizer, scheduler: Any = scheduler
        ) -> None:
            for _ in range(count):
                losses[-1].append(float(step(model, optimizer)))
                scheduler.step(*([1.0] if kind == "plateau" else []))
                courses[-1].append(pace(optimizer))

        train(5)
        if edited and grows:
            for edit in (Widen("0", by=3), Deepen("1"), Connect("1", "4")):
                morpher.apply(edit)
        elif edited:
            kept, seen = morpher.snapshot(), len(courses[-1])
            morpher.apply(Widen("0", by=3))
            train(4)
            kept.restore()
            del courses[-1][seen:], losses[-1][seen:]
        train(10)
    assert courses[0] == courses[1]
    assert len({tuple(map(str, each)) for each in courses[0]}) > 1
    if not grows:
        assert losses[0] == losses[1]


@pytest.mark.parametrize("grows", [True, False], ids=["grown", "put back"])
def test_a_scaler_of_gradients_keeps_its_scale_and_its_count(grows: bool) -> None:
    states, outputs, scales = [], [], set()
    for edited in (False, True):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        morpher = Morpher(
            model,
            optimizer,
            example_inputs=X,
            others=[scaler],
            dynamics="exact",
            capture="dispatch",
        )

        def train(count: int, *parts: Any) -> None:
            model, optimizer, scaler = parts
            for k in range(count):
                loss = (model(X) - X[:, :2]).square().mean() * (float("inf") if k == 1 else 1.0)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_value_(model.parameters(), 1e3)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                scales.add(scaler.get_scale())

        train(6, model, optimizer, scaler)
        if edited:
            kept = morpher.snapshot()
            morpher.apply(Widen("0", by=6, init=Duplicate()))
            if not grows:
                train(5, model, optimizer, scaler)
                kept.restore()
        train(7, model, optimizer, scaler)
        states.append(scaler.state_dict())
        outputs.append(model(X).detach())
    assert states[0] == states[1]
    assert len(scales) > 1
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12 if grows else 0.0)


def averaged(model: nn.Module, buffers: bool = True) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=buffers)


def test_an_average_of_a_grown_network_is_that_of_the_one_that_did_not_grow() -> None:
    outputs = []
    for grows in (False, True):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        average = averaged(model)
        for _ in range(5):
            step(model, optimizer)
            average.update_parameters(model)
        if grows:
            morpher = Morpher(
                model,
                optimizer,
                example_inputs=X,
                averages=[average],
                dynamics="exact",
                capture="dispatch",
            )
            before = average(X)
            morpher.apply(Widen("0", by=3, init=Split()))
            morpher.apply(Widen("2", by=5, init=Duplicate(share=0.5)))
            torch.testing.assert_close(average(X), before, rtol=0, atol=1e-13)
        for _ in range(10):
            step(model, optimizer)
            average.update_parameters(model)
        outputs.append((average(X).detach(), model(X).detach()))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-11)
    assert not torch.allclose(*outputs[0])


@pytest.mark.parametrize(
    "edits",
    [
        [Widen("0", by=3)],
        [Widen("2", by=3, init=ZeroFanOut())],
        [Deepen("1"), Widen("0", by=2)],
        [Deepen("4", block="residual"), Connect("1", "4"), Connect("1", "2")],
    ],
    ids=["free", "counted", "deeper", "connected"],
)
def test_an_average_computes_what_it_did_after_every_edit_and_goes_on(edits: Any) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-1)
    average = averaged(model)
    for _ in range(5):
        step(model, optimizer)
        average.update_parameters(model)
    morpher = Morpher(model, optimizer, example_inputs=X, averages=[average], capture="dispatch")
    kept, before = morpher.snapshot(), average(X)
    held = {k: v.clone() for k, v in average.state_dict().items()}
    assert not torch.allclose(before, model(X))
    for edit in edits:
        morpher.apply(edit)
    torch.testing.assert_close(average(X), before, rtol=0, atol=1e-13)
    for _ in range(60):
        step(model, optimizer)
        average.update_parameters(model)
    assert {k: v.shape for k, v in average.module.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for _ in range(150):
        average.update_parameters(model)
    torch.testing.assert_close(average(X), model(X), rtol=0, atol=1e-8)
    kept.restore()
    after = average.state_dict()
    assert held.keys() == after.keys()
    assert all(torch.equal(held[k], after[k]) for k in held)


def test_an_average_of_another_model_is_refused_by_name_and_nothing_changes() -> None:
    model, other = net(), nn.Sequential(nn.Linear(4, 3)).double()
    morpher = Morpher(model, example_inputs=X, averages=[averaged(other)], capture="dispatch")
    with pytest.raises(GrowthRefusedError, match=r"AveragedModel is no average.*'0.weight'"):
        morpher.apply(Widen("0", by=1))
    assert model[0].out_features == 6


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a mean of gradients, of which it holds a slower one."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                held = self.state[p].setdefault("slow_gradient", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * held.lerp(p.grad, 1 - first).sign())
                held.lerp_(p.grad, 1 - second)


def test_an_optimizer_that_nobody_knows_is_refused_until_its_state_is_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neuro_morph._optimizer_state.STATE_POWERS", dict(STATE_POWERS))
    monkeypatch.setattr("neuro_morph._slots.STATE_POWERS", dict(STATE_POWERS))
    model = net()
    optimizer = Lion(model.parameters())
    step(model, optimizer)
    morpher = Morpher(model, optimizer, example_inputs=X, capture="dispatch")
    with pytest.raises(GrowthRefusedError, match=r"Lion holds 'slow_gradient' for '0.weight'"):
        morpher.apply(Widen("0", by=2, init=Split()))
    assert model[0].out_features == 6
    before = optimizer.state[model[0].weight]["slow_gradient"].clone()
    register_optimizer_state("slow_gradient", 1)
    morpher.apply(Widen("0", by=1, init=Split(share=0.25, parents=(2,))))
    after = optimizer.state[model[0].weight]["slow_gradient"]
    torch.testing.assert_close(after[6], before[2] * 0.25)
    torch.testing.assert_close(after[2], before[2] * 0.75)


@pytest.mark.parametrize("init", [Split(), Duplicate()], ids=["split", "duplicate"])
def test_steps_by_signs_go_on_as_if_nothing_had_grown(
    init: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STATE_POWERS, "slow_gradient", 1.0)
    outputs = []
    for grows in (False, True):
        model = net()
        optimizer = Lion(model.parameters())
        for _ in range(5):
            step(model, optimizer)
        if grows:
            morpher = Morpher(
                model, optimizer, example_inputs=X, dynamics="exact", capture="dispatch"
            )
            morpher.apply(Widen("0", by=6, init=init))
        for _ in range(20):
            step(model, optimizer)
        outputs.append(model(X).detach())
    assert float((outputs[0] - outputs[1]).abs().max()) <= 1e-10


@pytest.mark.parametrize("init", [Split(share=0.3), Duplicate()], ids=["split", "duplicate"])
def test_factors_of_squares_are_those_that_the_grown_network_would_have_had(init: Any) -> None:
    def built() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)
        ).double()

    states = []
    for first in (True, False):  # gradients of one example are products: two factors say it all
        model = built()
        optimizer = torch.optim.Adafactor(model.parameters(), 0.0)
        edits = [Widen("0", by=6, init=init), Widen("2", by=5, init=init)]
        morpher = Morpher(model, optimizer, example_inputs=X, capture="dispatch")
        for edit in edits if first else ():
            morpher.apply(edit)
        model(X[:1]).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        for edit in () if first else edits:
            morpher.apply(edit)
        states.append([optimizer.state[p] for p in model.parameters()])
        step(model, optimizer)
    for grown, migrated in zip(*states, strict=True):
        assert grown.keys() == migrated.keys()
        for key in grown:
            torch.testing.assert_close(grown[key], migrated[key])


def test_factors_of_a_convolution_and_of_new_units_have_the_grown_shapes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten()).double()
    optimizer = torch.optim.Adafactor(model.parameters(), 1e-2)
    x = torch.randn(2, 2, 6, 6).double()
    morpher = Morpher(model, optimizer, example_inputs=x, capture="dispatch")
    for _ in range(2):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        morpher.apply(Widen("0", by=2))
    model(x).square().mean().backward()
    optimizer.step()
    assert optimizer.state[model[2].weight]["row_var"].shape == (3, 8, 3, 1)
    assert optimizer.state[model[2].weight]["col_var"].shape == (3, 8, 1, 3)


@pytest.mark.parametrize(
    "kind, dynamics, why",
    [
        ("LBFGS", "plain", "LBFGS holds past steps of all parameters in one vector"),
        ("Adafactor", "exact", "Adafactor cannot go on with dynamics='exact': it scales"),
        ("SparseAdam", "exact", "SparseAdam cannot go on with dynamics='exact'"),
    ],
)
def test_optimizers_that_cannot_go_on_are_refused_by_name(
    kind: str, dynamics: str, why: str
) -> None:
    model = net()
    optimizer = getattr(torch.optim, kind)(model.parameters())
    morpher = Morpher(model, optimizer, example_inputs=X, dynamics=dynamics, capture="dispatch")
    with pytest.raises(GrowthRefusedError, match=why):
        morpher.apply(Widen("0", by=1))
    assert model[0].out_features == 6


def test_moments_of_sparse_gradients_grow_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2)).double()
    optimizers = [
        torch.optim.SparseAdam(model[0].parameters()),
        torch.optim.Adam(model[1].parameters()),
    ]
    ids = torch.tensor([1, 5, 5])
    morpher = Morpher(model, optimizers, example_inputs=ids, capture="dispatch")
    for _ in range(2):
        model(ids).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        before = optimizers[0].state[model[0].weight]["exp_avg"].clone()
        morpher.apply(Widen("0", by=3))
        after = optimizers[0].state[model[0].weight]["exp_avg"]
        torch.testing.assert_close(after[:, : before.shape[1]], before)
    assert model[0].weight.shape == (9, 10)


def test_steps_that_are_made_orthogonal_go_on_but_not_as_if_nothing_had_grown() -> None:
    model = net()
    weights = [p for p in model.parameters() if p.dim() == 2]
    optimizer = torch.optim.Muon(weights, 1e-2)
    step(model, optimizer)
    model.zero_grad()
    exact = Morpher(model, optimizer, example_inputs=X, dynamics="exact", capture="dispatch")
    with pytest.raises(GrowthRefusedError, match="Muon cannot go on with dynamics='exact'"):
        exact.apply(Widen("0", by=1))
    exact.slots.close()
    Morpher(model, optimizer, example_inputs=X, capture="dispatch").apply(Widen("0", by=2))
    assert optimizer.state[model[2].weight]["momentum_buffer"].shape == (5, 8)
    assert step(model, optimizer).isfinite()
