"""Training by two real processes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adlrns_models import ADLRNSTrainer

WORKER = Path(__file__).parent / "trainer_workers.py"
spec = importlib.util.spec_from_file_location("trainer_workers", WORKER)
trainer_workers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trainer_workers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(WORKER), str(folder)],
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def ends(folder, scene):
    return [load_file(folder / f"{scene}.{rank}.safetensors") for rank in (0, 1)]


def notes(folder, scene):
    return [json.loads((folder / f"{scene}.{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("scene", trainer_workers.SCENES)
def test_both_workers_end_with_the_same_bits_and_one_history(folder, scene):
    one, two = ends(folder, scene)
    learned = [name for name in one if not name.endswith("_extra_state")]  # sketches are their own
    assert all(torch.equal(one[name], two[name]) for name in learned)
    first, second = notes(folder, scene)
    assert first["history"] == second["history"]
    assert (folder / f"{scene}.0.jsonl").exists()
    assert not (folder / f"{scene}.1.jsonl").exists()  # the first alone writes


@pytest.mark.parametrize("scene", ["plain", "accumulated", "sandwich", "broken"])
def test_two_workers_train_as_one_does_on_the_union_of_their_batches(folder, scene, tmp_path):
    make, options = trainer_workers.SCENES[scene]
    model = make()
    trainer = ADLRNSTrainer(model, trainer_workers.CONFIG | options, "cpu", tmp_path, callbacks=[])
    data = trainer_workers.loader(scene, shuffle=False)
    history = trainer.train(data, data)
    for name, value in ends(folder, scene)[0].items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-5)
    seen = notes(folder, scene)[0]["history"]
    for mine, theirs in zip(history, seen, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, nan_ok=True)


def test_a_loss_that_one_worker_finds_not_finite_stops_no_other(folder):
    last = notes(folder, "broken")[1]["history"][-1]
    assert last["skipped"] == 2  # once an epoch, on both


@pytest.mark.parametrize("scene", ["adaptive", "scheduled"])
def test_ranks_are_decided_once_and_sent_to_all(folder, scene):
    one, two = (note["ranks"] for note in notes(folder, scene))
    assert one == two
    assert len({tuple(ranks) for ranks in one}) > 1  # and they did move


@pytest.mark.parametrize(
    "whole, resumed", [("dropping", "resumed"), ("following", "following, resumed")]
)
def test_workers_resume_within_an_epoch_to_the_same_bits(folder, whole, resumed):
    for one, two in zip(ends(folder, whole), ends(folder, resumed), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    for one, two in zip(notes(folder, whole), notes(folder, resumed), strict=True):
        assert one["history"] == two["history"]
        assert one["ranks"][6:] == two["ranks"]  # where the run went on


def test_a_loader_that_gives_all_workers_the_same_rows_is_refused(folder):
    assert "must have a sampler with set_epoch" in (folder / "refused.1").read_text()
