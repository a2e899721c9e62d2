import csv
import json
from pathlib import Path

import pytest

from layer_importance import CompressionPlan, Report

MODULE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def net():
    torch.manual_seed(0)
    found = nn.Sequential(*[Block() for _ in range(6)], nn.Linear(12, 4))
    with torch.no_grad():
        found[2].down.weight.zero_()
        found[2].down.bias.zero_()
    return found


def labelled():
    generator = torch.Generator().manual_seed(1)
    x = [torch.randn(16, 12, generator=generator) for _ in range(4)]
    return [(each, net().eval()(each).argmax(1)) for each in x]


def inputs():
    return [x for x, _ in labelled()]


def broken():
    x, y = labelled()[0]
    return [(x * torch.nan, y)]


def flat():
    return nn.Linear(12, 4)
"""


@pytest.fixture
def deep(place: Path) -> Path:
    """A working folder with a module `deep`: blocks of which the third adds nothing."""
    (place / "deep.py").write_text(MODULE)
    return place


def test_analyses_plans_and_writes_one_folder(adlrns, deep: Path) -> None:
    methods = "block_influence,skip_attribution,layer_ablation,attention_analysis"
    result = adlrns(
        *("analyze", "deep:net", "--data", "deep:labelled", "--methods", methods),
        *("--target", "1.15", "--out", "found"),
    )
    names = {"report.json", "scores.csv", "report.html", "plan.json"}
    assert {path.name for path in Path("found").iterdir()} == names
    report = Report.load("found/report.json")
    assert list(report.methods) == methods.split(",")[:3]
    assert report["layer_ablation"]["2"].value == 0.0
    assert report.ranking("skip_attribution")[0] == "2"
    plan = CompressionPlan.load("found/plan.json")
    assert plan.removals == ["2"]
    page = Path("found/report.html").read_text()
    assert "Layer importance of deep:net" in page
    assert "Before and after" in page
    rows = list(csv.DictReader(Path("found/scores.csv").read_text().splitlines()))
    assert len(rows) == 3 * 6
    assert "consensus" in result.stdout
    assert "drop" in result.stdout
    assert "attention_analysis did not run: needs attention" in result.stderr


def test_all_of_it_can_be_had_as_one_json_document(adlrns, deep: Path) -> None:
    result = adlrns(
        *("analyze", "deep:net", "--data", "deep:labelled", "--json", "--target", "1.15"),
        *("--methods", "skip_attribution,layer_ablation", "--curve", "2", "--out", "found"),
    )
    told = json.loads(result.stdout)
    assert told["format"] == "adlrns analyze"
    assert told["schema"] == 1
    assert told["report"] == json.loads(Path("found/report.json").read_text())
    assert told["plan"] == json.loads(Path("found/plan.json").read_text())
    assert Report.from_dict(told["report"])["layer_ablation"]["2"].value == 0.0
    assert CompressionPlan.from_dict(told["plan"]).removals == ["2"]
    assert [point["removed"] for point in told["curve"]] == [0, 1, 2]
    assert (told["model"], told["data"], told["folder"]) == ("deep:net", "deep:labelled", "found")


def test_without_a_plan_and_a_curve_they_are_null(adlrns, deep: Path) -> None:
    command = ("analyze", "deep:net", "--data", "deep:inputs", "--methods", "block_influence")
    told = json.loads(adlrns(*command, "--json").stdout)
    assert told["plan"] is None
    assert told["curve"] is None


def test_measured_damage_comes_first(adlrns, deep: Path) -> None:
    methods = "block_influence,skip_attribution,gradient_based,layer_ablation"
    result = adlrns("analyze", "deep:net", "--data", "deep:labelled", "--methods", methods)
    assert result.stdout.index("layer ablation") < result.stdout.index("consensus")


def test_a_target_out_of_reach_is_refused_before_the_analysis(
    adlrns, deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layer_importance.analyze", lambda *_, **__: pytest.fail("analysed"))
    error = adlrns.error("analyze", "deep:net", "--data", "deep:labelled", "--target", "99")
    assert "--target must be reachable, at most" in error


def test_the_curve_is_drawn_and_written_when_asked_for(adlrns, deep: Path) -> None:
    adlrns(
        *("analyze", "deep:net", "--data", "deep:labelled", "--curve", "9", "--out", "found"),
        *("--methods", "skip_attribution,layer_ablation"),
    )
    rows = list(csv.DictReader(Path("found/curve.csv").read_text().splitlines()))
    assert [int(row["removed"]) for row in rows] == list(range(7))
    # labels are the model's own answers, and the third block adds nothing
    assert [float(row["quality"]) for row in rows[:2]] == [1.0, 1.0]
    assert rows[1]["unit"] == "2"
    assert float(rows[0]["loss"]) == float(rows[1]["loss"])
    assert float(rows[6]["quality"]) < 1
    page = Path("found/report.html").read_text()
    assert "Quality against units removed" in page
    assert page.count("<circle") > 6
    adlrns("analyze", "deep:net", "--data", "deep:labelled", "--methods", "block_influence")
    assert not Path("analysis/curve.csv").exists()


def test_chooses_methods_by_itself_and_says_why(adlrns, deep: Path) -> None:
    result = adlrns("analyze", "deep:net", "--data", "deep:inputs", "--seconds", "20")
    report = Report.load("analysis/report.json")
    assert "block_influence" in report.methods
    assert "skip_attribution" not in report.methods
    assert "needs labels" in report.reasons["skip_attribution"]
    assert "skip_attribution did not run: " in result.stderr
    assert not Path("analysis/plan.json").exists()


def test_an_earlier_analysis_is_replaced_and_nothing_else(adlrns, deep: Path) -> None:
    command = ("analyze", "deep:net", "--data", "deep:inputs", "--methods", "block_influence")
    adlrns(*command, "--out", "found")
    adlrns(*command, "--out", "found", "--batches", "2")
    assert json.loads(Path("found/report.json").read_text())["batches"] == 2
    (deep / "found" / "thesis.txt").write_text("years of work")
    assert "--out must be new, empty or an earlier analysis" in adlrns.error(
        *command, "--out", "found"
    )
    assert (deep / "found" / "thesis.txt").read_text() == "years of work"
    (deep / "other").mkdir()
    (deep / "other" / "report.json").write_text("{}")
    assert "with no readable report.json" in adlrns.error(*command, "--out", "other")
    assert "a file in its place" in adlrns.error(*command, "--out", "deep.py")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"MODEL": "deep:missing"}, "MODEL deep:missing: deep has no 'missing'"),
        ({"--data": "deep:missing"}, "--data deep:missing: deep has no 'missing'"),
        ({"--methods": "magic"}, "--methods must be of auto, block_influence"),
        ({"--methods": "shaply"}, "got 'shaply': did you mean 'shapley'?"),
        ({"--task": "poetry"}, "task must be a Task or one of"),
        ({"--modality": "smell"}, "modality must be"),
        ({"--seconds": "0"}, "--seconds must be above 0, got 0.0"),
        ({"--target": "0.5"}, "--target must be at least 1, got 0.5"),
        ({"--target": "99"}, "--target must be reachable, at most 5.608"),
        ({"--curve": "0"}, "--curve"),
        ({"--curve": "2", "--data": "deep:inputs"}, "batches must hold labels for a curve"),
        ({"--curve": "2", "--methods": "outliers"}, "--curve needs a method that says what"),
        ({"--data": "deep:broken"}, "batch 0 must be finite"),
        ({"MODEL": "deep:flat"}, "MODEL deep:flat on --data deep:labelled: "),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    adlrns, deep: Path, changes: dict[str, str], message: str
) -> None:
    given = {"MODEL": "deep:net", "--data": "deep:labelled", "--methods": "block_influence"}
    given |= changes
    model = given.pop("MODEL")
    assert message in adlrns.error("analyze", model, *(w for pair in given.items() for w in pair))
    assert not Path("analysis").exists()
