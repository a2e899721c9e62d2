import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    Budget,
    Morpher,
    Snapshot,
    Tournament,
    Widen,
    load_checkpoint,
    save_checkpoint,
)

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def build() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def run(**settings: Any) -> Morpher:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Morpher(model, optimizer, example_inputs=X, capture="dispatch", **settings)


def train(morpher: Morpher, steps: int = 2) -> None:
    for _ in range(steps):
        morpher.optimizers[0].zero_grad()
        (morpher.model(X) - Y).square().mean().backward()
        morpher.optimizers[0].step()
    morpher.optimizers[0].zero_grad()


@dataclass
class Meter:
    """A mean that a module keeps."""

    total: Tensor = field(default_factory=lambda: torch.zeros(2))
    count: int = 0


def _moved(meter: Meter) -> None:
    meter.total += 1
    meter.count += 1


HELD: dict[str, tuple[Any, Any, Any]] = {
    "a tensor": (lambda: torch.zeros(3), lambda v: v.add_(1), Tensor.tolist),
    "a tensor of another size": (
        lambda: torch.zeros(3),
        lambda v: setattr(v, "data", torch.ones(5)),
        Tensor.tolist,
    ),
    "a list": (lambda: [1, [2]], lambda v: (v.append(3), v[1].append(4)), repr),
    "a list of tensors": (lambda: [torch.zeros(2)], lambda v: v[0].add_(1), repr),
    "a tuple of tensors": (lambda: (torch.zeros(2),), lambda v: v[0].add_(1), repr),
    "a dictionary": (lambda: {"a": 1}, lambda v: v.update(a=2, b=3), repr),
    "an ordered one": (lambda: OrderedDict(a=1, b=2), lambda v: v.move_to_end("a"), repr),
    "one with defaults": (lambda: defaultdict(list), lambda v: v["a"].append(1), repr),
    "a counter": (lambda: Counter("aab"), lambda v: v.update("ab"), repr),
    "a set": (lambda: {1, 2}, lambda v: (v.add(3), v.discard(1)), repr),
    "a queue": (lambda: deque([1, 2], 2), lambda v: v.append(3), repr),
    "an array": (lambda: np.zeros(3), lambda v: v.__iadd__(1), np.ndarray.tolist),
    "a generator": (
        lambda: torch.Generator().manual_seed(3),
        lambda v: torch.rand(1, generator=v),
        lambda v: v.get_state().tolist(),
    ),
    "a numpy generator": (
        lambda: np.random.default_rng(0),
        lambda v: v.random(),
        lambda v: str(v.bit_generator.state),
    ),
    "a python generator": (lambda: random.Random(0), lambda v: v.random(), random.Random.getstate),
    "fields": (Meter, _moved, repr),
    "a namespace": (lambda: SimpleNamespace(n=0), lambda v: setattr(v, "n", 1), repr),
}


@pytest.mark.parametrize("kind", sorted(HELD))
def test_what_modules_hold_is_put_back_into_the_same_object(kind: str) -> None:
    make, move, shown = HELD[kind]
    model = build()
    model[1].held = make()
    held, before = model[1].held, shown(model[1].held)
    snapshot = Snapshot(model)
    for _ in range(2):  # it stays good for another time
        move(held)
        model[1].held, model[1].late = None, 1
        assert shown(held) != before
        snapshot.restore()
        assert model[1].held is held
        assert shown(held) == before
        assert not hasattr(model[1], "late")


def _grown_table(table: Tensor) -> None:
    with torch.inference_mode():
        table.resize_(4).fill_(2.0)


@pytest.mark.parametrize("move", [_grown_table, lambda v: v.zero_()])
def test_tables_that_an_evaluation_has_made_are_put_back(move: Any) -> None:
    model = build()
    with torch.inference_mode():
        model[1].table = torch.ones(3)
        table = model[1].table
    snapshot = Snapshot(model)
    with torch.inference_mode():
        move(table)
    snapshot.restore()
    assert table.tolist() == [1.0, 1.0, 1.0]
    assert table.is_inference()


class Keeping(nn.Module):
    """A net that adds a mean of what it gave in training, and draws numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.mean, self.steps = torch.zeros(3, dtype=torch.float64), []
        self.own = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu())
        if self.training:
            self.mean.mul_(0.9).add_(out.detach().mean(0))
            self.steps.append(float(torch.rand(1, generator=self.own)))
        return out + self.mean


def test_a_tournament_that_keeps_nothing_leaves_what_modules_hold() -> None:
    torch.manual_seed(0)
    model = Keeping().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    morpher = Morpher(model, optimizer, example_inputs=X, capture="dispatch")
    before, numbers = model.eval()(X).detach().clone(), model.own.get_state()
    tournament = Tournament(
        morpher,
        lambda m, batch: (m(batch[0]) - batch[1]).square().mean(1),
        [(X, Y)],
        [(X, Y)],
        steps=3,
        min_gain=1e9,
    )
    assert tournament.run([Widen("a", by=2)]).winner is None
    assert torch.equal(model.eval()(X), before)
    assert model.steps == []
    assert torch.equal(model.own.get_state(), numbers)


def test_views_gradients_and_groups_that_others_hold_stay_those_of_the_run() -> None:
    morpher = run()
    model, optimizer = morpher.model, morpher.optimizers[0]
    view, group, parameters = (
        model[0].weight.detach()[:2],
        optimizer.param_groups[0],
        optimizer.param_groups[0]["params"],
    )
    model(X).square().mean().backward()
    grad, numbers = model[0].weight.grad, model[0].weight.grad.clone()
    kept = morpher.snapshot()
    optimizer.zero_grad()
    train(morpher)
    morpher.apply(Widen("0", by=2))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    group["lr"] = 7.0
    kept.restore()
    assert optimizer.param_groups == [group]
    assert optimizer.param_groups[0] is group
    assert group["params"] is parameters
    assert group["lr"] == 0.1
    assert model[0].weight.grad is grad
    assert torch.equal(grad, numbers)
    with torch.no_grad():
        model[0].weight[0] = 5.0
    assert bool((view[0] == 5.0).all())


def test_a_learning_rate_that_is_a_tensor_is_put_back_in_place() -> None:
    rate = torch.tensor(0.1)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    kept = Snapshot(model, [optimizer])
    rate.fill_(0.5)
    kept.restore()
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.1)


def test_a_run_put_back_knows_what_it_has_grown_by_and_can_be_saved(tmp_path: Path) -> None:
    morpher = run(log=tmp_path / "log.jsonl")
    morpher.apply(Widen("0", by=1))
    _, numbers = morpher.graph, morpher.generator.get_state()
    kept = morpher.snapshot()
    morpher.steps = 4
    morpher.apply(Widen("0", by=4))
    train(morpher)
    kept.restore("it did not help")
    assert [(e.decision, e.why_not) for e in morpher.events[1:]] == [
        ("committed", None),
        ("rolled back", "it did not help"),
    ]
    assert morpher.events[2].parent == 1
    assert morpher.events[2].parameters_added == -morpher.events[1].parameters_added
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 3
    assert morpher.steps == 0
    assert torch.equal(morpher.generator.get_state(), numbers)
    assert Budget().measure(morpher).events == 1
    assert morpher.graph["0"].size == 9
    save_checkpoint(tmp_path / "run.safetensors", morpher.model, morpher.spec)
    loaded = build()
    load_checkpoint(tmp_path / "run.safetensors", loaded)
    assert torch.equal(loaded(X), morpher.model(X))
    morpher.apply(Widen("0", by=2))
    kept.restore()
    assert [e.parent for e in morpher.events if e.decision == "rolled back"] == [1, 3]
    assert Budget().measure(morpher).events == 1


def test_a_graph_found_before_a_run_is_put_back_is_found_again() -> None:
    morpher = run()
    kept = morpher.snapshot()
    morpher.apply(Widen("0", by=4))
    assert morpher.graph["0"].size == 12
    kept.restore()
    assert morpher.graph["0"].size == 8
    morpher.apply(Widen("0", by=4))
