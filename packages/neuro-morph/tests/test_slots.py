from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from neuro_morph import Divide, GrowthRefusedError, Morpher, Split, Widen

Optimizers = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizers] = {
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
}
GENERATOR = torch.Generator().manual_seed(3)
X, Y = (torch.randn(16, n, generator=GENERATOR, dtype=torch.float64) for n in (4, 3))
IDS = torch.tensor([0, 3, 3, 7, 1])


def run(
    make: Optimizers = OPTIMIZERS["momentum"], dynamics: str = "exact", **morpher: Any
) -> tuple[nn.Module, torch.optim.Optimizer, Morpher]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = make(model.parameters())
    settings = {"example_inputs": X, "dynamics": dynamics, "capture": "dispatch", **morpher}
    return model, optimizer, Morpher(model, optimizer, **settings)


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, seen: list[Tensor]) -> Any:
    def closure() -> Tensor:
        optimizer.zero_grad()
        output = model(X)
        seen.append(output.detach())
        loss = (output - Y).square().mean()
        loss.backward()
        return loss

    return closure


CALLS: dict[str, Callable[[torch.optim.Optimizer, Any], Any]] = {
    "before the step": lambda optimizer, closure: (closure(), optimizer.step()),
    "in the step": lambda optimizer, closure: optimizer.step(closure),
    "by name": lambda optimizer, closure: optimizer.step(closure=closure),
}


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_a_closure_runs_on_the_network_as_it_is(kind: str, call: str) -> None:
    outputs = []
    for grows in (False, True):
        model, optimizer, morpher = run(OPTIMIZERS[kind])
        seen: list[Tensor] = []
        for step in range(6):
            if grows and step == 2:
                optimizer.zero_grad()
                morpher.apply(Widen("0", by=4, init=Split()))
            CALLS[call](optimizer, closure_of(model, optimizer, seen))
        outputs.append(torch.stack([*seen, model(X).detach()]))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("call", sorted(CALLS))
def test_units_come_in_a_step_at_a_time_whatever_calls_the_closure(call: str) -> None:
    changes = []
    for way in ("before the step", call):
        model, optimizer, morpher = run(lambda p: torch.optim.SGD(p, 0.0), "plain")
        before, seen = model(X).detach(), []
        morpher.apply(Widen("0", by=4, init=Divide((0, 1, 2, 3), steps=10)))
        for _ in range(4):
            CALLS[way](optimizer, closure_of(model, optimizer, seen))
        changes.append([float((each - before).abs().max()) for each in seen])
    assert changes[1] == changes[0]
    part = torch.tensor(changes[1]) / changes[1][1]
    torch.testing.assert_close(part, torch.arange(4.0), rtol=0, atol=1e-5)
    assert changes[1][1] > 1e-3


class Twice(torch.optim.SGD):
    """Calls its closure again after a part of its step, as line searches do."""

    def step(self, closure: Any = None) -> Any:
        closure()
        super().step()
        return closure()


def test_a_closure_that_is_called_twice_sees_the_first_part_of_the_step() -> None:
    outputs = []
    for grows in (False, True):
        model, optimizer, morpher = run(lambda p: Twice(p, 0.1))
        if grows:
            morpher.apply(Widen("0", by=4, init=Split()))
        seen: list[Tensor] = []
        for _ in range(3):
            optimizer.step(closure_of(model, optimizer, seen))
        outputs.append(torch.stack(seen))
    assert not torch.equal(outputs[0][0], outputs[0][1])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)


class Breaks(torch.optim.SGD):
    """Raises after its step is made, before anything is told of it."""

    breaks: BaseException | None = None

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        if self.breaks is not None:
            error, self.breaks = self.breaks, None
            raise error
        return found


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")], ids=repr)
@pytest.mark.parametrize("dynamics", ["exact", "plain"])
@pytest.mark.parametrize("scheduled", ["never", "before", "after"])
def test_a_step_that_raises_leaves_what_grew_as_it_was(
    dynamics: str, error: BaseException, scheduled: str
) -> None:
    model, optimizer, morpher = run(lambda p: Breaks(p, 0.1), dynamics)
    schedule = StepLR(optimizer, 100) if scheduled == "before" else None
    init = Split() if dynamics == "exact" else Divide((0, 1), steps=5)
    morpher.apply(Widen("0", by=2, init=init))
    schedule = StepLR(optimizer, 100) if scheduled == "after" else schedule
    assert morpher.slots.slots
    closure_of(model, optimizer, [])()
    optimizer.step()
    closure_of(model, optimizer, [])()
    held = {p: (p.detach().clone(), p.grad) for p in morpher.slots.slots}
    gradients = [g.clone() for _, g in held.values()]
    slots = morpher.slots.state_dict()
    optimizer.breaks = error
    with pytest.raises(type(error)):
        optimizer.step()
    for (parameter, (data, gradient)), known in zip(held.items(), gradients, strict=True):
        assert torch.equal(parameter, data)
        assert parameter.grad is gradient
        assert torch.equal(gradient, known)
    again = morpher.slots.state_dict()
    assert [r["taken"] for s in again.values() for r in s["ramps"]] == [
        r["taken"] for s in slots.values() for r in s["ramps"]
    ]
    optimizer.step()
    assert not torch.equal(next(iter(held)), held[next(iter(held))][0])
    if schedule is not None:
        schedule.step()  # it must find the optimizer's step as it knows it
    morpher.slots.close()
    assert ("step" in vars(optimizer)) is (schedule is not None)


def test_a_closure_that_raises_leaves_the_network_computing_what_it_did() -> None:
    model, optimizer, morpher = run()
    morpher.apply(Widen("0", by=4, init=Split()))
    before = model(X).detach()

    def closure() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(model(X), before)


def test_a_step_behind_the_back_of_the_guard_is_put_right_when_the_slots_are_asked() -> None:
    model, optimizer, morpher = run(lambda p: Breaks(p, 0.0))
    morpher.apply(Widen("0", by=4, init=Split()))
    before = model(X).detach()
    optimizer.breaks = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        type(optimizer).step(optimizer)
    morpher.snapshot()
    assert torch.equal(model(X), before)


def test_gradients_are_left_as_they_were_by_a_step() -> None:
    model, optimizer, morpher = run()
    morpher.apply(Widen("0", by=4, init=Split()))
    closure_of(model, optimizer, [])()
    held = [(p.grad, p.grad.clone()) for p in model.parameters()]
    optimizer.step()
    for parameter, (gradient, known) in zip(model.parameters(), held, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, known)


class Table(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(10, 6, sparse=sparse), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.table(ids))


SPARSE: dict[str, Optimizers] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch's own Adagrad
@pytest.mark.parametrize("kind", sorted(SPARSE))
def test_gradients_of_some_rows_only_train_on_as_if_nothing_had_grown(kind: str) -> None:
    outputs = []
    for grows in (False, True):
        torch.manual_seed(0)
        model = Table(sparse=True).double()
        optimizer = SPARSE[kind](model.parameters())
        morpher = Morpher(
            model, optimizer, example_inputs=IDS, dynamics="exact", capture="dispatch"
        )
        for step in range(8):
            if grows and step == 3:
                optimizer.zero_grad()
                morpher.apply(Widen("table", by=3, init=Split()))
            optimizer.zero_grad()
            model(IDS[: 2 + step % 3]).square().mean().backward()
            assert model.table.weight.grad.is_sparse
            optimizer.step()
        outputs.append(model(torch.arange(10)).detach())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)


def test_momentum_of_some_rows_only_grows_or_is_refused_by_name() -> None:
    model = Table(sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    morpher = Morpher(model, optimizer, example_inputs=IDS, capture="dispatch")
    model(IDS).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(GrowthRefusedError, match="'momentum_buffer' for 'table.weight', which is"):
        morpher.apply(Widen("table", by=3))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("dynamics", ["exact", "plain"])
def test_slots_go_into_another_run_by_name(dynamics: str) -> None:
    init = Split() if dynamics == "exact" else Divide((0, 1, 2), steps=9)
    one, two = (run(OPTIMIZERS["adamw"], dynamics) for _ in range(2))
    for model, optimizer, morpher in (one, two):
        morpher.apply(Widen("0", by=3, init=init))
        for _ in range(3):
            closure_of(model, optimizer, [])()
            optimizer.step()
            optimizer.zero_grad()
    state = one[2].slots.state_dict()
    assert set(state) <= {name for name, _ in one[0].named_parameters()}
    two[2].slots.slots.clear()
    two[2].slots.load_state_dict(state)
    for _ in range(3):
        for model, optimizer, _ in (one, two):
            closure_of(model, optimizer, [])()
            optimizer.step()
    assert torch.equal(one[0](X), two[0](X))


def test_slots_of_no_parameter_or_another_shape_are_refused_and_nothing_changes() -> None:
    _, _, morpher = run()
    morpher.apply(Widen("0", by=4, init=Split()))
    held, state = dict(morpher.slots.slots), morpher.slots.state_dict()
    with pytest.raises(ValueError, match="must be of the model's parameters, got 'nope'"):
        morpher.slots.load_state_dict({**state, "nope": state["2.weight"]})
    with pytest.raises(ValueError, match=r"the shape of its parameter, \(12,\), got \(3, 12\)"):
        morpher.slots.load_state_dict({**state, "0.bias": state["2.weight"]})
    assert morpher.slots.slots == held


def test_a_snapshot_holds_the_slots() -> None:
    model, optimizer, morpher = run()
    morpher.apply(Widen("0", by=4, init=Split()))
    snapshot = morpher.snapshot()
    known = set(morpher.slots.slots)
    morpher.apply(Widen("0", by=2, init=Split()))
    snapshot.restore()
    assert set(morpher.slots.slots) == known
    for parameter, slot in morpher.slots.slots.items():
        assert slot.value.shape == parameter.shape
    closure_of(model, optimizer, [])()
    optimizer.step()
