import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from layer_importance import MethodScores, Report, analyze

WORKER = Path(__file__).parent / "two_ranks.py"


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("two_ranks", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


two_ranks = _module()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(WORKER), str(folder)],
        capture_output=True,
        check=False,
        text=True,
        timeout=180,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone() -> Report:
    return two_ranks.alone()


def _words(folder: Path, rank: int) -> dict[str, str]:
    lines = (folder / f"words.{rank}").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("method", [*two_ranks.METHODS, *(m.name for m in two_ranks.options())])
def test_two_processes_find_what_one_does(folder: Path, alone: Report, method: str) -> None:
    _assert_same(Report.load(folder / "report.0")[method], alone[method])


def _assert_same(together: MethodScores, one: MethodScores) -> None:
    assert list(together.scores) == list(one.scores)
    assert together.missing == one.missing
    for name, score in one.items():
        other = together[name]
        assert other.value == pytest.approx(score.value, rel=1e-9, abs=1e-12)
        assert other.standard_error == pytest.approx(
            score.standard_error, rel=1e-6, abs=1e-12, nan_ok=True
        )
        assert other.samples == score.samples
    for column, values in one.extras.items():
        assert together.extras[column] == pytest.approx(values, rel=1e-6, abs=1e-12, nan_ok=True)


def test_two_processes_choose_and_race_as_one_does(folder: Path) -> None:
    one, together = two_ranks.chosen_alone(), Report.load(folder / "auto.0")
    assert together.to_dict() == Report.load(folder / "auto.1").to_dict()
    assert set(together.methods) == set(one.methods)
    assert {"layer_ablation", "fisher_information"} <= set(one.methods)
    for name in one.methods:
        _assert_same(together[name], one[name])
    assert together.bottom == one.bottom
    assert together.bottom is not None
    assert len(together.bottom["units"]) == 2
    assert list(together.reasons) == list(one.reasons)


def test_both_processes_have_the_same_report(folder: Path, alone: Report) -> None:
    first, second = (Report.load(folder / f"report.{rank}").to_dict() for rank in (0, 1))
    assert first == second
    assert (first["samples"], first["batches"]) == (alone.samples, alone.batches) == (47, 5)
    assert first["reasons"] == dict(alone.reasons)
    assert first["passes"] == list(alone.passes)


def test_the_halves_of_the_data_are_those_of_one_process(folder: Path, alone: Report) -> None:
    together = Report.load(folder / "report.0").validity
    for name, about in alone.validity.methods.items():
        found = together.methods[name].reliability
        assert found == pytest.approx(about.reliability, nan_ok=True)


@pytest.mark.parametrize("method", two_ranks.SHARED)
def test_batches_of_methods_that_run_the_model_are_shared(folder: Path, method: str) -> None:
    # units are found by one run, in every process, and by another where gradients go
    looks = 1 + (method == "conductance")
    first, second = (int(_words(folder, rank)[method]) - looks for rank in (0, 1))
    assert first + second == two_ranks.runs(analyze, method) - looks
    # of five batches, three and two
    assert first * 2 == second * 3


def test_processes_without_batches_take_part(folder: Path) -> None:
    assert _words(folder, 0)["one batch"] == _words(folder, 1)["one batch"]
    assert _words(folder, 0)["one batch"] == "10 samples in 1 batches"


def test_what_goes_wrong_on_one_is_raised_on_all(folder: Path) -> None:
    first, second = _words(folder, 0), _words(folder, 1)
    reason = "batch 3 must be finite, got 1 NaN or infinite values in 0"
    assert first["a failure"] == f"RuntimeError: process 1 failed: ValueError: {reason}"
    assert second["a failure"] == f"ValueError: {reason}"
    for words in (first, second):
        assert words["another model"].startswith("ValueError: model must be the same in every")
        assert "method must be one of" in words["no such method"]
        assert words["no such choice"].startswith("ValueError: methods must be 'auto' or a list")
        assert words["all is well again"] == "47"
