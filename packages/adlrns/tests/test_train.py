import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adlrns import _train_seed
from adlrns._score import score

SMALL = """
model: {{type: adlrns_mlp, hidden: [16], r_min: 1, r_max: 8}}
train: {{epochs: {epochs}, lr: 1e-2, batch_size: 32, checkpoint_every: 2}}
data: {{name: digits, limit: 96}}
run: {{seeds: [0, 1]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    pytest.importorskip("sklearn")
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(epochs=2))
    return path


def weights(out: Path, seed: int) -> dict[str, torch.Tensor]:
    return load_file(out / f"seed-{seed}/model.safetensors")


def test_every_seed_has_a_folder_and_all_have_a_table(adlrns, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    result = adlrns("train", config, "--out", out)
    rows = [line.split(",") for line in (out / "results.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["seed", "0", "1", "mean", "± 95 %"]
    values = [float(row[1]) for row in rows[1:3]]
    assert float(rows[3][1]) == pytest.approx(sum(values) / 2)
    # Student's t of one degree
    assert float(rows[4][1]) == pytest.approx(12.7062 * abs(values[0] - values[1]) / 2, rel=1e-4)
    for seed in (0, 1):
        files = {path.name for path in (out / f"seed-{seed}").iterdir()}
        assert files == {"checkpoints", "metrics.jsonl", "model.safetensors", "result.json"}
    assert "report.html" in result.stdout
    assert "<svg" in (out / "report.html").read_text() or "no plots" in result.stderr


def test_a_run_that_was_killed_ends_as_one_that_was_not(
    adlrns, config: Path, tmp_path: Path, monkeypatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    adlrns("train", config, "--out", whole)
    steps = 0

    def die(self, trainer, record) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_train_seed.Progress, "on_batch_end", die)
        killed = adlrns("train", config, "--out", cut, code=130)
    assert "error: interrupted; --resume goes on" in killed.stderr
    assert not (cut / "results.csv").exists()
    assert "go on with adlrns_mlp" in adlrns("train", config, "--out", cut, "--resume").stderr
    assert (cut / "results.csv").read_text() == (whole / "results.csv").read_text()
    for seed in (0, 1):
        mine, other = weights(cut, seed), weights(whole, seed)
        assert all(torch.equal(mine[name], other[name]) for name in other)
        logs = [(place / f"seed-{seed}/metrics.jsonl").read_text() for place in (cut, whole)]
        assert logs[0] == logs[1]


def test_resuming_needs_the_same_configuration(adlrns, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    adlrns("train", config, "--out", out, "--seeds", "0")
    assert "--resume goes on" in adlrns.error("train", config, "--out", out)
    config.write_text(SMALL.format(epochs=2).replace("1e-2", "1e-3"))
    message = adlrns.error("train", config, "--out", out, "--resume")
    assert message.startswith("--resume must keep train.lr, which was 0.01")
    config.write_text(SMALL.format(epochs=3))
    adlrns("train", config, "--out", out, "--resume", "--seeds", "0,5")
    assert json.loads((out / "seed-0/result.json").read_text())["epochs"] == 3
    assert (out / "seed-5").is_dir()


def test_finished_seeds_stay_in_the_table(adlrns, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    adlrns("train", config, "--out", out, "--seeds", "0,3")
    adlrns("train", config, "--out", out, "--resume", "--seeds", "5")
    seeds = [row.split(",")[0] for row in (out / "results.csv").read_text().splitlines()]
    assert seeds == ["seed", "5", "0", "3", "mean", "± 95 %"]
    assert "seed 3" in (out / "report.html").read_text()
    config.write_text(SMALL.format(epochs=3))
    result = adlrns("train", config, "--out", out, "--resume", "--seeds", "5")
    assert "left out of the tables: seeds 0,3, which ended by other rules" in result.stderr
    assert [line[0] for line in (out / "results.csv").read_text().splitlines()[1:]] == ["5"]


def test_a_run_that_diverged_fails_and_says_so(
    adlrns, config: Path, tmp_path: Path, monkeypatch
) -> None:
    def worthless(self, loader):
        return {"loss": float("nan"), "accuracy": 0.1}

    monkeypatch.setattr("adlrns_models.ADLRNSTrainer.evaluate", worthless)
    result = adlrns("train", config, "--out", tmp_path / "runs", "--seeds", "0", code=1)
    assert "error: training diverged, the last loss is not finite: seeds 0" in result.stderr
    assert "DIVERGED" in result.stdout
    assert "DIVERGED" in (tmp_path / "runs/report.html").read_text()
    header, row = (tmp_path / "runs/results.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["skipped"] == "0"


def test_a_batch_larger_than_the_data_is_told(adlrns, config: Path, tmp_path: Path) -> None:
    config.write_text(SMALL.format(epochs=1).replace("batch_size: 32", "batch_size: 97"))
    result = adlrns("train", config, "--out", tmp_path / "runs", "--seeds", "0")
    assert "train.batch_size of 97 is more than there are training items, 96" in result.stderr


@pytest.mark.parametrize("budget, told", [(1e-4, "smallest"), (1e3, "largest"), (None, "")])
def test_a_budget_that_decides_nothing_is_told(
    adlrns, config: Path, tmp_path: Path, budget: float | None, told: str
) -> None:
    out = tmp_path / "runs"
    if budget is not None:
        config.write_text(
            SMALL.format(epochs=1) + f"scheduler: {{energy_budget_mJ_per_sample: {budget}}}\n"
        )
    result = adlrns("train", config, "--out", out, "--seeds", "0")
    text = f"decides nothing: it is at {'most' if told == 'smallest' else 'least'} the "
    for where in (
        result.stderr,
        " ".join(result.stdout.split()),
        (out / "report.html").read_text(),
    ):
        assert (text in where) == bool(told)
        assert f"with all layers at their {told} rank" in where or not told
    table = next(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert ("energy_mj" in table) == bool(told)
    if told:
        assert (float(table["energy_mj"]) > budget) == (told == "smallest")
        kept = "kept" if told == "largest" else "not kept by seeds 0"
        assert f"budget {budget:g}, {kept}" in " ".join(result.stdout.split())


def test_a_folder_of_something_else_is_left_alone(adlrns, config: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("ten years")
    for options in ([], ["--resume"]):
        message = adlrns.error("train", config, "--out", tmp_path / "mine", *options)
        assert "must be new, empty or an earlier run" in message
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_mistakes_are_one_line_before_anything_is_written(
    adlrns, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    assert "--seeds must differ, got '1,1'" in adlrns.error(
        "train", config, "--out", out, "--seeds", "1,1"
    )
    assert "--seeds must be whole numbers" in adlrns.error(
        "train", config, "--out", out, "--seeds", "a"
    )
    assert "no such file" in adlrns.error("train", config, "--out", out, "--data", "none")
    assert "--device must be one that is here" in adlrns.error(
        "train", config, "--out", out, "--device", "toaster"
    )
    config.write_text("model: {type: adlrns_transformer}\ndata: {name: digits}\n")
    assert "must be a net for images" in adlrns.error("train", config, "--out", out)
    config.write_text("model: {type: adlrns_mlp}\ntrian: {}\n")
    assert "small.yaml:2: unknown key trian" in adlrns.error("train", config, "--out", out)
    config.write_text("model: {type: adlrns_mlp}\n")
    assert "data must be given" in adlrns.error("train", config, "--out", out)
    assert not out.exists()


def test_data_of_the_command_line_are_never_ignored(adlrns, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (tmp_path / "empty").mkdir()
    for spec in (tmp_path / "empty", "digits:nowhere", f"digits:{tmp_path}"):
        adlrns.error("train", config, "--out", out, "--data", spec)
    sentences, _ = _sentences(tmp_path)
    result = adlrns("train", config, "--out", out, "--data", sentences, code=2)
    assert f"note: --data {sentences} is sentences, data.name was digits" in result.stderr
    assert "model.type must be adlrns_transformer for text" in result.stderr
    config.write_text(config.read_text().replace("name: digits", "name: digits, path: nowhere"))
    assert "no such file or folder" in adlrns.error("train", config, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["classification", "regression", "language"])
def test_text_of_every_kind_can_be_trained_on(adlrns, tmp_path: Path, kind: str) -> None:
    net = "model: {type: adlrns_transformer, width: 8, depth: 1, heads: 2}\n"
    (tmp_path / "t.yaml").write_text(
        f"{net}train: {{epochs: 1}}\n"
        "scheduler: {type: energy_aware, energy_budget_mJ_per_sample: 1}\n"
    )
    data, metric = TEXTS[kind](tmp_path)
    adlrns("train", tmp_path / "t.yaml", "--data", data, "--out", tmp_path / "runs")
    result = json.loads((tmp_path / "runs/seed-0/result.json").read_text())
    assert metric in result
    assert json.loads((tmp_path / "runs/vocabulary.json").read_text())[0].startswith("<")


def _sentences(folder: Path) -> tuple[str, str]:
    for part in ("train", "test"):
        rows = "".join(f"word{i},{'ab'[i % 2]}\n" for i in range(8))
        (folder / f"{part}.csv").write_text("text,category\n" + rows)
    return str(folder), "accuracy"


def _scores(folder: Path) -> tuple[str, str]:
    for part in ("train", "dev"):
        rows = "".join(f"a{i}\tb{i}\t{i}\n" for i in range(6))
        (folder / f"{part}.tsv").write_text("sentence1\tsentence2\tscore\n" + rows)
    folder.joinpath("STS-B").mkdir()
    for part in ("train", "dev"):
        (folder / f"{part}.tsv").rename(folder / f"STS-B/{part}.tsv")
    return str(folder / "STS-B"), "spearman"


def _plain(folder: Path) -> tuple[str, str]:
    (folder / "book.txt").write_text("to be or not to be " * 150)
    return str(folder / "book.txt"), "perplexity"


TEXTS = {"classification": _sentences, "regression": _scores, "language": _plain}


def test_padding_changes_no_answer(tmp_path: Path) -> None:
    from adlrns._config_file import read_config
    from adlrns._datasets import open_task
    from adlrns._nets import make_net

    _sentences(tmp_path)
    (tmp_path / "t.yaml").write_text("model: {type: adlrns_transformer, width: 8, depth: 1}\n")
    task = open_task("sentences", tmp_path, {"length": 9})
    net = make_net(read_config(tmp_path / "t.yaml"), task, dense=True).eval()
    tokens = torch.tensor([[3, 4, 5]])
    padded = torch.nn.functional.pad(tokens, (0, 6))
    assert torch.allclose(net(tokens), net(padded), atol=1e-6)
    assert 0 <= score(net, task) <= 1
