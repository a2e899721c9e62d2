"""The main job, for real: one run of the demo, and all that it promises."""

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from adlrns import load
from adlrns.demo import digits, digits_cnn

pytest.importorskip("sklearn")

FILES = {
    "adlrns.json",
    "elastic.safetensors",
    "model.onnx",
    "model.pt",
    "model.pt2",
    "model.safetensors",
    "report.html",
    "table.csv",
}
ROWS = [
    ("dense", ""),
    ("plain SVD, uniform ranks", "0.5"),
    ("plain SVD, allocated ranks", "0.5"),
    ("data-aware, uniform ranks", "0.5"),
    *(("adaptive", budget) for budget in ("0.75", "0.5", "0.35", "0.25")),
    *((f"materialised, {form}", "0.5") for form in ("factored", "identity", "auto")),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("demo") / "result"
    done = subprocess.run(
        [sys.executable, "-m", "adlrns", "demo", "--quick", "--out", str(folder)],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


@pytest.fixture(scope="module")
def folder(run: tuple[Path, str, str]) -> Path:
    return run[0]


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def number(rows: list[dict[str, str]], model: str, key: str, budget: str = "0.5") -> float:
    (row,) = [r for r in rows if r["model"] == model and r["budget"] in ("", budget)]
    return float(row[key])


def accuracy(model: torch.nn.Module) -> float:
    data = digits()
    with torch.no_grad():
        return float((model(data.test_x).argmax(1) == data.test_y).double().mean())


def test_writes_every_artefact_and_nothing_beside_the_folder(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["result"]


def test_results_go_to_stdout_and_progress_to_stderr(run: tuple[Path, str, str]) -> None:
    _, out, err = run
    assert "one network, every budget" in out
    assert "artefacts" in out
    assert str(run[0] / "report.html") in out
    assert "train a small network" in err
    assert "train a small network" not in out
    assert "Warning" not in err


def test_the_table_has_every_row(rows: list[dict[str, str]]) -> None:
    assert [(row["model"], row["budget"]) for row in rows] == ROWS


def test_every_number_is_there_and_possible(rows: list[dict[str, str]]) -> None:
    for row in rows:
        numbers = {k: float(v) for k, v in row.items() if k not in ("model", "budget", "energy_by")}
        assert 0 <= numbers.pop("accuracy") <= 1
        assert all(value > 0 for value in numbers.values()), row
        assert row["energy_by"] in ("estimated", "rapl")


def test_the_network_has_learned(rows: list[dict[str, str]]) -> None:
    assert number(rows, "dense", "accuracy") > 0.9


def test_flops_are_within_each_budget(rows: list[dict[str, str]]) -> None:
    dense = number(rows, "dense", "mflops")
    for row in rows[1:]:
        assert float(row["mflops"]) <= float(row["budget"]) * dense * (1 + 1e-9), row["model"]


def test_smaller_budgets_use_fewer_parameters(rows: list[dict[str, str]]) -> None:
    used = [int(row["parameters"]) for row in rows if row["model"] == "adaptive"]
    assert used == sorted(used, reverse=True)


@pytest.mark.parametrize("ranks", ["uniform ranks", "allocated ranks"])
def test_adaptive_is_no_worse_than_plain_svd_at_the_same_budget(
    rows: list[dict[str, str]], ranks: str
) -> None:
    adaptive = number(rows, "adaptive", "accuracy")
    assert adaptive >= number(rows, f"plain SVD, {ranks}", "accuracy")


def test_one_checkpoint_gives_the_table_at_every_budget(
    folder: Path, rows: list[dict[str, str]]
) -> None:
    saved = load(folder, digits_cnn())
    for row in rows:
        if row["model"] == "adaptive":
            saved.elastic.set_budget(flops=float(row["budget"]))
            assert accuracy(saved.elastic) == float(row["accuracy"])


def test_the_materialised_model_gives_its_row(folder: Path, rows: list[dict[str, str]]) -> None:
    model = load(folder, digits_cnn()).materialized
    assert accuracy(model) == number(rows, "materialised, auto", "accuracy")
    used = sum(parameter.numel() for parameter in model.parameters())
    assert used == number(rows, "materialised, auto", "parameters")


def test_exports_agree_with_the_materialised_model(folder: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    x = digits().test_x
    with torch.no_grad():
        want = load(folder, digits_cnn()).materialized(x)
        torch.testing.assert_close(torch.export.load(folder / "model.pt2").module()(x), want)
    session = runtime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.as_tensor(got), want, rtol=1e-4, atol=1e-4)


def test_the_manifest_tells_what_is_there(folder: Path) -> None:
    content = json.loads((folder / "adlrns.json").read_text())
    assert set(content["files"]) == FILES - {"adlrns.json"}
    assert content["source"]["spec"] == "adlrns.demo:digits_cnn"
    assert content["point"]["cost"] <= 0.5 * content["point"]["dense_cost"]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.headings, self.loads, self.svgs = [], [], 0
        self.heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.heading = tag == "h2"
        self.svgs += tag == "svg"
        self.loads += [v for k, v in attrs if k in ("src", "href", "data", "srcset", "xlink:href")]

    def handle_data(self, data: str) -> None:
        if self.heading:
            self.headings.append(data)
            self.heading = False


def test_the_report_is_whole_and_loads_nothing(folder: Path, rows: list[dict[str, str]]) -> None:
    text = (folder / "report.html").read_text()
    page = _Page()
    page.feed(text)
    wanted = {"Frontier", "Time", "Ranks", "Loss curves", "Ranks over time", "Machine", "Versions"}
    assert wanted <= set(page.headings)
    assert page.svgs >= 5
    assert all(load.startswith("#") for load in page.loads)
    assert not re.search(r"https?://|@import|<script|<link", text)
    assert f"{float(rows[0]['accuracy']):.1%}" in text
    assert "adlrns demo --quick" in text
