import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Classification, Report, analyze

METHODS = [
    "block_influence",
    "skip_attribution",
    "fisher_information",
    "exact_fisher",
    "layer_correlation",
    "bridgeability",
    "spectral_analysis",
    "layer_ablation",
    "shapley",
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def _net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), *[Block() for _ in range(3)], nn.Linear(8, 3)).double()


class Batches:
    """Nine batches; ends the process, or raises, when the one of a number is asked for."""

    def __init__(self, *, killed: int = -1, fails: int = -1) -> None:
        self.killed, self.fails, self.given = killed, fails, 0

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(1)
        for number in range(9):
            x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
            if number == self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self.fails:
                raise OSError("the disk is gone")
            self.given = number + 1
            yield x, torch.randint(0, 3, (5,), generator=generator)


def _renamed() -> nn.Module:
    """The same numbers under other names."""
    names = ["0", "1", "2", "3", "head"]
    return nn.Sequential(OrderedDict(zip(names, _net(), strict=True)))


class Smoothed(Classification):
    """Named as its parent, with an option."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share


def _analysis(path: Path | None, batches: Any = None, **options: Any) -> Report:
    given = Batches() if batches is None else batches
    options = {"methods": METHODS, "checkpoint": path, "checkpoint_every": 2} | options
    return analyze(options.pop("model", _net()), given, **options)


def _plain(report: Report) -> dict[str, Any]:
    found = report.to_dict()
    for method in found["methods"].values():
        method.pop("seconds")
    return found


def test_an_analysis_that_failed_goes_on_and_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(OSError, match="the disk is gone"):
        _analysis(path, Batches(fails=6))
    resumed = _analysis(path)
    assert _plain(resumed) == _plain(_analysis(None))


def test_only_what_is_left_runs_again(tmp_path: Path) -> None:
    methods = ["block_influence", "layer_ablation"]
    runs: list[int] = []
    for batches in (Batches(fails=7), Batches(), Batches()):
        heard: list[int] = []
        with suppress(OSError):
            _analysis(
                tmp_path / "state",
                batches,
                methods=methods,
                progress=lambda what, done, heard=heard: heard.append(done),
            )
        runs.append(len(heard))
    # seven of nine batches; those from the seventh on and all of the ablation; nothing
    assert runs == [7, 3 + 9, 0]


def test_an_analysis_that_was_killed_goes_on_and_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, __file__, str(path)],
        capture_output=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert sorted(tmp_path.iterdir()) == [path]
    assert _plain(_analysis(path)) == _plain(_analysis(None))


@pytest.mark.parametrize(
    "options, what",
    [
        ({"methods": METHODS[:2]}, "methods was"),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"model": _net(1)}, "model was"),
        ({"model": _net().requires_grad_(False)}, "frozen was"),
        ({"model": _renamed()}, "tensors of the model was"),
        ({"task": Smoothed(0.2)}, "task was"),
        ({"units": ["1", "2"]}, "units was"),
        ({"max_batches": 4}, "max_batches was None, is 4"),
        ({"batches": [(torch.zeros(5, 6).double(), torch.zeros(5).long())]}, "first batch was"),
    ],
)
def test_a_checkpoint_of_another_analysis_is_refused(
    tmp_path: Path, options: dict[str, Any], what: str
) -> None:
    options = {"methods": METHODS[:1]} | options
    _analysis(tmp_path / "state", methods=METHODS[:1])
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(ValueError, match=f"state is of another analysis: {what}"):
        _analysis(tmp_path / "state", **options)
    assert (tmp_path / "state").read_bytes() == before


def test_options_of_a_task_are_a_part_of_the_analysis(tmp_path: Path) -> None:
    path = tmp_path / "state"
    _analysis(path, methods=METHODS[:1], task=Smoothed(0.1))
    _analysis(path, methods=METHODS[:1], task=Smoothed(0.1))
    with pytest.raises(ValueError, match=r"task was .*'share': 0.1.* is .*'share': 0.2"):
        _analysis(path, methods=METHODS[:1], task=Smoothed(0.2))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    _analysis(path, methods=METHODS[:1])
    data = path.read_bytes()
    for broken in (b"", data[:-9], b"\x80\x04N." * 9, data[:20]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="checkpoint .*state: is no state of an analysis"):
            _analysis(path, methods=METHODS[:1])


def test_a_checkpoint_needs_named_methods(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="methods must be named for a checkpoint, got 'auto'"):
        _analysis(tmp_path / "state", methods="auto")
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, got 0"):
        _analysis(tmp_path / "state", checkpoint_every=0)


if __name__ == "__main__":
    _analysis(Path(sys.argv[1]), Batches(killed=5))
