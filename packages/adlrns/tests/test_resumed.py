"""Folders of runs that go on by other rules than they began with."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from adlrns._experiment_train import FULL

COMPARED = """
model: {{type: adlrns_mlp, hidden: [12]}}
train: {{epochs: {epochs}, lr: 1e-2, batch_size: 32}}
data: {{name: digits, limit: 320}}
run: {{tune_epochs: 0, rounds: 2, batch: 32, sketch_size: 16, budgets: [0.5], held_out: 0.3}}
"""
# without min_delta every epoch is better, with it none is
TRAINED = """
model: {{type: adlrns_mlp, hidden: [8]}}
train: {{epochs: 6, batch_size: 32, {ends}}}
data: {{name: digits, limit: 96}}
"""


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_experiment_of_more_epochs_is_measured_anew(adlrns, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    out, config = tmp_path / "result", tmp_path / "s.yaml"
    call = ["experiment", config, "--out", out, "--ablate"]
    config.write_text(COMPARED.format(epochs=1))
    adlrns(*call)
    tables = {name: rows_of(out / name) for name in ("table.csv", "ablations.csv")}
    stale = out / "seed-0/static-0.5"  # left by a comparison that was killed
    shutil.copytree(out / "seed-0" / FULL, stale)
    config.write_text(COMPARED.format(epochs=20))
    adlrns(*call, "--resume")
    assert all(rows_of(out / name) != table for name, table in tables.items())
    assert float(rows_of(out / "table.csv")[0]["accuracy"]) > float(
        tables["table.csv"][0]["accuracy"]
    )
    assert not stale.exists()
    before = contents(out)
    config.write_text(COMPARED.format(epochs=3))
    message = adlrns.error(*call, "--resume")
    assert message.startswith("--resume must not lower train.epochs, which was 20 in")
    assert contents(out) == before


@pytest.mark.parametrize("more", ["patience: 50, min_delta: 99", "patience: 1"])
def test_a_run_that_stopped_early_goes_on_where_it_may(adlrns, tmp_path: Path, more: str) -> None:
    pytest.importorskip("sklearn")
    out, whole, config = tmp_path / "runs", tmp_path / "whole", tmp_path / "s.yaml"
    config.write_text(TRAINED.format(ends="patience: 1, min_delta: 99"))
    adlrns("train", config, "--out", out)
    assert [row["epochs"] for row in rows_of(out / "results.csv")] == ["2"]
    config.write_text(TRAINED.format(ends=more))
    adlrns("train", config, "--out", out, "--resume")
    assert [row["epochs"] for row in rows_of(out / "results.csv")] == ["6"]
    adlrns("train", config, "--out", whole)
    for name in ("results.csv", "seed-0/result.json", "seed-0/metrics.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    before = (out / "seed-0/result.json").stat().st_mtime_ns
    adlrns("train", config, "--out", out, "--resume")
    assert (out / "seed-0/result.json").stat().st_mtime_ns == before  # it was read


def test_a_result_that_does_not_say_how_it_ended_is_made_again(adlrns, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    out, config = tmp_path / "runs", tmp_path / "s.yaml"
    config.write_text(TRAINED.format(ends="patience: 1, min_delta: 99"))
    adlrns("train", config, "--out", out)
    path = out / "seed-0/result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in result.items() if k != "patience"}))
    adlrns("train", config, "--out", out, "--resume")
    assert json.loads(path.read_text()) == result
    path.write_text("[]")
    assert "not a readable result" in adlrns.error(
        "train", config, "--out", out, "--resume", code=1
    )
