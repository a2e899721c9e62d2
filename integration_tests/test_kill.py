"""A process that dies at any moment leaves the old folder or the new one, whole."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from adlrns import load

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")

MODULE = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Linear(64, 8))


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 64, generator=generator) for _ in range(6)]
"""
BUDGETS = {"old": 0.5, "new": 0.25}


def both(step: int) -> list[tuple[str, int]]:
    return [("before", step), ("after", step)]


def other(name: str) -> str:
    return "new" if name == "old" else "old"


# dies just before or after the n-th of the steps that put a finished folder in its place
DIE_AT = """
import os, signal, sys
from adlrns import _folder
from adlrns._cli import main

kind, place, way = sys.argv.pop(1), int(sys.argv.pop(1)), sys.argv.pop(1)
sys.modules["matplotlib"] = None  # plots take time and change nothing here
steps = 0


def count(step, first=False):
    def counted(*args, **kwargs):
        global steps
        steps += bool(steps or first)
        if (kind, place) == ("before", steps):
            os.kill(os.getpid(), signal.SIGKILL)
        result = step(*args, **kwargs)
        if (kind, place) == ("after", steps):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return counted


no = lambda one, other: False
_folder._exchange = count(_folder._exchange) if way == "exchange" else no
_folder.Path.rename = count(_folder.Path.rename)
_folder.shutil.rmtree = count(_folder.shutil.rmtree)
_folder._sync_tree = count(_folder._sync_tree, first=True)
main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    (folder / "mine.py").write_text(MODULE)
    finish(folder, "old")
    return folder


def command(name: str) -> list[str]:
    budget = str(BUDGETS[name])
    return ["compress", "mine:make", "--data", "mine:batches", "--budget", budget, "--out", "out"]


def start(place: Path, *python: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-B", *python],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(place: Path, name: str) -> None:
    assert start(place, "-m", "adlrns", *command(name)).wait(300) == 0
    assert whole(place) == name
    assert beside(place) == []


def whole(place: Path) -> str:
    """Which of the two folders stands there, opened and run."""
    sys.path.insert(0, str(place))
    try:
        saved = load(place / "out")
        with torch.no_grad():
            x = saved.example(2).batch
            saved.elastic.set_ranks(saved.manifest.point.ranks)
            torch.testing.assert_close(saved.elastic(x), saved.materialized(x))
    finally:
        sys.path.remove(str(place))
        sys.modules.pop("mine", None)
    (name,) = [n for n, budget in BUDGETS.items() if budget == saved.manifest.budget.share]
    return name


def beside(place: Path) -> list[str]:
    return [path.name for path in place.iterdir() if path.name.startswith(".out")]


def test_killed_at_random_moments(place: Path) -> None:
    draw, seen_unfinished, tries = random.Random(0), False, 0
    while tries < 4 or (not seen_unfinished and tries < 20):
        tries += 1
        process = start(place, "-m", "adlrns", *command("new"))
        while process.poll() is None and not beside(place):
            time.sleep(0.002)  # until it begins to write
        time.sleep(draw.uniform(0, 0.4) / tries)  # sooner and sooner, until one is in time
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen_unfinished |= bool(beside(place))
        assert whole(place) in ("old", "new")
    assert seen_unfinished


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux's")
@pytest.mark.parametrize("kind, step", [*both(2), *both(3)])
def test_killed_around_the_exchange(place: Path, kind: str, step: int) -> None:
    before = whole(place)
    died(place, kind, step, "exchange", other(before))
    # flush, exchange, remove the old one
    swapped = step > 2 or kind == "after"
    assert whole(place) == (other(before) if swapped else before)


@pytest.mark.parametrize("kind, step", [*both(2), *both(3), ("after", 4)])
def test_killed_where_two_renames_are_needed(place: Path, kind: str, step: int) -> None:
    before = whole(place)
    died(place, kind, step, "rename", other(before))
    # flush, put the old one aside, rename the new one, remove the old one
    if (kind, step) in (("after", 2), ("before", 3)):
        # between the two the old folder waits beside; the next run begins by bringing it back
        assert not (place / "out").exists()
        assert any("adlrns-old" in name for name in beside(place))
        died(place, "before", 1, "rename", other(before))
        assert whole(place) == before
    else:
        assert whole(place) == (other(before) if step > 2 else before)


def test_the_next_run_cleans_up(place: Path) -> None:
    died(place, "before", 2, "exchange", "new")
    died(place, "after", 2, "exchange", "new")
    assert len(beside(place)) == 1  # what the first one left, the second has removed
    finish(place, "old")


def died(place: Path, kind: str, step: int, way: str, name: str) -> None:
    process = start(place, "-c", DIE_AT, kind, str(step), way, *command(name))
    assert process.wait(300) == -signal.SIGKILL


def test_an_interrupt_leaves_the_old_folder_and_exit_code_130(place: Path) -> None:
    before = whole(place)
    # in a shell's background Ctrl-C is ignored, and children inherit that
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(place, "-m", "adlrns", *command(other(before)))
    signal.signal(signal.SIGINT, heard)
    while process.poll() is None and not beside(place):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    assert whole(place) == before
    assert beside(place) == []
