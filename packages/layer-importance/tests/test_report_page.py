import csv
import io
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import MethodScores, Report, Score, Unit, Units, analyze
from layer_importance._plan import CompressionPlan
from layer_importance._planning import plan as make_plan

EVIL = "<script>alert('1')</script>\"&"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


@pytest.fixture(scope="module")
def analysed() -> tuple[Report, CompressionPlan]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), *[Block() for _ in range(6)], nn.Linear(8, 3))
    data = [(torch.randn(12, 6), torch.randint(0, 3, (12,))) for _ in range(4)]
    methods = ["block_influence", "layer_correlation", "information_bottleneck", "layer_ablation"]
    report = analyze(net, data, methods=[*methods, "attention_analysis"])
    return report, make_plan(net, data, report=report, units=4, evaluations=9)


class Page(HTMLParser):
    """Collects what a browser would load or run, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data, self._in = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.data += data
        elif not self._in:
            self.text += data


def test_the_page_needs_nothing_but_itself(analysed: tuple[Report, CompressionPlan]) -> None:
    report, plan = analysed
    text = report.to_html(plan=plan, curve=[(0, 0.9), (1, 0.8), (2, 0.5)])
    page = Page(text)
    assert len(text.encode()) < 1_000_000
    assert not re.search(r"https?:|url\(|@import|srcset|<link|<img|<iframe", text)
    assert not [attrs for _, attrs in page.tags if {"src", "href"} & attrs.keys()]
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}]


def test_all_that_was_found_is_on_the_page(analysed: tuple[Report, CompressionPlan]) -> None:
    report, plan = analysed
    page = Page(report.to_html(plan=plan, curve=[(0, 0.9), (2, 0.5)], title="Mine"))
    for words in (
        "Mine",
        *report.units.names,
        *report.methods,
        "needs attention, and no unit attends",
        "depth alone",
        "Noise ceiling",
        "Spearman",
        "layer_correlation: cka",
        "Damage against",
        "Quality against units removed",
        "Before and after",
        "removed",
        "kept",
        *plan.notes,
    ):
        assert words in page.text, words
    assert Report.from_dict(json.loads(page.data)["report"]).to_dict() == report.to_dict()
    assert CompressionPlan.from_dict(json.loads(page.data)["plan"]).removals == plan.removals


def test_the_heat_map_says_in_words_what_it_says_in_colour(
    analysed: tuple[Report, CompressionPlan],
) -> None:
    report, _ = analysed
    page = Page(report.to_html())
    titles = [attrs["title"] for tag, attrs in page.tags if tag == "td" and "title" in attrs]
    score = report["layer_ablation"]["3"]
    place = report.ranking("layer_ablation").index("3") + 1
    wanted = f"{score.value:.6g} ± {score.standard_error:.2g}, rank {place} of 6, 48 samples"
    assert any(title is not None and title.startswith(wanted) for title in titles)
    assert all(f"#{place}" in page.text for place in range(1, 7))


def _planted(name: str) -> Report:
    unit = Unit(
        name=name,
        path=name,
        chain=name,
        index=0,
        tower=name,
        type_name=name,
        parameters=3,
    )
    scores = MethodScores(
        method=name,
        measure=name,
        direction="importance",
        scores={name: Score(1.0, 0.5, 4)},
        notes={name: name},
    )
    damage = MethodScores(
        method="layer_ablation",
        measure="nats",
        direction="importance",
        scores={name: Score(float("inf"), float("nan"), 4)},
        missing={"other": name},
    )
    return Report(
        units=Units((unit,), {name: name}),
        methods={name: scores, "layer_ablation": damage},
        reasons={name: name},
        notes=(name,),
        facts={name: name, "model": name, "task": name},
        bottom={name: name},
    )


def test_names_from_outside_run_nowhere() -> None:
    report = _planted(EVIL)
    text = report.to_html(title=EVIL)
    page = Page(text)
    assert "<script>alert" not in text
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"}
    ]
    assert EVIL in page.text
    assert json.loads(page.data)["report"]["notes"] == [EVIL]


def test_a_report_of_nothing_has_a_page_too() -> None:
    report = Report(units=Units(()), methods={})
    assert "0 units" in Page(report.to_html()).text
    assert len(report.to_csv().splitlines()) == 1


def test_the_csv_has_a_line_for_each_unit_and_method(
    analysed: tuple[Report, CompressionPlan],
) -> None:
    report, _ = analysed
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert len(rows) == 6 * len(report.methods)
    for row in rows:
        scores = report[row["method"]]
        if row["unit"] in scores:
            score = scores[row["unit"]]
            assert float(row["value"]) == score.value
            assert int(row["samples"]) == score.samples
            assert report.ranking(row["method"])[int(row["rank"]) - 1] == row["unit"]
        else:
            assert row["missing"] == scores.missing[row["unit"]]


def test_no_cell_of_the_csv_is_a_formula() -> None:
    lines = list(csv.reader(io.StringIO(_planted("=cmd|' /C calc'!A0").to_csv())))
    assert len(lines) == 3
    assert not [cell for line in lines for cell in line if cell.startswith(("=", "+", "@"))]


# the schema


def _check(value: Any, schema: dict[str, Any], place: str = "$") -> None:
    """Raises where JSON is not as a schema of the kind that is shipped says."""
    if "anyOf" in schema:
        kinds = [s for s in schema["anyOf"] if s["type"] == ("null" if value is None else "object")]
        return _check(value, kinds[0], place)
    assert schema.get("const", value) == value, place
    assert value in schema.get("enum", [value]), place
    python = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(isinstance(value, python[kind]) for kind in kinds), f"{place}: {value!r}"
    if isinstance(value, list):
        for number, item in enumerate(value):
            _check(item, schema.get("items", {}), f"{place}[{number}]")
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), place
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        for key, item in value.items():
            assert key in known or others is not False, f"{place}.{key}"
            _check(item, known.get(key, others or {}), f"{place}.{key}")
    return None


def _schema() -> dict[str, Any]:
    text = files("layer_importance").joinpath("report.schema.json").read_text()
    return json.loads(text)


def test_reports_are_as_the_shipped_schema_says(
    analysed: tuple[Report, CompressionPlan],
) -> None:
    for report in (analysed[0], _planted(EVIL), Report(units=Units(()), methods={})):
        _check(json.loads(json.dumps(report.to_dict(), allow_nan=False)), _schema())


@pytest.mark.parametrize("field", ["units", "methods", "validity", "schema", "facts"])
def test_the_schema_refuses_what_is_no_report(
    analysed: tuple[Report, CompressionPlan], field: str
) -> None:
    plain = analysed[0].to_dict()
    for broken in ({**plain, field: "?"}, {k: v for k, v in plain.items() if k != field}):
        with pytest.raises(AssertionError):
            _check(broken, _schema())
    with pytest.raises(AssertionError):
        _check({**plain, "more": 1}, _schema())
