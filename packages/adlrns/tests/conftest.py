"""Small models and data as files and as a module, the way a user has them."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from adlrns._cli import app
from adlrns_models import materialize_model

MODULE = """
import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4))


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, left, right):
        return self.second(torch.relu(self.first(left + right)))


class Holder:
    make = staticmethod(make)


def named():
    torch.manual_seed(0)
    return Named()


def plain():
    return nn.ReLU()


def number():
    return 3


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 12, generator=generator) for _ in range(6)]


def pairs():
    return [(x, torch.zeros(len(x))) for x in batches()]


def mappings():
    return [{"left": x, "right": 0.5 * x} for x in batches()]


def nothing():
    return []


def words():
    return ["a", "b"]


def tensor():
    return torch.zeros(3, 12)


def broken():
    raise ZeroDivisionError("made to fail")


def breaking():
    yield torch.zeros(4, 12)
    raise ZeroDivisionError("made to fail late")


class Failing(nn.Linear):
    def forward(self, x):
        return {}["what is not there"]


def failing():
    return Failing(12, 4)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module `mine` and arrays."""
    (tmp_path / "mine.py").write_text(MODULE)
    data = np.random.default_rng(0).standard_normal((40, 12))
    np.save(tmp_path / "data.npy", data)
    np.savez(tmp_path / "data.npz", left=data, right=data)
    lines = [",".join(f"c{i}" for i in range(12)), *(",".join(map(str, row)) for row in data)]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a command sets for its own process ends with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


class Command:
    """Runs `adlrns` in this process."""

    def __call__(self, *args: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == code, result.output
        return result

    def error(self, *args: object, code: int = 2) -> str:
        """The one line on stderr."""
        result = self(*args, code=code)
        lines = result.stderr.strip().splitlines()
        assert lines[-1].startswith("error: "), result.stderr
        assert "Traceback" not in result.stderr
        assert sum(line.startswith("error: ") for line in lines) == 1
        return lines[-1].removeprefix("error: ")


@pytest.fixture
def adlrns() -> Command:
    """The command."""
    return Command()


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns what makes one form the fastest of all layers, in place of a clock."""

    def plant(winner: str) -> None:
        def settled(model: nn.Module, form: str, **options: Any) -> nn.Module:
            def timer(calls: Mapping[str, Any], device: torch.device) -> dict[str, float]:
                return {name: 1.0 + (name != winner) for name in calls}

            return materialize_model(model, form, **options, timer=timer)

        monkeypatch.setattr("adlrns._settle.materialize_model", settled)

    return plant
