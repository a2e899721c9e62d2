import copy
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    ArchitectureSpec,
    Connect,
    Deepen,
    Divide,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    load_checkpoint,
    save_checkpoint,
)
from neuro_morph._packing import packed, unpacked

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def build() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def run(**settings: Any) -> Morpher:
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    return Morpher(model, optimizer, example_inputs=X, capture="dispatch", **settings)


def train(morpher: Morpher, steps: int = 4) -> None:
    for _ in range(steps):
        morpher.optimizers[0].zero_grad()
        (morpher.model(X) - Y).square().mean().backward()
        morpher.optimizers[0].step()
        for average in morpher.averages:
            average.update_parameters(morpher.model)
        for other in morpher.others:
            other.step()
    morpher.optimizers[0].zero_grad()


def whole(**settings: Any) -> Morpher:
    """A run with all that a file can hold."""
    morpher = run(**settings)
    morpher.averages.append(torch.optim.swa_utils.AveragedModel(morpher.model))
    morpher.others.append(torch.optim.lr_scheduler.MultiStepLR(morpher.optimizers[0], [6, 9], 0.5))
    return morpher


GROWTH: dict[str, tuple[dict[str, Any], Callable[[Morpher], Any]]] = {
    "plain": ({}, lambda m: m.apply(Widen("0", by=2))),
    "exact": ({"dynamics": "exact"}, lambda m: m.apply(Widen("0", by=4, init=Split()))),
    "a ramp": ({}, lambda m: m.apply(Widen("0", by=4, init=Divide((0, 1, 2, 3), steps=10)))),
    "deeper": ({}, lambda m: m.apply(Deepen("1", "residual"))),
    "connected": ({}, lambda m: m.apply(Connect("0", "2"))),
    "slow units": (
        {},
        lambda m: m.slots.set_rate(m.model[0].weight, torch.tensor([1, 2]), 0, 0.25),
    ),
}


@pytest.mark.parametrize("kind", sorted(GROWTH))
def test_a_run_loaded_trains_and_grows_on_as_if_it_had_not_been_interrupted(
    kind: str, tmp_path: Path
) -> None:
    settings, grow = GROWTH[kind]
    straight, resumed = whole(**settings), whole(**settings)
    train(straight)
    grow(straight)
    train(straight)
    straight.steps = 8
    straight.save(tmp_path / "run.safetensors")
    resumed.load(tmp_path / "run.safetensors")
    assert resumed.steps == 8
    for morpher in (straight, resumed):
        train(morpher)
        morpher.apply(Widen("0", by=3))
        train(morpher)
    for mine, its in ((straight.model, resumed.model), (straight.averages[0], resumed.averages[0])):
        held = its.state_dict()
        assert all(torch.equal(v, held[k]) for k, v in mine.state_dict().items())
    assert straight.others[0].state_dict() == resumed.others[0].state_dict()
    assert straight.spec.to_json() == resumed.spec.to_json()
    mine, its = ([replace(e, seconds={}) for e in m.events] for m in (straight, resumed))
    assert mine == its


@pytest.mark.parametrize("kind", ["exact", "a ramp"])
def test_what_optimizers_see_otherwise_is_never_lost_in_silence(kind: str, tmp_path: Path) -> None:
    settings, grow = GROWTH[kind]
    morpher = run(**settings)
    grow(morpher)
    train(morpher)
    file = tmp_path / "run.safetensors"
    save_checkpoint(file, morpher.model, morpher.spec, *morpher.optimizers)
    alone = build()
    load_checkpoint(file, alone)  # to compute with
    assert torch.equal(alone(X), morpher.model(X))
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    with pytest.raises(ValueError, match=r"see parameters otherwise than they are: make a Morpher"):
        load_checkpoint(file, model, optimizer)
    assert model[0].out_features == 8
    other = run(**settings)
    other.spec.steps += load_checkpoint(file, other.model, *other.optimizers).steps
    train(morpher)
    train(other)
    assert torch.equal(other.model(X), morpher.model(X))


def test_growth_after_loading_is_written_with_what_came_before(tmp_path: Path) -> None:
    file, first = tmp_path / "run.safetensors", run()
    first.apply(Widen("0", by=2))
    save_checkpoint(file, first.model, first.spec)
    for given in (True, False):  # it is known of in this process, too
        model = build()
        spec = load_checkpoint(file, model)
        settings = {"spec": spec} if given else {}
        morpher = Morpher(model, example_inputs=X, capture="dispatch", **settings)
        morpher.apply(Widen("0", by=2))
        assert len(morpher.spec.steps) == 2
        save_checkpoint(tmp_path / "again.safetensors", model, morpher.spec)
        again = build()
        load_checkpoint(tmp_path / "again.safetensors", again)
        assert torch.equal(again(X), model(X))
        with pytest.raises(ValueError, match="spec must hold all edits of the model, which are 2"):
            save_checkpoint(file, model, ArchitectureSpec(spec.steps[1:]))


def test_a_spec_that_is_not_that_of_the_model_is_refused() -> None:
    morpher = run()
    morpher.apply(Widen("0", by=2))
    with pytest.raises(ValueError, match=r"after its last edit '0.weight' is \[10, 4\], in the mo"):
        Morpher(build(), example_inputs=X, spec=morpher.spec)
    with pytest.raises(ValueError, match=r"in the model it is \[8, 4\]"):
        save_checkpoint("nowhere", build(), morpher.spec)
    assert not Path("nowhere").exists()


class Shift(nn.Module):
    """A module of one's own that begins as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def test_a_network_that_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    morpher = run()
    morpher.apply(Deepen("1", block=Shift()))
    for write in (
        lambda: save_checkpoint(tmp_path / "x", morpher.model, morpher.spec),
        lambda: morpher.save(tmp_path / "x"),
    ):
        with pytest.raises(ValueError, match="cannot be loaded again: .* of the class 'Shift'"):
            write()
    assert not list(tmp_path.iterdir())


class Extra(nn.Module):
    """A model with extra state."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.a, self.held = nn.Linear(4, 8), held

    def get_extra_state(self) -> Any:
        return self.held

    def set_extra_state(self, state: Any) -> None:
        self.held = state

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x)
        return out


def test_extra_state_is_in_the_file_or_refused(tmp_path: Path) -> None:
    held = {"k": (5, [1.5, None]), 3: torch.arange(3)}
    save_checkpoint(tmp_path / "x", Extra(held), ArchitectureSpec())
    model = Extra(None)
    load_checkpoint(tmp_path / "x", model)
    assert repr(model.held) == repr(held)
    with pytest.raises(TypeError, match="extra.0 must hold tensors, .* got complex"):
        save_checkpoint(tmp_path / "y", Extra(1j), ArchitectureSpec())
    assert not (tmp_path / "y").exists()


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "another layer": lambda: build().append(nn.Linear(3, 3).double()),
    "another bias": lambda: nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3, bias=False)
    ).double(),
    "another size": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5)).double(),
}


@pytest.mark.parametrize("other", sorted(OTHERS))
@pytest.mark.parametrize("edit", [Widen("0", by=2), Deepen("1", "residual"), Connect("0", "2")])
def test_a_file_of_another_model_changes_nothing(other: str, edit: Any, tmp_path: Path) -> None:
    morpher = run()
    train(morpher)
    morpher.apply(edit)
    save_checkpoint(tmp_path / "x", morpher.model, morpher.spec, *morpher.optimizers)
    model = OTHERS[other]()
    optimizer = torch.optim.Adam(model.parameters(), 0.7)
    model(X).square().mean().backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    layers, random = [repr(m) for m in model.modules()], torch.get_rng_state()
    with pytest.raises(ValueError, match="another model|does not fit"):
        load_checkpoint(tmp_path / "x", model, optimizer)
    assert [repr(m) for m in model.modules()] == layers
    assert not model._forward_pre_hooks
    assert repr((model.state_dict(), optimizer.state_dict())) == repr(before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("edit", [Widen("0", by=2), Deepen("1", "residual"), Connect("0", "2")])
def test_a_spec_that_fails_halfway_leaves_the_model_as_it_was(edit: Any) -> None:
    morpher = run()
    morpher.apply(edit)
    morpher.apply(Deepen("2", block=nn.Identity()))
    model = build()
    before, layers = copy.deepcopy(model.state_dict()), [repr(m) for m in model.modules()]
    with pytest.raises(ValueError, match="of the class 'Identity', which it cannot build"):
        morpher.spec.replay(model)
    assert [repr(m) for m in model.modules()] == layers
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model._forward_pre_hooks


def test_a_run_takes_only_a_file_of_its_kind(tmp_path: Path) -> None:
    morpher = whole()
    morpher.apply(Widen("0", by=2))
    morpher.save(tmp_path / "x")
    fresh = run()
    before = copy.deepcopy(fresh.model.state_dict())
    with pytest.raises(ValueError, match="averages must be 1, got 0"):
        fresh.load(tmp_path / "x")
    assert all(torch.equal(v, before[k]) for k, v in fresh.model.state_dict().items())
    assert not fresh.spec.steps
    with pytest.raises(ValueError, match="got one that grew by 1 edits"):
        morpher.load(tmp_path / "x")
    fresh.apply(Widen("0", by=1))  # it goes on
    with pytest.raises(GrowthRefusedError):
        fresh.apply(Widen("2", by=1))


def test_what_is_loaded_without_gradients_can_be_trained(tmp_path: Path) -> None:
    morpher = run()
    morpher.apply(Widen("0", by=2))
    morpher.save(tmp_path / "x")
    other = run()
    with torch.inference_mode():
        other.load(tmp_path / "x")
    train(other, 1)
    assert not any(p.is_inference() for p in other.model.parameters())


VALUES: dict[str, Any] = {
    "numbers": [1, 2.5, True, None, float("inf")],
    "keys of all kinds": {1: "a", "1": "b", (2, 3): [4]},
    "a counter": Counter({6: 1, 9: 1}),
    "order": OrderedDict(b=1, a=2),
    "tensors": {"x": (torch.arange(3), [torch.ones(2, dtype=torch.bfloat16)])},
}


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_state_comes_back_as_what_it_was(kind: str) -> None:
    tensors: dict[str, Tensor] = {}
    held = packed(VALUES[kind], "x", tensors)
    found = unpacked(held, tensors)
    assert type(found) is type(VALUES[kind])
    assert repr(found) == repr(VALUES[kind])
