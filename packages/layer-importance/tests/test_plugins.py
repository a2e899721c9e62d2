import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import AnalysisConfig, analyze, carry_out, load, plan
from layer_importance._modalities import find_modality
from layer_importance._registry import Registry
from layer_importance._tasks import task
from layer_importance.plugins import Space, broken

CODE = """
from layer_importance.methods import BlockInfluence
from layer_importance.modalities import Tabular
from layer_importance.plugins import Refused
from layer_importance.tasks import Classification


class Turned(BlockInfluence):
    name = "turned"


class Grading(Classification):
    name = "grading"


class Table(Tabular):
    name = "table"

    def recognises(self, batch):
        return "a table of our own"


def last(space, damages, prior, evaluations):
    damages([frozenset(group) for group in space.groups[:2]])
    return space.from_the_end()


def nothing(space, damages, prior, evaluations):
    return frozenset()


def greedy(space, damages, prior, evaluations):
    while True:
        damages([frozenset(group) for group in space.groups])
        evaluations = damages([frozenset(name for g in space.groups for name in g)])


def cut_out(model, cut):
    gone = {unit.path for unit in cut.units}
    for path in sorted(gone, reverse=True):
        del model[int(path)]


def unwilling(model, cut):
    raise Refused("not today")


broken = 3
"""
POINTS = """
[layer_importance.methods]
turned = ours_for_tests:Turned
[layer_importance.tasks]
grading = ours_for_tests:Grading
bad_task = ours_for_tests:broken
gone = ours_for_tests:missing
[layer_importance.adapters]
table = ours_for_tests:Table
[layer_importance.planners]
last = ours_for_tests:last
nothing = ours_for_tests:nothing
greedy = ours_for_tests:greedy
[layer_importance.executors]
cut_out = ours_for_tests:cut_out
unwilling = ours_for_tests:unwilling
"""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(4)), nn.Linear(8, 3))


@pytest.fixture
def data() -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 8, generator=generator)
    return list(zip(x.split(12), torch.arange(48).remainder(3).split(12), strict=True))


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with entry points of every group."""
    about = tmp_path / "ours_for_tests-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ours_for_tests\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    (tmp_path / "ours_for_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("ours_for_tests", None)
    broken.clear()


def test_methods_tasks_and_adapters_of_other_packages_are_known_by_name(data: list[Any]) -> None:
    assert "turned" in Registry().names()
    report = analyze(build(), data, methods=["turned", "layer_ablation"], task="grading")
    assert report.facts["task"] == "grading"
    assert report.facts["modality"] == "table"
    assert report.facts["modality_reason"] == "a table of our own"
    assert len(report["turned"]) == 4
    assert find_modality("table", data[0]).name == "table"
    config = AnalysisConfig(model_name="mine", task_type="grading", modality_type="table")
    assert (config.task_type, config.modality_type) == ("grading", "table")


def test_planners_of_other_packages_search_and_are_judged_as_any_other(data: list[Any]) -> None:
    found = plan(build(), data, units=2, keep_types=False, planner="last")
    assert found.removals == ["2", "3"]
    assert found.evaluations == 3
    own = plan(build(), data, units=2, keep_types=False, planner=lambda s, d, p, e: {"0", "1"})
    searched = plan(build(), data, units=2, keep_types=False)
    assert own.damage.mean >= searched.damage.mean or own.removals == searched.removals


def test_a_planner_is_held_to_its_word(data: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"planner must return units that may go.* got \[\]"):
        plan(build(), data, units=2, keep_types=False, planner="nothing")
    with pytest.raises(ValueError, match="planner must measure at most 3 sets, got 4"):
        plan(build(), data, units=2, keep_types=False, planner="greedy", evaluations=3)
    with pytest.raises(ValueError, match="planner must be a function or one of auto, .*'wise'"):
        plan(build(), data, units=2, planner="wise")


def test_executors_of_other_packages_are_verified_as_any_other(
    data: list[Any], tmp_path: Path
) -> None:
    done = carry_out(build(), ["1", "2"], example=data[0], executor="cut_out")
    assert done.executor == "cut_out"
    assert done.checks["forward"] == done.checks["reload"] == "passed"
    assert len(done.model) == 3
    done.save(tmp_path / "small")
    x = data[0][0]
    assert torch.equal(load(tmp_path / "small", build)(x), done.model.eval()(x))
    with pytest.raises(ValueError, match="unwilling: not today"):
        carry_out(build(), ["1"], example=data[0], executor="unwilling")
    with pytest.raises(ValueError, match="executor must be auto or one of compact, .*cut_out"):
        carry_out(build(), ["1"], example=data[0], executor="axe")


def test_what_is_broken_is_left_out_with_its_reason() -> None:
    for name in ("bad_task", "gone"):
        with pytest.raises(ValueError, match=f"task must be a Task or one of .*, got '{name}'"):
            task(name)
    assert "is no subclass of Task" in broken["layer_importance.tasks/bad_task"]
    assert "AttributeError" in broken["layer_importance.tasks/gone"]


def test_all_of_them_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYER_IMPORTANCE_NO_PLUGINS", "1")
    assert "turned" not in Registry().names()
    with pytest.raises(ValueError, match="task must be"):
        task("grading")
    with pytest.raises(ValueError, match="modality must be"):
        find_modality("table", None)


def test_a_space_says_what_may_go() -> None:
    space = Space(groups=(("a",), ("b",)), gain=lambda names: float(len(names)), need=1.0)
    assert space.fits(frozenset({"a"}))
    assert space.from_the_end() == {"b"}
