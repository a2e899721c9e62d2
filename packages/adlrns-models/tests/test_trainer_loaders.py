"""Loaders whose rows are random and made elsewhere, and loaders that are not those of before."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adlrns_models import ADLRNSTrainer, Callback

SCRIPT = Path(__file__).parent / "loader_run.py"
spec = importlib.util.spec_from_file_location("loader_run", SCRIPT)
loader_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loader_run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaders")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("scene", loader_run.SCENES)
@pytest.mark.parametrize("other", ["resumed", "used"])
def test_random_rows_of_an_epoch_follow_from_its_number(folder, scene, other):
    for name in ("end.safetensors", "history.json"):
        mine, theirs = ((folder / scene / run / name).read_bytes() for run in ("whole", other))
        assert mine == theirs


class Stop(Callback):
    """Ends a run from inside its second epoch."""

    def on_batch_end(self, trainer, record):
        if record["step"] == 8:
            raise InterruptedError


def loader(size=8):
    rows = TensorDataset(torch.randn(40, 4), torch.arange(40) % 2)
    return DataLoader(rows, batch_size=size, shuffle=True)


def trained(folder, data, *callbacks, epochs=2):
    config = {"epochs": epochs, "checkpoint_every": 7}
    trainer = ADLRNSTrainer(nn.Linear(4, 2), config, "cpu", folder, callbacks=callbacks)
    trainer.train(data, resume=True)
    return trainer


@pytest.mark.parametrize("size, count", [(20, 2), (7, 6), (2, 20)])
def test_another_loader_within_an_epoch_is_refused(tmp_path, size, count):
    with pytest.raises(InterruptedError):
        trained(tmp_path, loader(), Stop())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"must have 5 batches.*after 2 of them, got {count}"):
        trained(tmp_path, loader(size))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert trained(tmp_path, loader()).step == 10


def test_another_loader_is_taken_between_epochs(tmp_path):
    trained(tmp_path, loader(), epochs=1)
    assert trained(tmp_path, loader(20)).step == 5 + 2


def test_a_loader_that_yields_less_than_its_length_is_refused(tmp_path):
    class Short(list):
        def __len__(self):
            return 5

    with pytest.raises(InterruptedError):
        trained(tmp_path, loader(), Stop())
    with pytest.raises(ValueError, match="must yield 2 batches and more.*got 1"):
        trained(tmp_path, Short(loader(40)))
