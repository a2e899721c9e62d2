"""What cannot be grown is refused by name, and nothing has changed then."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import neuro_morph._memory as _memory
from neuro_morph import (
    AddHeads,
    Connect,
    Deepen,
    Duplicate,
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    MorphogenesisEvent,
    Split,
    Together,
    Widen,
    ZeroFanOut,
)

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


@pytest.mark.parametrize("init", [ZeroFanOut(), Split()])
@pytest.mark.parametrize("frozen", [True, False])
def test_new_units_of_a_frozen_layer_are_frozen_and_the_event_says_so(
    frozen: bool, init: Any
) -> None:
    model = mlp()
    model[0].requires_grad_(not frozen)
    morpher = Morpher(model, example_inputs=X)
    event = morpher.apply(Widen("0", by=3, init=init))
    wanted = "'0.weight', which makes the new units, is frozen: they stay as they begin"
    assert event.note == (wanted if frozen else None)
    assert MorphogenesisEvent.from_json(event.to_json()) == event
    assert morpher.apply(Together((Widen("0", by=1),))).note == event.note


def test_nothing_is_said_of_a_model_that_is_frozen_as_a_whole() -> None:
    model = mlp().requires_grad_(False)
    assert Morpher(model, example_inputs=X).apply(Widen("0", by=3)).note is None


class Attend(nn.Module):
    """Attention with heads of four."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 24), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x[None]).unflatten(-1, (3, -1, 4)).transpose(1, 3).unbind(2)
        h = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(h.transpose(1, 2).flatten(2))


MANY = 10**13
TOO_LARGE: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "random units": (mlp, Widen("0", by=MANY)),
    "copies": (mlp, Widen("0", by=MANY, init=Split())),
    "multiples": (mlp, Widen("0", by=8 * MANY, init=Duplicate())),
    "more than can be counted": (mlp, Widen("0", by=MANY**3)),
    "heads": (Attend, AddHeads("", by=MANY)),
    "a layer": (mlp, Deepen("1", "residual", hidden=MANY)),
    "a second edit": (mlp, Together((Widen("0", by=1), Widen("0", by=MANY)))),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_no_memory_can_hold_is_refused_before_it_is_made(what: str) -> None:
    make, edit = TOO_LARGE[what]
    model = make()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    morpher = Morpher(model, example_inputs=X, capture="dispatch")
    with pytest.raises(GrowthRefusedError, match=r"would take .* GiB of memory, .* are available"):
        morpher.apply(edit)
    assert [event.decision for event in morpher.events] == ["refused"]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("steps, states", [(0, 0), (1, 2)])
def test_growth_needs_room_for_its_tensors_and_what_optimizers_hold_for_them(
    steps: int, states: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps):
        model(X).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    numbers = 10 * 4 + 10 + 2 * 10  # the rows, the biases and the columns of ten units
    needed = 4 * numbers * (1 + states) + 48 * 3 * 10
    monkeypatch.setattr("neuro_morph._memory.available", lambda: needed - (not fits))
    morpher = Morpher(model, optimizer, example_inputs=X, capture="dispatch")
    if fits:
        assert morpher.apply(Widen("0", by=2)).parameters_added == 14
    else:
        with pytest.raises(GrowthRefusedError, match="with 2 more units would take .* GiB"):
            morpher.apply(Widen("0", by=2))


@pytest.mark.parametrize("rank, has, note", [(1, 1, None), (2, 2, None), (999, 2, "rank is 2, as")])
def test_a_rank_that_is_cut_to_the_features_there_are_is_noted(
    rank: int, has: int, note: str | None
) -> None:
    morpher = Morpher(mlp(), example_inputs=X, capture="dispatch")
    event = morpher.apply(Connect("0", "2", adapter="low_rank", rank=rank))
    assert event.parameters_added == has * (8 + 2)
    assert event.note is None if note is None else str(event.note).startswith(note)


GROUPS: dict[str, tuple[dict[str, str], int | None]] = {
    "half taken": ({"memory.max": "1000", "memory.current": "400"}, 600),
    "files are given up": (
        {
            "memory.max": "1000",
            "memory.current": "900",
            "memory.stat": "anon 600\ninactive_file 250\nactive_file 50\nshmem 7\n",
        },
        400,
    ),
    "all taken": ({"memory.max": "1000", "memory.current": "1010"}, 0),
    "a limit alone": ({"memory.max": "1000"}, 1000),
    "no limit": ({"memory.max": "max", "memory.current": "400"}, None),
    "version 1": (
        {
            "memory.limit_in_bytes": "1000",
            "memory.usage_in_bytes": "900",
            "memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
        },
        400,
    ),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("kind", sorted(GROUPS))
def test_of_the_limit_of_a_container_what_is_left_counts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, left = GROUPS[kind]
    for name, text in {"memory.swap.max": "0", **files}.items():
        (tmp_path / name).write_text(text)
    groups = [(str(tmp_path), *names) for _, *names in _memory._GROUPS]
    monkeypatch.setattr(_memory, "_GROUPS", groups)
    monkeypatch.setattr(_memory, "_free", lambda: 2**50)
    assert _memory.available() == (2**50 if left is None else left)


HOOKS: dict[str, tuple[Callable[[torch.Tensor], Any], str | None]] = {
    "masks": (lambda g: g * torch.ones(8, 4), r"fails for the new shape \(10, 4\) \(RuntimeError"),
    "cuts": (lambda g: g[:8], r"makes \(8, 4\) of the new shape \(10, 4\)"),
    "clips": (lambda g: g.clamp(-1, 1), None),
    "watches": (lambda g: None, None),
    "draws": (lambda g: g + torch.randn(len(g), 1), None),
}


@pytest.mark.parametrize("kind", sorted(HOOKS))
def test_hooks_of_gradients_go_on_or_are_named(kind: str) -> None:
    model = mlp()
    hook, message = HOOKS[kind]
    model[0].weight.register_hook(hook)
    morpher = Morpher(model, torch.optim.Adam(model.parameters()), example_inputs=X)
    numbers = torch.get_rng_state()
    if message is None:
        morpher.apply(Widen("0", by=2))
    else:
        with pytest.raises(GrowthRefusedError, match=f"'0.weight' cannot grow: a hook .*{message}"):
            morpher.apply(Widen("0", by=2))
    assert model[0].out_features == (8 if message else 10)
    assert torch.equal(torch.get_rng_state(), numbers)
    model(X).sum().backward()
    morpher.optimizers[0].step()


@pytest.mark.parametrize("capture", ["dispatch", "export"])
def test_a_layer_without_units_is_refused_and_nothing_changes(capture: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # torch has nothing to initialise
        model = nn.Sequential(nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 3))
    before = [p.detach().clone() for p in model.parameters()]
    morpher = Morpher(model, example_inputs=torch.randn(2, 4), capture=capture)
    with pytest.raises(KeyError, match="does not grow in .* of '0'; got '0'"):
        morpher.apply(Widen("0", by=2))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
