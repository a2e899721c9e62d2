import json
import math
import stat
import subprocess
import sys

import pytest
import torch

from lowrank_kernels import Dispatcher, _calibration_file, calibrate
from lowrank_kernels._calibration import Calibration, Key
from lowrank_kernels._calibration_file import cache_file, load, save
from lowrank_kernels._machine import cache_folder

CPU = torch.device("cpu")
KEY = Key(48, 32, 24, torch.float32, "cpu")
DOWN, UP = torch.ones(24, 48), torch.ones(32, 24)
TABLE = Calibration(
    KEY, (1, 4), (8, 24),
    {"dense": ((1.0,), (4.0,)), "factored": ((0.5, 2.0), (1.0, 3.0)),
     "packed": ((0.4, 1.5), (2.0, 5.0))},
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_KERNELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_form_gets_a_time_at_every_rank_and_batch(dtype):
    table = calibrate(40, 24, dtype=dtype, seconds=0.05, save=False)
    assert table.key == Key(40, 24, 24, dtype, "cpu")
    assert table.batches[0] == 1
    assert list(table.batches) == [2**i for i in range(len(table.batches))]
    assert table.ranks[-1] <= 24
    for form, rows in table.seconds.items():
        assert len(rows) == len(table.batches)
        assert {len(row) for row in rows} == {1 if form == "dense" else len(table.ranks)}
        assert all(math.isfinite(t) and t > 0 for row in rows for t in row)
    assert set(table.seconds) == {"dense", "factored", "packed"}


def test_a_small_budget_measures_fewer_batches():
    few = calibrate(64, 64, seconds=1e-9, save=False)
    assert few.batches == (1,)


def test_measuring_moves_no_random_numbers():
    state = torch.get_rng_state()
    calibrate(16, 16, seconds=0.001, save=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_written_unless_asked(folder):
    calibrate(16, 16, seconds=0.001, save=False)
    Dispatcher().choose(DOWN, UP, batch=1)
    Dispatcher(calibrate=True, cache=False).choose(DOWN[:2, :3], UP[:3, :2], batch=1)
    assert not folder.exists()


def test_nothing_is_measured_unless_asked(monkeypatch):
    def never(*args, **options):
        raise AssertionError("measured")

    monkeypatch.setattr("lowrank_kernels._dispatcher.measure", never)
    assert Dispatcher().calibration(DOWN, UP) is None
    Dispatcher().choose(DOWN, UP, batch=1)
    save(TABLE, CPU)
    Dispatcher(calibrate=True).choose(DOWN, UP, batch=1)  # it was measured before
    with pytest.raises(AssertionError, match="measured"):
        Dispatcher(calibrate=True).choose(DOWN[:20], UP[:, :20], batch=1)


def test_a_product_is_measured_once(monkeypatch):
    count = []
    monkeypatch.setattr(
        "lowrank_kernels._dispatcher.measure", lambda *a, **o: count.append(a) or TABLE
    )
    dispatcher = Dispatcher(calibrate=True)
    for batch in (1, 4):
        dispatcher.choose(DOWN, UP, batch=batch)
    assert count == [(KEY, CPU)]


def test_what_was_measured_is_found_again():
    table = calibrate(48, 32, 24, seconds=0.01)
    assert load(KEY, CPU) == table
    assert Dispatcher().calibration(DOWN, UP) == table
    assert Dispatcher(cache=False).calibration(DOWN, UP) is None
    other = calibrate(16, 16, seconds=0.001)
    assert load(other.key, CPU) == other
    assert load(KEY, CPU) == table


def test_a_dispatcher_sees_what_is_calibrated_later():
    dispatcher = Dispatcher()
    assert dispatcher.calibration(DOWN, UP) is None
    save(TABLE, CPU)
    assert dispatcher.calibration(DOWN, UP) == TABLE


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LOWRANK_KERNELS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lowrank-kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lowrank-kernels"


@pytest.mark.parametrize("field", ["cpu", "cores", "threads", "torch", "capability", "device"])
def test_a_file_of_another_machine_is_ignored(field):
    save(TABLE, CPU)
    path = cache_file(KEY, CPU)
    content = json.loads(path.read_text())
    content["machine"][field] = "another"
    path.write_text(json.dumps(content))
    assert load(KEY, CPU) is None


def test_a_file_of_another_format_is_ignored_and_replaced():
    save(TABLE, CPU)
    path = cache_file(KEY, CPU)
    content = json.loads(path.read_text())
    content["format"] = 1
    path.write_text(json.dumps(content))
    assert load(KEY, CPU) is None
    save(TABLE, CPU)
    assert load(KEY, CPU) == TABLE


def test_another_number_of_threads_is_another_machine(monkeypatch):
    save(TABLE, CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    assert load(KEY, CPU) is None


DAMAGED = [
    "", "{", "[]", "null", "3", '{"format": 2}', "[" * 100_000,
    '{"format": 2, "machine": MACHINE, "product": "KEY"}',
    '{"format": 2, "machine": MACHINE, "product": "KEY", "table": 3}',
    '{"format": 2, "machine": MACHINE, "product": "KEY", "table": {"batches": [1]}}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_ignored_with_a_warning_that_names_it(text):
    save(TABLE, CPU)
    path = cache_file(KEY, CPU)
    machine = json.dumps(json.loads(path.read_text())["machine"])
    path.write_text(text.replace("MACHINE", machine).replace("KEY", str(KEY)))
    with pytest.warns(UserWarning, match=path.name):
        assert load(KEY, CPU) is None


def test_bytes_that_are_no_text_are_ignored_with_a_warning():
    save(TABLE, CPU)
    path = cache_file(KEY, CPU)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.warns(UserWarning, match=path.name):
        assert load(KEY, CPU) is None
    assert save(TABLE, CPU)
    assert load(KEY, CPU) == TABLE


SAVER = """
import sys
import torch
from lowrank_kernels import calibrate
sys.stdin.read(1)
for n in range(int(sys.argv[1]), 12, 2):
    calibrate(n, 4, seconds=1e-9)
"""


def test_processes_that_save_at_once_lose_nothing():
    savers = [
        subprocess.Popen([sys.executable, "-c", SAVER, str(first)], stdin=subprocess.PIPE)
        for first in (2, 3)
    ]
    for saver in savers:
        saver.stdin.write(b"!")
        saver.stdin.close()
    assert [saver.wait() for saver in savers] == [0, 0]
    for n in range(2, 12):
        table = load(Key(n, 4, min(n, 4), torch.float32, "cpu"), CPU)
        assert table is not None, n


@pytest.mark.parametrize(
    "change",
    [
        {"batches": []}, {"batches": [4, 1]}, {"batches": [1, 1]}, {"batches": [1, "4"]},
        {"batches": [1.0, 4]}, {"ranks": [0, 24]}, {"ranks": [8, 16, 24]}, {"seconds": {}},
        {"seconds": 3}, {"seconds": {"dense": [[1.0], [4.0]]}},
        {"seconds": {**TABLE.to_json()["seconds"], "magic": [[1.0, 1.0], [1.0, 1.0]]}},
        {"seconds": {**TABLE.to_json()["seconds"], "dense": [[1.0], [-4.0]]}},
        {"seconds": {**TABLE.to_json()["seconds"], "dense": [[1.0], [math.nan]]}},
        {"seconds": {**TABLE.to_json()["seconds"], "dense": [[1.0]]}},
        {"seconds": {**TABLE.to_json()["seconds"], "packed": [[1.0], [1.0, 2.0]]}},
        {"seconds": {**TABLE.to_json()["seconds"], "packed": [["a", 1.0], [1.0, 2.0]]}},
    ],
)  # fmt: skip
def test_a_table_that_breaks_a_rule_is_refused(change):
    with pytest.raises(ValueError, match="48-32-24-float32-cpu"):
        Calibration.from_json(KEY, TABLE.to_json() | change)


def test_a_table_survives_plain_numbers():
    assert Calibration.from_json(KEY, json.loads(json.dumps(TABLE.to_json()))) == TABLE


def test_a_folder_that_cannot_be_written_to_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOWRANK_KERNELS_CACHE", str(tmp_path / "file" / "below"))
    assert not save(TABLE, CPU)
    table = calibrate(16, 16, seconds=0.001)
    assert Dispatcher([table]).calibration(torch.ones(16, 16), torch.ones(16, 16)) == table


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    save(TABLE, CPU)
    before = cache_file(KEY, CPU).read_bytes()

    def fails(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(_calibration_file.os, "fsync", fails)
    with pytest.raises(KeyboardInterrupt):
        save(TABLE._replace(ranks=(4, 8)), CPU)
    assert [p.read_bytes() for p in folder.iterdir()] == [before]


def test_the_file_can_be_read_by_its_owner(folder):
    save(TABLE, CPU)
    assert stat.S_IMODE(cache_file(KEY, CPU).stat().st_mode) & stat.S_IRUSR


def test_names_what_is_wrong():
    with pytest.raises(ValueError, match="in_features must be at least 1, got 0"):
        calibrate(0, 4)
    with pytest.raises(TypeError, match=r"in_features must be an int, got a tensor \[24, 48\]"):
        calibrate(torch.ones(24, 48), torch.ones(32, 24))
    with pytest.raises(TypeError, match="out_features must be an int, got float"):
        calibrate(4, 4.0)
    with pytest.raises(ValueError, match="max_rank must be at least 1, got 0"):
        calibrate(4, 4, 0)
    with pytest.raises(TypeError, match="dtype must be one of"):
        calibrate(4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
        calibrate(4, 4, seconds=0)
    with pytest.raises(TypeError, match="seconds must be a number, got str '1'"):
        calibrate(4, 4, seconds="1")
    with pytest.raises(ValueError, match="device must be one of torch's, got 'nope'"):
        calibrate(4, 4, device="nope")
