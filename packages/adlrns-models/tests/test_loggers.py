"""What loggers write and bars show."""

import csv
import json
import sys

import pytest
import torch
from torch import nn

from adlrns_models import (
    ADLRNSTrainer,
    Callback,
    CSVLogger,
    JSONLLogger,
    ProgressBar,
    TensorBoardLogger,
)


def trained(folder, *callbacks, epochs=2, bad=False, resume=False):
    torch.manual_seed(0)
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    loader = [(x, y), (x * float("nan"), y) if bad else (-x, y)]
    trainer = ADLRNSTrainer(nn.Linear(4, 2), {"epochs": epochs}, "cpu", folder, callbacks=callbacks)
    trainer.train(loader, loader, resume=resume)
    return trainer


def test_a_line_of_json_an_epoch_is_the_history(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    trainer = trained(tmp_path / "run", JSONLLogger(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"event": "epoch", **record} for record in trainer.history]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    def no_constants(name):
        raise AssertionError(name)

    path = tmp_path / "log.jsonl"
    trained(tmp_path / "run", JSONLLogger(path, steps=True), bad=True)
    lines = path.read_text().splitlines()
    records = [json.loads(line, parse_constant=no_constants) for line in lines]
    assert records[1]["loss"] is None
    assert records[2]["val_loss"] is None
    assert records[2]["train_loss"] > 0  # the mean of the steps that were taken


def test_a_row_of_csv_an_epoch_is_the_history(tmp_path):
    trainer = trained(tmp_path / "run", CSVLogger(tmp_path / "log.csv"), epochs=3)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == trainer.history


@pytest.mark.parametrize("logger", [CSVLogger, JSONLLogger])
def test_logs_of_another_run_are_not_written_to(tmp_path, logger):
    path = tmp_path / "log"
    trained(tmp_path / "one", logger(path))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"log must hold no log of another run.*resume=True"):
        trained(tmp_path / "two", logger(path))
    assert path.read_bytes() == before
    assert not (tmp_path / "two").exists()  # nothing was trained
    assert len(trained(tmp_path / "one", logger(path), resume=True).history) == 2
    assert path.read_bytes() == before
    path.write_bytes(b"")
    assert len(trained(tmp_path / "three", logger(path)).history) == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("logger", [CSVLogger, JSONLLogger])
def test_a_run_that_would_resume_and_finds_no_checkpoint_loses_nobodys_log(tmp_path, logger):
    path = tmp_path / "log"
    for number in (1, 2):
        trained(tmp_path / f"run {number}", logger(path), epochs=number, resume=True)
        before = path.read_bytes()
        new = trained(tmp_path / f"new {number}", logger(path), epochs=3, resume=True)
        assert (tmp_path / f"log.{2 * number - 1}").read_bytes() == before
        assert len(path.read_bytes().splitlines()) == 3 + (logger is CSVLogger)
        assert len(new.history) == 3
    # a run that shows by its epochs that the log is its own needs no copy
    with path.open("a") as file:
        file.write("half a li")
    trained(tmp_path / "new 2", logger(path), epochs=4, resume=True)
    assert len(path.read_bytes().splitlines()) == 4 + (logger is CSVLogger)
    assert sorted(each.name for each in tmp_path.glob("log*")) == ["log", "log.1", "log.2", "log.3"]


@pytest.mark.parametrize("logger", [CSVLogger, JSONLLogger])
def test_a_resumed_run_refuses_the_log_of_another(tmp_path, logger):
    trained(tmp_path / "mine", logger(tmp_path / "mine.log"))
    trained(tmp_path / "other", logger(tmp_path / "other.log"), bad=True)
    before = (tmp_path / "other.log").read_bytes()
    with pytest.raises(ValueError, match=r"other\.log must hold the log of this run.* epoch 1"):
        trained(tmp_path / "mine", logger(tmp_path / "other.log"), epochs=3, resume=True)
    assert (tmp_path / "other.log").read_bytes() == before
    for name in ("mine", "other"):
        trained(tmp_path / name, logger(tmp_path / f"{name}.log"), bad=name == "other", resume=True)
    assert (tmp_path / "other.log").read_bytes() == before
    assert not list(tmp_path.glob("*.log.*"))


@pytest.mark.parametrize("logger", [CSVLogger, JSONLLogger])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("line", ['{"note": "mine"}', "# mine", '"mine"', "mine,1.0"])
def test_lines_of_ones_own_are_not_lost(tmp_path, logger, place, line):
    path = tmp_path / "log"
    trained(tmp_path / "run", logger(path))
    head, *rows = path.read_text().splitlines(keepends=True)
    rows.insert(len(rows) if place == "last" else 0, line + "\n")
    path.write_text(head + "".join(rows))
    before = path.read_bytes()
    assert len(trained(tmp_path / "run", logger(path), epochs=3, resume=True).history) == 3
    assert (tmp_path / "log.1").read_bytes() == before
    assert b"mine" not in path.read_bytes()
    trained(tmp_path / "run", logger(path), epochs=4, resume=True)
    assert [each.name for each in tmp_path.glob("log.*")] == ["log.1"]


def test_what_a_run_wrote_before_its_first_checkpoint_is_written_again(tmp_path):
    class Die(Callback):
        def on_batch_end(self, trainer, record):
            raise InterruptedError

    path = tmp_path / "log"
    with pytest.raises(InterruptedError):
        trained(tmp_path / "run", JSONLLogger(path, steps=True), Die())
    trained(tmp_path / "run", JSONLLogger(path, steps=True), resume=True)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in records if r["event"] == "step"] == [1, 2, 3, 4]


def test_those_that_heard_a_beginning_hear_the_end_also_when_another_refuses(tmp_path):
    class Note(Callback):
        def __init__(self):
            self.heard = []

        def on_train_begin(self, trainer):
            self.heard.append("begin")

        def on_train_end(self, trainer):
            self.heard.append("end")

    (tmp_path / "log").write_text("mine")
    first, last = Note(), Note()
    with pytest.raises(ValueError, match="must hold no log of another run"):
        trained(tmp_path / "run", first, CSVLogger(tmp_path / "log"), last)
    assert (first.heard, last.heard) == (["begin", "end"], [])


def test_tensorboard_gets_each_number_at_its_step(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = trained(tmp_path / "run", TensorBoardLogger(tmp_path / "events"))
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("epoch/val_loss")]
    wanted = [(record["step"], record["val_loss"]) for record in trainer.history]
    assert found == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in wanted]
    assert [event.step for event in events.Scalars("step/loss")] == [1, 2, 3, 4]


def test_tensorboard_that_is_missing_is_answered_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"adlrns-models\[tensorboard\]"):
        trained(tmp_path, TensorBoardLogger(tmp_path / "events"))


def test_the_bar_counts_steps_where_there_is_a_terminal(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tqdm")
    bar = ProgressBar()
    trained(tmp_path / "one", bar)
    assert capsys.readouterr().err == ""  # no terminal, no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trained(tmp_path / "two", bar)
    assert "4/4" in capsys.readouterr().err


def test_without_tqdm_there_is_no_bar_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert len(trained(tmp_path, ProgressBar()).history) == 2
