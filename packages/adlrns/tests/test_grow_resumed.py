"""Runs of growth that are cut short and go on."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from adlrns._grow_train import Training
from adlrns._grow_work import Work

MODULE = """
from torch import nn


def net():  # it draws while it is trained, and holds statistics
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(),
                         nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))


def wider():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10))
"""
RUN = ("grow", "nets:net", "--data", "digits", "--epochs", "2", "--events", "2")
QUICK = (*RUN, "--trial-steps", "6")
WAYS: dict[str, tuple[str, ...]] = {
    "tournament": QUICK,
    "divide": (*RUN, "--no-tournament", "--trial-steps", "24", "--init", "divide"),
    "by score": (*QUICK, "--no-tournament", "--init", "split"),
    "gradmax": (*QUICK, "--no-tournament", "--init", "gradmax", "--by", "0.25"),
    "plateau": (*QUICK, "--when", "plateau", "--lr", "1e-9"),
}
COMPARED = ("history.csv", "architecture.json")


@pytest.fixture
def mine(place: Path) -> Path:
    pytest.importorskip("sklearn")
    (place / "nets.py").write_text(MODULE)
    return place


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def events(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [{k: v for k, v in each.items() if k != "seconds"} for each in found]


def same_runs(one: Path, two: Path) -> None:
    for name in COMPARED:
        assert (one / name).read_text() == (two / name).read_text()
    assert events(one) == events(two)
    first, second = (tensors(out / "grown.safetensors") for out in (one, two))
    assert sorted(first) == sorted(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def stopped_after(calls: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Lets a method of a training be interrupted when it is called for such a time."""
    real: Callable[..., Any] = getattr(Training, name)
    left = [calls]

    def stop(self: Training, *args: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Training, name, stop)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(
    adlrns, mine: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adlrns(*WAYS[way], "--out", "whole")
    decided = {event["decision"] for event in events(mine / "whole")}
    if way == "tournament":  # what is kept is near the noise of so short trials
        assert decided
    elif way != "plateau":
        assert "committed" in decided
    for calls in (14, 22):  # right after growth, and in the second epoch
        with monkeypatch.context() as patch:
            stopped_after(calls, patch, "_train")
            command = (*WAYS[way], "--out", f"g{calls}")
            result = adlrns(*command, code=130)
            told = f"as it was after step {calls - 1}; --resume goes on from there"
            assert told in result.stderr
        adlrns(*command, "--resume")
        same_runs(mine / "whole", mine / f"g{calls}")


@pytest.mark.parametrize("calls", [1, 8, 17, 20])
def test_a_trial_that_is_cut_short_is_made_again(
    adlrns, mine: Path, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    adlrns(*QUICK, "--out", "whole")
    with monkeypatch.context() as patch:
        stopped_after(calls, patch, "trial_step")
        adlrns(*QUICK, "--out", "g", code=130)
    adlrns(*QUICK, "--out", "g", "--resume")
    same_runs(mine / "whole", mine / "g")


def test_a_run_is_cut_short_as_often_as_one_likes(
    adlrns, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adlrns(*QUICK, "--out", "whole")
    more: tuple[str, ...] = ()
    for calls in (1, 8, 9):
        with monkeypatch.context() as patch:
            stopped_after(calls, patch, "_train")
            adlrns(*QUICK, "--out", "g", *more, code=130)
        more = ("--resume",)
    adlrns(*QUICK, "--out", "g", "--resume")
    same_runs(mine / "whole", mine / "g")


def test_a_step_that_a_second_interrupt_tears_is_not_kept(
    adlrns, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adlrns(*QUICK, "--out", "whole")
    real, left = Training._update, [25]

    def torn(self: Training, model: nn.Module, batch: Any) -> float:
        found = real(self, model, batch)
        left[0] -= not self.whole
        if not left[0]:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_update", torn)
        assert "after step " in adlrns(*QUICK, "--out", "g", code=130).stderr
    adlrns(*QUICK, "--out", "g", "--resume")
    same_runs(mine / "whole", mine / "g")


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(
    adlrns, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adlrns(*QUICK, "--out", "whole")
    save, kept = Work.save, mine / "kept"

    def copying(self: Work) -> None:
        save(self)
        if self.morpher.spec.steps and not kept.exists():
            shutil.copytree(mine / "g", kept)  # right after growth, in an epoch

    monkeypatch.setattr(Work, "save", copying)
    adlrns(*QUICK, "--out", "g")
    with (kept / "events.jsonl").open("a") as file:
        file.write(json.dumps({"step": 999, "decision": "committed"}) + '\n{"cut sh')
    adlrns(*QUICK, "--out", "kept", "--resume")
    same_runs(mine / "whole", kept)


def test_a_run_that_is_done_is_only_told_of_and_may_be_compared(adlrns, mine: Path) -> None:
    adlrns(*QUICK, "--out", "g")
    shutil.copytree(mine / "g", mine / "whole")
    adlrns(*QUICK, "--out", "g", "--resume", "--compare")
    same_runs(mine / "whole", mine / "g")
    adlrns(*QUICK, "--out", "both", "--compare")
    first, second = (mine / out / "without-growth.csv" for out in ("g", "both"))
    assert first.read_text() == second.read_text()
    assert len(list(csv.DictReader(first.read_text().splitlines()))) == 2


@pytest.mark.parametrize(
    "command, message",
    [
        ((*QUICK, "--epochs", "3"), "--resume must keep --epochs, which was 2 in g, got 3"),
        ((*QUICK, "--seed", "1"), "--resume must keep --seed, which was 0 in g, got 1"),
        (("grow", "nets:wider", *QUICK[2:]), "--resume must keep MODEL, which was nets:net in g"),
        ((*QUICK, "--max-flops", "9000"), "keep --max-flops, which was not given in g, got 9000"),
    ],
)
def test_a_run_goes_on_as_it_was_asked(
    adlrns, mine: Path, command: tuple[str, ...], message: str
) -> None:
    adlrns(*QUICK, "--out", "g", "--epochs", "2")
    before = {path: path.read_bytes() for path in (mine / "g").iterdir()}
    assert message in adlrns.error(*command, "--out", "g", "--resume")
    assert before == {path: path.read_bytes() for path in (mine / "g").iterdir()}
    message = adlrns.error(*QUICK, "--out", "g")
    assert message == "--out g holds a run: --resume goes on, or choose another folder"


def test_what_is_no_run_does_not_go_on(adlrns, mine: Path) -> None:
    message = "--resume needs an earlier run in --out, got g without resume.safetensors"
    assert adlrns.error(*QUICK, "--out", "g", "--resume") == message
    adlrns(*QUICK, "--out", "g")
    held = (mine / "g/resume.safetensors").read_bytes()
    for bad in (b"", held[: len(held) // 2], (mine / "g/grown.safetensors").read_bytes()):
        (mine / "g/resume.safetensors").write_bytes(bad)
        found = adlrns.error(*QUICK, "--out", "g", "--resume", code=1)
        assert found.startswith("g/resume.safetensors: not a readable checkpoint")
    (mine / "g/resume.safetensors").write_bytes(held)
    renamed = MODULE.replace("def net", "def old").replace("def wider", "def net")
    (mine / "nets.py").write_text(renamed)
    sys.modules.pop("nets")
    found = adlrns.error(*QUICK, "--out", "g", "--resume", code=1)
    assert found.startswith("g/resume.safetensors: does not fit the network: ")
