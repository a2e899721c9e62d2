import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from adlrns._cli import app
from adlrns._datasets import open_task
from adlrns._grow_net import open_net
from adlrns._grow_stop import Interrupts
from adlrns._score import score
from neuro_morph import ArchitectureSpec, load_checkpoint

MODULE = """
import torch
from torch import nn


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(),
                         nn.Linear(6, 10))


class Diverges(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.calls = nn.Linear(64, 6), nn.Linear(6, 10), 0

    def forward(self, x):
        self.calls += self.training
        out = self.down(torch.relu(self.up(x.flatten(1))))
        return out * torch.nan if self.calls > 20 else out


def diverges():
    return Diverges()


def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def rigid():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def broken():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))
"""
SMALL = ("adlrns_mlp", "--net", "hidden=8,8", "--data", "digits", "--epochs", "2")
QUICK = (*SMALL, "--events", "2", "--trial-steps", "8")
FILES = {"events.jsonl", "architecture.json", "grown.safetensors", "history.csv", "report.html"}
FILES |= {"resume.safetensors"}


@pytest.fixture
def mine(place: Path) -> Path:
    pytest.importorskip("sklearn")
    (place / "nets.py").write_text(MODULE)
    return place


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def loaded(out: Path, *options: str) -> nn.Module:
    net = open_net("adlrns_mlp", options or ("hidden=8,8",), open_task("digits", None))
    load_checkpoint(out / "grown.safetensors", net)
    return net


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder and what it said."""
    pytest.importorskip("sklearn")
    out = tmp_path_factory.mktemp("run") / "g"
    result = CliRunner().invoke(app, ["grow", *QUICK, "--out", str(out), "--compare"])
    assert result.exit_code == 0, result.output
    return out, result.stdout


def test_grows_tells_and_writes_one_folder(run: tuple[Path, str]) -> None:
    out, stdout = run
    assert {path.name for path in out.iterdir()} == FILES | {"without-growth.csv"}
    kept = [event for event in events(out) if event["decision"] == "committed"]
    assert 1 <= len(kept) <= 2
    assert stdout.count(": kept, ") == len(kept)
    history = rows(out / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert int(history[-1]["parameters"]) == kept[-1]["parameters_after"] > 682
    # two hidden layers and a head: a multiplication and an addition for every weight
    assert int(rows(out / "without-growth.csv")[-1]["flops"]) == 2 * (64 * 8 + 8 * 8 + 8 * 10)
    assert float(history[-1]["trial_flops"]) > 0
    assert len(ArchitectureSpec.load(out / "architecture.json").steps) == len(kept)


def test_the_checkpoint_is_the_network_of_the_last_epoch(run: tuple[Path, str]) -> None:
    last = rows(run[0] / "history.csv")[-1]
    net = loaded(run[0])
    assert count(net) == int(last["parameters"])
    assert score(net, open_task("digits", None)) == pytest.approx(float(last["accuracy"]))


def test_the_page_needs_nothing_but_itself_and_tells_what_was_tried(run: tuple[Path, str]) -> None:
    page = (run[0] / "report.html").read_text()
    assert len(page) < 1_000_000
    for outside in ("http", "src=", "@import", "<script", "<link"):
        assert outside not in page
    for event in events(run[0]):
        assert f"widen {event['target']} by {event['detail']['by']}" in page
        assert event["why_not"] is None or event["why_not"] in page
    assert "without growth" in page
    if "no plots" not in page:
        assert page.count("<svg") == 3
        assert 'aria-label="widths"' in page


@pytest.mark.parametrize(
    "way, decisions",
    [
        (("--lr", "1e-9"), {"rolled back"}),
        (("--max-parameters", "683"), set()),
        (("--max-parameters", "683", "--no-tournament"), {"refused"}),
    ],
)
def test_where_nothing_is_kept_the_run_is_the_one_without_growth(
    adlrns, mine: Path, way: tuple[str, ...], decisions: set[str]
) -> None:
    result = adlrns("grow", *QUICK, "--compare", *way, "--out", "g")
    assert {event["decision"] for event in events(mine / "g")} == decisions
    told = "note: nothing was tried: what would grow is over --max-parameters or --max-flops"
    assert (told in result.stderr) is (not decisions)
    grown, fixed = (rows(mine / f"g/{name}.csv") for name in ("history", "without-growth"))
    for row in grown:
        assert (float(row.pop("trial_flops")) > 0) == (decisions == {"rolled back"})
    assert [row.pop("trial_flops") for row in fixed] == ["0.0", "0.0"]
    assert grown == fixed


def test_the_seed_decides_everything(adlrns, mine: Path, run: tuple[Path, str]) -> None:
    known = (run[0] / "history.csv").read_text()
    for seed in (0, 1):
        adlrns("grow", *QUICK, "--out", f"g{seed}", "--seed", seed)
        assert ((mine / f"g{seed}/history.csv").read_text() == known) is (seed == 0)


LIMITS = [("--max-parameters", 760, "parameters"), ("--max-flops", 1500, "flops")]


@pytest.mark.parametrize("limit, most, name", LIMITS)
def test_no_limit_is_passed_and_what_would_is_named(
    adlrns, mine: Path, limit: str, most: int, name: str
) -> None:
    adlrns("grow", *QUICK, "--out", "g", limit, most, "--no-tournament")
    assert all(int(row[name]) <= most for row in rows(mine / "g/history.csv"))
    refused = [event for event in events(mine / "g") if event["decision"] == "refused"]
    assert any(f"would take {name}" in event["why_not"] for event in refused)
    assert refused[0]["why_not"] in (mine / "g/report.html").read_text().replace("&#x27;", "'")


@pytest.mark.parametrize("limit, most, name", LIMITS)
def test_what_would_pass_a_limit_is_tried_with_fewer_units(
    adlrns, mine: Path, limit: str, most: int, name: str
) -> None:
    adlrns("grow", *QUICK, "--out", "g", limit, most)
    assert all(int(row[name]) <= most for row in rows(mine / "g/history.csv"))
    assert {event["detail"]["by"] for event in events(mine / "g")} & {1, 2, 3}


@pytest.mark.parametrize(
    "init, told",
    [
        ("zero-fan-out", "zero fan-out"),
        ("split", "split at 0.3"),
        ("divide", "divide over 4 steps"),
        ("gradmax", "gradmax"),
        ("tiny", "tiny"),
    ],
)
def test_units_begin_as_asked_for(adlrns, mine: Path, init: str, told: str) -> None:
    adlrns("grow", *QUICK, "--out", "g", "--init", init, "--by", "0.25", "--epochs", 1)
    kept = [event for event in events(mine / "g") if event["decision"] == "committed"]
    assert {event["detail"]["init"] for event in kept} == {told}
    assert {event["detail"]["by"] for event in kept} <= {2, 3}
    assert all(event["relative_change"] < 1e-5 for event in kept)


def test_events_bound_how_often_it_grows_and_the_last_quarter_is_left_alone(
    adlrns, mine: Path
) -> None:
    adlrns("grow", *SMALL, "--events", "3", "--no-tournament", "--out", "g")
    steps = [event["step"] for event in events(mine / "g")]
    total = int(rows(mine / "g/history.csv")[-1]["step"])
    assert len(steps) == 3
    assert steps == [total // 4, total // 2, 3 * (total // 4)]


def test_a_plateau_that_never_comes_is_told(adlrns, mine: Path) -> None:
    result = adlrns("grow", *SMALL, "--when", "plateau", "--out", "g")
    assert "note: nothing was tried: " in result.stderr
    assert events(mine / "g") == []
    assert count(loaded(mine / "g")) == 682


def test_as_json_every_line_is_a_record(adlrns, mine: Path) -> None:
    result = adlrns("grow", *QUICK, "--out", "g", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    kinds = [record["record"] for record in records]
    assert kinds.count("epoch") == 2
    assert kinds[-1] == "result"
    grown = [record for record in records if record["record"] == "growth"]
    assert [r["id"] for r in grown] == [event["id"] for event in events(mine / "g")]
    assert all(r["gain"] is not None for r in grown if r["decision"] == "committed")
    assert records[-1]["fixed"] is None


def test_a_user_s_own_model_grows(adlrns, mine: Path) -> None:
    options = ("--data", "digits", "--epochs", "1", "--trial-steps", "5", "--events", "1")
    adlrns("grow", "nets:net", *options, "--out", "g")
    import nets

    try:
        net = nets.net()
    finally:
        sys.modules.pop("nets")
    load_checkpoint(mine / "g/grown.safetensors", net)
    history = rows(mine / "g/history.csv")
    assert count(net) == int(history[-1]["parameters"]) > 64 * 6
    assert score(net, open_task("digits", None)) == pytest.approx(float(history[-1]["accuracy"]))


def test_text_grows_too(adlrns, place: Path) -> None:
    (place / "book.txt").write_text("to be or not to be " * 150)
    sizes = ("--net", "width=8", "--net", "depth=1", "--net", "heads=2")
    options = ("--epochs", "1", "--events", "1", "--trial-steps", "2", "--batch-size", "8")
    adlrns("grow", "adlrns_transformer", *sizes, "--data", "book.txt", *options, "--out", "g")
    assert "perplexity" in rows(place / "g/history.csv")[0]
    assert events(place / "g")


def test_training_that_diverges_fails_and_leaves_the_last_epoch(adlrns, mine: Path) -> None:
    command = ("nets:diverges", "--data", "digits", "--epochs", "3", "--events", "1")
    message = adlrns.error("grow", *command, "--no-tournament", "--out", "g", code=1)
    assert message.startswith("training diverged: the loss of step ")
    assert message.endswith("is nan; a smaller --lr than 0.002 may help")
    assert (mine / "g/grown.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--by", "0"], "--by must be finite and above 0, got 0.0"),
        (["--lr", "nan"], "--lr must be finite and above 0, got nan"),
        (["--init", "magic"], "Invalid value for '--init'"),
        (["--when", "never"], "Invalid value for '--when'"),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
        (["--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["--device", "toaster"], "--device must be one that is here"),
        (["--max-parameters", "682"], "--max-parameters must be above the 682 that"),
        (["--max-flops", "1312"], "--max-flops must be above the 1312 that"),
        (["--net", "width=8"], "must be KEY=VALUE, each once of hidden, got 'width=8'"),
        (["--net", "hidden=4"], "each once of hidden, got 'hidden=4'"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    adlrns, mine: Path, arguments: list[str], message: str
) -> None:
    assert message in adlrns.error("grow", *SMALL, "--out", "g", *arguments)
    assert not (mine / "g").exists()


@pytest.mark.parametrize(
    "model, message, code",
    [
        ("nothing", "MODEL must be one of adlrns_mlp", 2),
        ("adlrns_transformer", "MODEL must be a net for images", 2),
        ("hf:folder", "MODEL hf:folder gives no scores: give a module:factory", 2),
        ("nets:missing", "MODEL nets:missing: nets has no 'missing'", 2),
        ("nets:narrow", "must give [8, 10], got (8, 4)", 2),
        ("nets:rigid", "MODEL nets:rigid has nothing that can grow: ", 2),
        ("nets:broken", "MODEL nets:broken on the data, inputs of [8, 1, 8, 8]: RuntimeError: ", 1),
    ],
)
def test_a_model_that_cannot_be_grown_is_named(
    adlrns, mine: Path, model: str, message: str, code: int
) -> None:
    command = ("grow", model, "--data", "digits", "--out", "g")
    assert message in adlrns.error(*command, code=code)
    assert not (mine / "g").exists()


def test_sizes_that_are_none_are_named(adlrns, mine: Path) -> None:
    command = ("grow", "adlrns_mlp", "--data", "digits", "--out", "g")
    for size, message in (("hidden=0", "--net hidden must be"), ("hidden=[", "must be a number")):
        assert message in adlrns.error(*command, "--net", size)
    own = ("grow", "nets:net", "--data", "digits", "--net", "hidden=8")
    assert "--net is for adlrns_mlp" in adlrns.error(*own)


def test_a_folder_that_holds_something_is_left_alone(adlrns, mine: Path) -> None:
    (mine / "thesis").mkdir()
    (mine / "thesis/draft.txt").write_text("ten years")
    message = adlrns.error("grow", *SMALL, "--out", "thesis")
    assert message == "--out must be new or empty, got thesis, which holds something"
    assert [path.name for path in (mine / "thesis").iterdir()] == ["draft.txt"]
    assert "got the file nets.py" in adlrns.error("grow", *SMALL, "--out", "nets.py")


def test_an_interrupt_waits_until_a_step_is_whole_and_a_second_does_not() -> None:
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            interrupts.check()
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.asked
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heard)


def test_ctrl_c_leaves_a_checkpoint_that_loads_and_says_so(mine: Path) -> None:
    # in a shell's background Ctrl-C is ignored, and children inherit that
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = ("grow", *SMALL, "--epochs", "2000", "--events", "500", "--trial-steps", "5")
    process = subprocess.Popen(
        [sys.executable, "-m", "adlrns", *command, "--out", "g"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, heard)
    weights = mine / "g/grown.safetensors"
    while process.poll() is None and not weights.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    last = told.splitlines()[-1]
    assert last.startswith("error: interrupted: g holds the run as it was after step ")
    assert last.endswith("; --resume goes on from there")
    kept = [event for event in events(mine / "g") if event["decision"] == "committed"]
    sizes = [event["parameters_after"] for event in kept]
    assert count(loaded(mine / "g")) == (sizes[-1] if sizes else 682)


def test_ctrl_c_in_the_middle_of_a_trial_keeps_what_was_there_before(
    adlrns, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adlrns._grow_train import Training

    def stop(self: Training, model: nn.Module, batch: Any) -> None:
        with torch.no_grad():
            model.head.weight.add_(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "trial_step", stop)
    said = adlrns.error("grow", *QUICK, "--out", "g", code=130)
    assert said == (
        "interrupted: g holds the run as it was after step 12; --resume goes on from there"
    )
    net = loaded(mine / "g")
    assert count(net) == 682
    assert float(net.head.weight.detach().abs().max()) < 1


def test_ctrl_c_while_comparing_leaves_the_whole_run(
    adlrns, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adlrns._grow_train import Training

    train, runs = Training.run, []

    def second_stops(self: Training, **hooks: Any) -> None:
        runs.append(self)
        if len(runs) == 2:
            raise KeyboardInterrupt
        train(self, **hooks)

    monkeypatch.setattr(Training, "run", second_stops)
    result = adlrns("grow", *QUICK, "--out", "g", "--compare", code=130)
    assert "error: interrupted: g holds the whole run with growth; --resume" in result.stderr
    assert {path.name for path in (mine / "g").iterdir()} == FILES
