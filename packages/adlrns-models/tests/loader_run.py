"""Runs whose rows are made by worker processes; test_trainer_loaders.py reads what they leave."""

import json
import random
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from adlrns_models import ADLRNSTrainer, Callback

CONFIG = {"epochs": 2, "checkpoint_every": 1}
# how the rows of training and of validation are loaded
SCENES = {
    "workers": ({"num_workers": 2}, {}),
    "persistent": ({"num_workers": 2, "persistent_workers": True}, {}),
    "judging": ({}, {"num_workers": 1, "persistent_workers": True}),
    "generator": ({}, {"own_generator": True}),
}


class Noisy(Dataset):
    """Rows that draw on all three global generators each time they are fetched."""

    def __len__(self):
        return 32

    def __getitem__(self, i):
        row = torch.full((6,), i / 32.0) + 0.1 * torch.randn(6)
        return row * (1 + 0.1 * random.random()) + 0.1 * float(np.random.normal()), i % 3  # noqa: NPY002


class Stop(Callback):
    """Ends a run in its second epoch."""

    def on_batch_end(self, trainer, record):
        if record["step"] == 6:
            raise InterruptedError


def loader(*, own_generator=False, **options):
    generator = torch.Generator().manual_seed(1) if own_generator else None
    return DataLoader(Noisy(), batch_size=8, shuffle=True, generator=generator, **options)


def train(folder, scene, *callbacks, resume=False, used=False):
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    trainer = ADLRNSTrainer(model, CONFIG, "cpu", folder, callbacks=callbacks)
    loaders = [loader(**options) for options in SCENES[scene]]
    if used:
        for one in loaders:
            list(one)
    history = trainer.train(*loaders, resume=resume)
    save_file(model.state_dict(), folder / "end.safetensors")
    (folder / "history.json").write_text(json.dumps(history))


def main(folder):
    for scene in SCENES:
        train(folder / scene / "whole", scene)
        train(folder / scene / "used", scene, used=True)
        with suppress(InterruptedError):
            train(folder / scene / "resumed", scene, Stop())
        train(folder / scene / "resumed", scene, resume=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
