import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuro_morph._averages
import neuro_morph._edit_together
import neuro_morph._morpher
import neuro_morph._undo
import neuro_morph._work
from neuro_morph import (
    Connect,
    Duplicate,
    EventLog,
    GrowthRefusedError,
    Morpher,
    MorphogenesisEvent,
    Together,
    Widen,
)

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def run(**settings: Any) -> Morpher:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.Adam(model.parameters())
    average = torch.optim.swa_utils.AveragedModel(model)
    model(X).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return Morpher(
        model,
        optimizer,
        example_inputs=X,
        averages=[average],
        capture="dispatch",
        **settings,
    )


def everything(morpher: Morpher) -> dict[str, Any]:
    held = {
        "model": morpher.model.state_dict(),
        "average": morpher.averages[0].state_dict(),
        "state": morpher.optimizers[0].state_dict()["state"],
        "numbers": [morpher.generator.get_state(), torch.get_rng_state()],
        "sizes": [m.out_features for m in morpher.model.modules() if isinstance(m, nn.Linear)],
        "spec": morpher.spec.to_json(),
        "committed": [e.id for e in morpher.events if e.decision == "committed"],
    }
    return copy.deepcopy(held)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


PLACES: dict[str, tuple[Any, str]] = {
    "checking": (neuro_morph._work, "change_between"),
    "averages": (neuro_morph._work, "grow_average"),
    "in an average": (neuro_morph._averages, "_averaged"),
    "optimizers": (neuro_morph._work, "migrate"),
    "the event": (neuro_morph._work, "MorphogenesisEvent"),
    "counting": (neuro_morph._work, "count_of"),
    "the log": (EventLog, "add"),
    "the disk": (os, "fsync"),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
@pytest.mark.parametrize("place", sorted(PLACES))
def test_whatever_is_raised_wherever_nothing_of_the_edit_stays(
    place: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    morpher = run(log=tmp_path / "log.jsonl")
    before, groups = everything(morpher), [(g.id, g.size) for g in morpher.graph]
    owner, name = PLACES[place]
    kept, calls = getattr(owner, name), []

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if name == "count_of" and len(calls) == 1:  # the first is before the edit
            return kept(*args, **kwargs)
        raise error("stop")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises((error, GrowthRefusedError)):
            morpher.apply(Widen("0", by=2))
    assert calls
    assert same(everything(morpher), before)
    assert [(g.id, g.size) for g in morpher.graph] == groups
    morpher.apply(Widen("0", by=2))
    assert morpher.model[0].out_features == 10
    assert morpher.averages[0].module[0].out_features == 10
    written = [e for e in EventLog(tmp_path / "log.jsonl").read() if e["decision"] == "committed"]
    assert [e["id"] for e in written] == [e.id for e in morpher.events if e.decision == "committed"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupt_while_an_edit_that_failed_is_put_back_leaves_nothing_of_it(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    morpher = run(tolerance=0.0)
    before, calls = everything(morpher), list[str]()
    change, write = neuro_morph._work.change_between, neuro_morph._undo.set_contents

    def failed(*args: Any, **how: Any) -> Any:
        calls.append("it is to be undone")
        return replace(change(*args, **how), relative=1.0)

    def interrupted(*args: Any) -> None:
        calls.extend(["undone"] if calls else [])
        if len(calls) == 1 + at:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(neuro_morph._work, "change_between", failed)
        patch.setattr(neuro_morph._undo, "set_contents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            morpher.apply(Widen("0", by=2))
    assert same(everything(morpher), before)


TOGETHER: dict[str, tuple[Any, str]] = {
    "the event of the whole": (neuro_morph._edit_together, "_whole"),
    "the log": (EventLog, "add"),
    "the disk": (os, "fsync"),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("place", sorted(TOGETHER))
def test_of_edits_made_together_none_stays_whatever_is_raised_when_they_are_done(
    place: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    morpher = run(log=tmp_path / "log.jsonl")
    before, both = everything(morpher), Together((Widen("0", by=2), Widen("0", by=1)))

    def fail(*_: Any, **__: Any) -> None:
        raise error("stop")

    with monkeypatch.context() as patch:
        patch.setattr(*TOGETHER[place], fail)
        with pytest.raises(error):
            morpher.apply(both)
    assert same(everything(morpher), before)
    assert not morpher.events
    morpher.apply(both)
    assert [e["id"] for e in EventLog(tmp_path / "log.jsonl").read()] == [0, 1]


LAST: dict[str, Any] = {
    "a ValueError": Widen("2", by=3, init=Duplicate()),
    "no such module": Connect("0", "nope"),
    "no such group": Widen("nope", by=1),
    "an interrupt": Widen("0", by=5),
}


@pytest.mark.parametrize("last", sorted(LAST))
def test_of_edits_made_together_none_is_made_whatever_the_last_one_raises(
    last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    morpher = run()
    before = everything(morpher)
    migrate = neuro_morph._work.migrate

    def interrupted(optimizer: Any, parameter: Tensor, *args: Any, **kwargs: Any) -> None:
        if len(parameter) == 15:
            raise KeyboardInterrupt
        migrate(optimizer, parameter, *args, **kwargs)

    monkeypatch.setattr(neuro_morph._work, "migrate", interrupted)
    with pytest.raises((ValueError, KeyError, GrowthRefusedError, KeyboardInterrupt)):
        morpher.apply(Together((Widen("0", by=2), LAST[last])))
    assert same(everything(morpher), before)


@pytest.mark.parametrize(
    "make", [lambda: Widen("2", by=1), lambda: Widen("0", by=1, init=Duplicate())]
)
def test_what_is_refused_leaves_the_random_numbers_of_the_run(make: Callable[[], Any]) -> None:
    morpher = run()
    before = everything(morpher)
    with pytest.raises((GrowthRefusedError, ValueError)):
        morpher.apply(make())
    assert same(everything(morpher), before)


@dataclass(frozen=True)
class Told(Widen):
    """A widening that says something of itself that JSON cannot hold."""

    def detail(self) -> dict[str, Any]:
        return {"by": torch.ones(2)}


def test_an_edit_that_cannot_be_written_down_is_not_made(tmp_path: Path) -> None:
    morpher = run(log=tmp_path / "log.jsonl")
    before = everything(morpher)
    with pytest.raises(TypeError, match=r"Told.detail\(\) must be what JSON can hold"):
        morpher.apply(Told("0", by=2))
    assert same(everything(morpher), before)
    assert not morpher.events


def test_growth_stands_with_a_warning_where_its_event_cannot_be_written(tmp_path: Path) -> None:
    morpher = run(log=tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").mkdir()  # no file can be there
    with pytest.warns(RuntimeWarning, match="event 0 .*'0': committed.* is not in .*log.jsonl"):
        event = morpher.apply(Widen("0", by=2), gain=0.5)
    assert event.gain == 0.5
    assert morpher.events == [event]
    assert morpher.model[0].out_features == 10
    with pytest.warns(RuntimeWarning, match="refused"), pytest.raises(GrowthRefusedError):
        morpher.apply(Widen("2", by=1))
    (tmp_path / "log.jsonl").rmdir()
    morpher.note(replace(event, id=2))
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 1


def test_what_grows_without_gradients_can_be_trained_afterwards() -> None:
    morpher = run()
    with torch.inference_mode():
        event = morpher.apply(Widen("0", by=2))
        kept = morpher.snapshot()
        morpher.apply(Widen("0", by=3))
        kept.restore()
    assert isinstance(event, MorphogenesisEvent)
    assert not any(t.is_inference() for t in morpher.model.state_dict().values())
    before = morpher.model[0].weight.detach().clone()
    morpher.model(X).square().mean().backward()
    morpher.optimizers[0].step()
    assert bool((morpher.model[0].weight != before).any())
    assert not any(t.is_inference() for t in morpher.averages[0].state_dict().values())


WRONG: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no model": ("x", {}, TypeError, "model must be a torch.nn.Module, got str"),
    "a NaN": (nn.Linear(4, 2), {"example_inputs": X * float("nan")}, ValueError, "got a NaN"),
    "no inputs": (nn.Linear(4, 2), {"example_inputs": 3}, TypeError, "example_inputs must be"),
    "a capture": (nn.Linear(4, 2), {"capture": "guess"}, ValueError, "capture must be one of"),
    "dynamics": (nn.Linear(4, 2), {"dynamics": "wild"}, ValueError, "dynamics must be one of"),
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_wrong_arguments_of_a_run_are_named(wrong: str) -> None:
    model, settings, error, match = WRONG[wrong]
    with pytest.raises(error, match=match):
        Morpher(model, **{"example_inputs": X, **settings})


def test_outputs_that_are_not_finite_are_refused_when_something_is_to_grow() -> None:
    morpher = run()
    with torch.no_grad():
        morpher.model[2].bias.fill_(float("inf"))
    with pytest.raises(GrowthRefusedError, match="are not finite"):
        morpher.apply(Widen("0", by=2))
