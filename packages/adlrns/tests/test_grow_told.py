"""What `adlrns grow` says before, while and after it works, and the folders it may use."""

import re
from pathlib import Path

import pytest

from adlrns import _console, _grow_lines
from adlrns._console import stage
from adlrns._grow_settings import FIRST
from adlrns._grow_work import Work

SMALL = ("grow", "adlrns_mlp", "--net", "hidden=4", "--data", "digits", "--out", "g")
QUICK = (*SMALL, "--no-tournament", "--epochs")


@pytest.fixture(autouse=True)
def digits(place: Path) -> Path:
    pytest.importorskip("sklearn")
    return place


def epochs_told(stderr: str) -> list[int]:
    return [int(found) for found in re.findall(r"^epoch (\d+) of ", stderr, re.MULTILINE)]


@pytest.mark.parametrize("every, told", [(1e9, [1, 5]), (0.0, [1, 2, 3, 4, 5])])
def test_where_nobody_watches_epochs_are_told_now_and_then(
    adlrns, monkeypatch: pytest.MonkeyPatch, every: float, told: list[int]
) -> None:
    monkeypatch.setattr(_grow_lines, "_EVERY", every)
    result = adlrns(*QUICK, "5", "--compare")
    assert epochs_told(result.stderr) == 2 * told
    line = r"epoch 5 of 5: loss \d\.\d{4}, accuracy 0\.\d{4}, [\d,]+ parameters\n"
    assert len(re.findall(line, result.stderr)) == 2
    assert "epoch" not in result.stdout.partition("FLOPs")[0]


def test_as_json_epochs_are_records_alone(adlrns) -> None:
    result = adlrns(*QUICK, "2", "--json", "--compare")
    assert epochs_told(result.stderr) == []
    assert result.stdout.count('"record": "epoch"') == 2


@pytest.mark.parametrize("every, lines", [(0.0, ["read: 1 of 3", "read: 2"]), (1e9, [])])
def test_a_long_stage_is_told_of_where_there_is_no_bar(
    capsys, monkeypatch: pytest.MonkeyPatch, every: float, lines: list[str]
) -> None:
    monkeypatch.setattr(_console, "_UNWATCHED_EVERY", every)
    with stage("read") as advance:
        advance(1, 3)
        advance(2, 0)
    assert capsys.readouterr().err.splitlines()[:-1] == lines


@pytest.mark.parametrize(
    "options, told",
    [
        (("--epochs", "1"), "trials may take 320 steps, training has 18: more --epochs, fewer"),
        (("--epochs", "4", "--events", "1"), "trials may take 80 steps, training has 72"),
        (("--epochs", "4", "--events", "1", "--trial-steps", "18"), None),
        (("--epochs", "1", "--no-tournament"), None),
    ],
)
def test_trials_that_may_take_more_than_the_training_are_told_before(
    adlrns, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str | None
) -> None:
    def stop(self: Work) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Work, "run", stop)
    stderr = adlrns(*SMALL, *options, code=130).stderr
    assert (f"note: {told}" in stderr) if told else ("trials may take" not in stderr)


@pytest.mark.parametrize(
    "epochs, told",
    [
        (1, "when last asked whether to grow, plateau did not ask for it (13 of 48 steps seen)"),
        (8, "plateau did not ask for it (the loss "),
    ],
)
def test_where_nothing_was_tried_it_is_told_who_did_not_ask(adlrns, epochs: int, told: str) -> None:
    stderr = adlrns(*QUICK, epochs, "--when", "plateau").stderr
    assert "note: nothing was tried: when last asked whether to grow, plateau did not" in stderr
    assert told in stderr


@pytest.mark.parametrize("names", [FIRST[:1], FIRST, (*FIRST[:2], ".resume.safetensors.new")])
def test_a_folder_where_a_run_only_began_is_used_again(
    adlrns, place: Path, names: tuple[str, ...]
) -> None:
    (place / "g").mkdir()
    for name in names:
        (place / "g" / name).write_text("" if name in ("events.jsonl", "history.csv") else "{")
    message = adlrns.error(*QUICK, "1", "--resume")
    assert message.endswith("without resume.safetensors, which only began: leave --resume away")
    adlrns(*QUICK, "1")
    assert (place / "g/report.html").is_file()
    assert (place / "g/architecture.json").read_text() != "{"


@pytest.mark.parametrize(
    "files",
    [
        {"events.jsonl": "", "notes.txt": ""},
        {"events.jsonl": '{"step": 3}\n'},
        {"events.jsonl": "", "history.csv": "epoch\n1\n"},
        {"architecture.json": "{}"},
    ],
)
def test_a_folder_that_holds_more_than_a_beginning_is_left_alone(
    adlrns, place: Path, files: dict[str, str]
) -> None:
    (place / "g").mkdir()
    for name, text in files.items():
        (place / "g" / name).write_text(text)
    assert adlrns.error(*QUICK, "1").endswith("which holds something")
    assert "leave --resume away" not in adlrns.error(*QUICK, "1", "--resume")
    assert {path.name: path.read_text() for path in (place / "g").iterdir()} == files


@pytest.mark.parametrize(
    "device, why",
    [
        ("toaster", "no device's name, such as auto, cpu or cuda:0"),
        ("meta", "nothing is computed there"),
        ("fpga", "this torch has none"),
    ],
)
def test_a_device_that_is_not_here_is_told_shortly(adlrns, device: str, why: str) -> None:
    message = adlrns.error(*QUICK, "1", "--device", device)
    assert message == f"--device must be one that is here, got {device!r}: {why}"


@pytest.mark.parametrize("options", [("--events", "99"), ("--events", "99", "--no-tournament"), ()])
def test_a_rate_that_is_too_high_is_named_wherever_its_losses_are_met(
    adlrns, place: Path, options: tuple[str, ...]
) -> None:
    message = adlrns.error(*SMALL, "--epochs", "2", "--lr", "1e19", *options, code=1)
    assert message.startswith("training diverged: ")
    assert message.endswith("; a smaller --lr than 1e+19 may help")


@pytest.mark.parametrize(
    "model, net, message",
    [
        ("adlrns_mlp", "hiden=8", "--net of adlrns_mlp must be KEY=VALUE, each once of hidden"),
        ("adlrns_net", "hidden=8", "--net is for adlrns_mlp"),
        ("adlrns_mlp", "hidden=0", "--net hidden must be"),
    ],
)
def test_a_network_that_cannot_be_is_told_before_data_are_read(
    adlrns, model: str, net: str, message: str
) -> None:
    command = ("grow", model, "--net", net, "--data", "nowhere", "--out", "g")
    assert message in adlrns.error(*command)


def test_sizes_that_do_not_fit_each_other_are_told_by_their_option(adlrns) -> None:
    command = ("grow", "adlrns_vit", "--net", "width=5", "--data", "digits", "--out", "g")
    assert adlrns.error(*command).startswith("--net: ")
