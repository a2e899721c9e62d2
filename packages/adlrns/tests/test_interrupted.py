"""Ctrl-C: one line that says what is kept, and whether there is something to go on from."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adlrns import _commands
from adlrns._grow_work import Work

CONFIG = """
model: {type: adlrns_mlp, hidden: [4]}
train: {epochs: 100000, batch_size: 64}
data: {name: digits, limit: 128}
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "grow": ("grow", "adlrns_mlp", "--net", "hidden=4", "--data", "digits", "--epochs", "5000"),
    "train": ("train", "c.yaml"),
    "experiment": ("experiment", "c.yaml"),
}
# what is there once training has begun
BEGUN = {"grow": "history.csv", "train": "seed-0/*/*.safetensors"}
BEGUN["experiment"] = BEGUN["train"]
GOES_ON = {
    "grow": r"o holds the run as it was after step \d+; --resume goes on from there",
    "train": "; --resume goes on from what o holds",
}
GOES_ON["experiment"] = GOES_ON["train"]


@pytest.fixture(autouse=True)
def config(place: Path) -> Path:
    pytest.importorskip("sklearn")
    (place / "c.yaml").write_text(CONFIG)
    return place


def interrupt(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def running(*command: str) -> Iterator["subprocess.Popen[str]"]:
    # in a shell's background Ctrl-C is ignored, and children inherit that
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "adlrns", *command, "--out", "o"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, heard)
    try:
        yield process
    finally:
        process.kill()


def stopped_when(process: "subprocess.Popen[str]", there: Callable[[], bool]) -> str:
    """The last line on stderr of a process that is interrupted when something is there."""
    while process.poll() is None and not there():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    lines = told.strip().splitlines()
    assert sum("interrupted" in line for line in lines) == 1
    return lines[-1]


def times(out: Path, command: str) -> dict[str, int]:
    """When each file that grows with the training was last written."""
    found = {}
    for path in out.glob(BEGUN[command]):
        with contextlib.suppress(FileNotFoundError):  # old checkpoints go
            found[path.name] = path.stat().st_mtime_ns if path.stat().st_size else 0
    return {name: at for name, at in found.items() if at}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_ctrl_c_ends_in_one_line_and_resume_goes_on(place: Path, command: str) -> None:
    out, before = place / "o", {}
    for more in ((), ("--resume",)):
        with running(*COMMANDS[command], *more) as process:
            said = stopped_when(process, lambda b=before: times(out, command) != b)  # type: ignore[misc]
        assert re.search(f"^error: interrupted.*{GOES_ON[command]}$", said), said
        before = times(out, command)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_before_anything_is_written_nothing_is_said_to_go_on(
    adlrns, place: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("torch.device", interrupt)
    said = adlrns.error(*COMMANDS[command], "--device", "cpu", "--out", "o", code=130)
    assert said.startswith("interrupted before ")
    assert said.endswith(": there is nothing to go on from")
    assert not (place / "o").exists()


@pytest.mark.parametrize("command", ["train", "experiment"])
def test_before_the_first_checkpoint_resume_is_said_to_begin_again(
    adlrns, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("adlrns_models.ADLRNSTrainer.train", interrupt)
        said = adlrns.error(*COMMANDS[command], "--out", "o", code=130)
        assert said == "interrupted before the first checkpoint: --resume begins the run in o again"
        again = adlrns.error(*COMMANDS[command], "--out", "o", "--resume", code=130)
    assert again == said


def test_growth_that_is_torn_while_it_saves_goes_on_from_the_checkpoint_before(
    adlrns, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = Work.save, []

    def torn(self: Work) -> None:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        if len(calls) == 3:  # the second Ctrl-C, while the first one is answered
            raise KeyboardInterrupt
        save(self)

    monkeypatch.setattr(Work, "save", torn)
    command = (*COMMANDS["grow"], "--no-tournament", "--out", "o")
    said = adlrns.error(*command, code=130)
    assert said == "interrupted; --resume goes on from the last checkpoint in o"
    calls[:] = [None]  # type: ignore[list-item]
    assert "interrupted" in adlrns.error(*command, "--resume", code=130)


@pytest.mark.parametrize("kind", [RuntimeError, RecursionError, ImportError])
def test_an_interrupt_that_a_library_turned_into_its_own_error_is_still_one(
    adlrns, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def turned(*args: object) -> None:
        try:
            interrupt()
        except KeyboardInterrupt as error:
            raise kind("an import was torn") from error

    monkeypatch.setattr(_commands, "_command", turned)
    assert adlrns.error(*COMMANDS["grow"], "--out", "o", code=130).startswith("interrupted")
