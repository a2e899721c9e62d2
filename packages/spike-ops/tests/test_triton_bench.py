import os
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_gpu  # noqa: E402
from _gpu_goals import DEVICE, GOALS, Case, theirs  # noqa: E402

on_cpu = pytest.mark.skipif(DEVICE == "cuda", reason="a GPU is timed")


@pytest.mark.parametrize("goal", GOALS)
def test_every_case_of_a_goal_is_right_and_its_baselines_can_be_called(goal):
    rows = list(bench_gpu.rows([goal], 1, tiny=True))
    assert rows
    assert all(row["goal"] == goal and row["off"] <= 1 for row in rows)
    own = [row for row in rows if "SpikingJelly" not in row["against"]]
    assert own
    assert all(row["note"] == "called" for row in own)


@pytest.mark.parametrize("off", [1.5, float("nan")])
def test_what_is_wrong_is_named_and_not_timed(monkeypatch, off):
    case = Case("planted", torch.float32, lambda: 1 / 0, lambda: off, {"one": lambda: 1 / 0})
    monkeypatch.setitem(GOALS, "G1", lambda _: iter([case]))
    (row,) = bench_gpu.rows(["G1"], 1, tiny=True)
    assert row["failed"]
    assert row["note"] == "wrong: not timed"


def test_a_missing_baseline_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based", None)
    assert theirs(lambda _: None).startswith("ModuleNotFoundError: ")


def test_ratios_are_theirs_over_ours_and_bytes_are_counted_over_ours(monkeypatch):
    calls = {name: torch.tensor(ms).item for name, ms in (("ours", 2.0), ("one", 3.0))}
    against = {"one": calls["one"], "broken": lambda: 1 / 0, "absent": "because"}
    case = Case("planted", torch.float32, calls["ours"], lambda: 0.0, against, bytes=4e9)
    monkeypatch.setattr(bench_gpu, "once_ms", lambda call, repeats: call())
    monkeypatch.setattr(bench_gpu, "recorded", lambda call: call)
    for name in ("peak_mb", "waits"):
        monkeypatch.setattr(bench_gpu, name, lambda _: 0)
    rows = {
        (row["against"], row.get("mode")): row
        for row in bench_gpu.measured(case, 3, bandwidth=4e12)
    }
    for mode in ("called", "graph"):
        row = rows["one", mode]
        assert (row["ours_ms"], row["ms"], row["times"]) == (2.0, 3.0, 1.5)
        assert (row["GB/s"], row["of_copy"]) == (2000.0, 0.5)
    assert rows["broken", None]["note"] == "ZeroDivisionError: division by zero"
    assert rows["absent", None]["note"] == "because"


@on_cpu
def test_without_a_gpu_nothing_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--goals", "G9"])
    with pytest.raises(SystemExit) as left:
        bench_gpu.main()
    assert left.value.code == 2
    assert "there is no CUDA device" in capsys.readouterr().err


@on_cpu
def test_rows_are_written_with_the_machine_and_the_versions(monkeypatch, tmp_path):
    path = tmp_path / "rows.csv"
    call = ["bench_gpu.py", "--interpret", "--goals", "G8", "G9", "--csv", str(path)]
    monkeypatch.setattr(sys, "argv", call)
    assert bench_gpu.main() == 0
    header, *rows = path.read_text().splitlines()
    assert header.startswith("gpu,torch,cuda,triton,python,spikingjelly,goal,case,dtype,off")
    assert len(rows) == 4
