"""Runs that end early and go on."""

import csv
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adlrns_models import (
    ADLRNSTrainer,
    Callback,
    CSVLogger,
    JSONLLogger,
    _checkpoint,
    adlrns_mlp,
    adlrns_transformer,
    wrap_model_with_adaptive,
)

KILLS = 6


class Stop(Callback):
    """Ends a run from inside, after some step."""

    def __init__(self, step):
        self.step = step

    def on_batch_end(self, trainer, record):
        if record["step"] == self.step:
            raise InterruptedError


def rows(count=40, seed=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def loader(**options):
    return DataLoader(rows(), batch_size=8, shuffle=True, **options)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def adaptive():
    options = {"adapt_every": 2, "adapt_cooldown": 0, "sketch_size": 16, "eps": 0.3}
    return wrap_model_with_adaptive(network(), **options)


class State(NamedTuple):
    calls: int
    inner: tuple[float, ...]


class Wandering:
    """A scheduler whose rank depends on all it has seen."""

    def init(self):
        return State(0, (0.0,))

    def step(self, state, observation):
        seen = 0.5 * state.inner[0] + observation.complexity
        return 1 + int(97 * seen) % 6, State(state.calls + 1, (seen,))


class Following:
    """A scheduler whose rank follows from the one before."""

    def init(self):
        return ()

    def step(self, state, observation):
        seen = 97 * observation.complexity + (observation.rank or 0)
        return 1 + int(seen) % 6, state


def learned():
    torch.manual_seed(1)
    return adlrns_mlp(in_features=8, hidden=(16, 16), classes=3, r_min=1, gate="learned")


def scheduled(scheduler=Wandering):
    torch.manual_seed(1)
    options = {"in_features": 8, "hidden": (16, 16), "classes": 3, "r_min": 1}
    return adlrns_mlp(gate="block", num_gate_blocks=4, scheduler=scheduler(), **options)


def following():
    return scheduled(Following)


def same(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_killed_at_any_moment_ends_as_one_that_never_was(tmp_path):
    script = Path(__file__).parent / "killed_run.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLS)],
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "kills").read_text()) == KILLS
    one, two = tmp_path / "whole", tmp_path / "killed"
    assert (one / "end.safetensors").read_bytes() == (two / "end.safetensors").read_bytes()
    assert sorted(p.name for p in (one / "run").iterdir()) == sorted(
        p.name for p in (two / "run").iterdir()
    )
    for name in ("log.csv", "log.jsonl"):  # each step once, none left out
        assert (one / name).read_bytes() == (two / name).read_bytes()


PLATEAU = {"schedule": "plateau", "optimizer": "sgd"}


@pytest.mark.parametrize(
    "make, options",
    [
        (network, {}),
        (network, PLATEAU),
        (adaptive, {}),
        (learned, {}),
        (scheduled, PLATEAU),
        (following, {}),
    ],
)
@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, make, step, options):
    config = {"epochs": 2, "checkpoint_every": 3, "energy_penalty_weight": 0.1, **options}
    whole, broken, resumed = make(), make(), make()
    history = trained(whole, config, tmp_path / "one").history
    with pytest.raises(InterruptedError):
        trained(broken, config, tmp_path / "two", Stop(step))
    again = trained(resumed, config, tmp_path / "two", resume=True)
    assert again.history == history
    assert same(whole, resumed)


def trained(model, config, folder, *callbacks, resume=False, data=None, val=True):
    trainer = ADLRNSTrainer(model, config, "cpu", folder, callbacks=callbacks)
    judged_by = DataLoader(rows(24, seed=6), 24) if val else None
    trainer.train(data or loader(), judged_by, resume=resume)
    return trainer


def test_sizes_that_budgets_were_shared_out_by_are_taken_up_again(tmp_path):
    def net():
        torch.manual_seed(1)
        return adlrns_transformer(vocabulary=9, width=16, heads=2, depth=1, r_min=1)

    generator = torch.Generator().manual_seed(0)
    lengths = (3, 120, 3, 120, 120, 120)
    tokens = [torch.randint(0, 9, (4, n), generator=generator) for n in lengths]
    data = [(rows, rows[:, 0] % 2) for rows in tokens]
    config = {"epochs": 1, "checkpoint_every": 1, "energy_budget_mj_per_sample": 0.6}
    whole, resumed = net(), net()
    for name, model, callbacks in (("one", whole, []), ("two", net(), [Stop(3)])):
        with suppress(InterruptedError):
            trained(model, config, tmp_path / name, *callbacks, data=data, val=False)
    trained(resumed, config, tmp_path / "two", resume=True, data=data, val=False)
    assert same(whole, resumed)


def test_generators_of_the_loader_are_followed(tmp_path):
    config, ends = {"epochs": 2, "checkpoint_every": 2}, []
    for name in ("one", "two"):
        model = network()
        data = loader(generator=torch.Generator().manual_seed(len(ends)))
        trained(model, config, tmp_path / name, data=data)
        ends.append(model)
    assert same(*ends)  # the seed of the run counts, not where a generator stood
    other = network()
    trained(other, {**config, "seed": 1}, tmp_path / "three")
    assert not same(other, ends[0])


def test_a_second_call_with_more_epochs_goes_on(tmp_path):
    model, whole = network(), network()
    config = {"epochs": 1, "schedule": "constant"}
    trainer = trained(model, config, tmp_path / "one")
    assert [record["epoch"] for record in trainer.train(loader(), num_epochs=3)] == [1, 2, 3]
    trained(whole, {**config, "epochs": 3}, tmp_path / "two")
    assert same(model, whole)


def test_the_best_checkpoint_is_kept_and_can_be_gone_back_to(tmp_path):
    class Keep(Callback):
        def on_epoch_end(self, trainer, record):
            kept.append({name: p.clone() for name, p in trainer.model.state_dict().items()})

    kept = []
    config = {"epochs": 6, "lr": 0.1, "keep_last": 1, "schedule": "constant"}
    trainer = trained(network(), config, tmp_path, Keep())
    losses = [record["val_loss"] for record in trainer.history]
    best = losses.index(min(losses))
    assert best < 5  # or this shows nothing
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.safetensors", "step-00000030.safetensors"]
    trainer.load(tmp_path / "best.safetensors")
    assert trainer.epoch == best + 1
    assert all(torch.equal(p, kept[best][n]) for n, p in trainer.model.state_dict().items())
    trainer.train(loader(), DataLoader(rows(24, seed=6), 24))
    assert [record["val_loss"] for record in trainer.history] == losses


def test_only_the_newest_checkpoints_stay(tmp_path):
    trained(network(), {"epochs": 2, "checkpoint_every": 1, "keep_last": 3}, tmp_path)
    names = sorted(path.name for path in tmp_path.glob("step-*"))
    assert names == [f"step-000000{i:02d}.safetensors" for i in (8, 9, 10)]


def test_what_an_unfinished_write_left_behind_is_cleared(tmp_path):
    left = tmp_path / f".step-00000003.safetensors.{'0a' * 8}"
    other = tmp_path / ".hidden"
    for path in (left, other):
        path.write_bytes(b"half")
    trained(network(), {"epochs": 1}, tmp_path)
    assert not left.exists()
    assert other.exists()


def test_another_runs_folder_is_not_written_to(tmp_path):
    trained(network(), {"epochs": 1}, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="save_dir must hold no checkpoints.*resume=True"):
        trained(network(), {"epochs": 1}, tmp_path)
    with pytest.raises(ValueError, match=r"config\.lr must be 0\.5, as in this run, got 0\.001"):
        trained(network(), {"epochs": 1, "lr": 0.5}, tmp_path, resume=True)
    with pytest.raises(ValueError, match="made from another architecture"):
        trained(nn.Sequential(nn.Linear(8, 3)), {"epochs": 1}, tmp_path, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("where", [100, 3000, -5])
def test_a_damaged_checkpoint_is_named(tmp_path, where):
    trained(network(), {"epochs": 1}, tmp_path)
    path = tmp_path / "step-00000005.safetensors"
    data = bytearray(path.read_bytes())
    data[where] ^= 0x11
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"step-00000005\.safetensors"):
        trained(network(), {"epochs": 2}, tmp_path, resume=True)


def test_checkpoints_that_say_less_are_read(tmp_path):
    config = {"epochs": 2, "checkpoint_every": 3}
    whole, resumed = scheduled(), scheduled()
    trained(whole, config, tmp_path / "one")
    with pytest.raises(InterruptedError):
        trained(scheduled(), config, tmp_path / "two", Stop(4))
    path = tmp_path / "two" / "step-00000003.safetensors"
    state = _checkpoint.load(path)
    del state["batches"]
    for layer in state["decisions"]:
        del layer["rank"]
    _checkpoint.save(path, state)
    trained(resumed, config, tmp_path / "two", resume=True)
    assert same(whole, resumed)


def test_logs_hold_each_record_once_after_a_resume(tmp_path):
    config = {"epochs": 3, "checkpoint_every": 2}
    files = tmp_path / "log.jsonl", tmp_path / "log.csv"
    loggers = JSONLLogger(files[0], steps=True), CSVLogger(files[1])
    with pytest.raises(InterruptedError):
        trained(network(), config, tmp_path / "run", *loggers, Stop(9))
    with files[0].open("a") as file:
        file.write('{"event": "st')  # killed while it wrote
    trained(network(), config, tmp_path / "run", *loggers, resume=True)
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, 16))
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [1, 2, 3]
    with files[1].open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
