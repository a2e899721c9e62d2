"""A training run that is killed over and over; test_trainer_resume.py reads what it leaves."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from adlrns_models import ADLRNSTrainer, CSVLogger, JSONLLogger

CONFIG = {"epochs": 3, "accumulate": 2, "warmup_steps": 2, "checkpoint_every": 1, "seed": 3}


class Noisy(Dataset):
    """Rows that draw on all three global generators each time they are fetched."""

    def __len__(self):
        return 90

    def __getitem__(self, i):
        row = torch.full((6,), i / 90.0) + 0.1 * torch.randn(6)
        return row * (1 + 0.1 * random.random()) + 0.1 * float(np.random.normal()), i % 3  # noqa: NPY002


def train(folder, *, resume):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.2), nn.Linear(12, 3))
    loggers = [JSONLLogger(folder / "log.jsonl", steps=True), CSVLogger(folder / "log.csv")]
    trainer = ADLRNSTrainer(model, CONFIG, "cpu", folder / "run", callbacks=loggers)
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
    trainer.train(loader, DataLoader(Noisy(), batch_size=45), resume=resume)
    save_file(model.state_dict(), folder / "end.safetensors")


def newest(folder):
    return max(folder.glob("run/step-*.safetensors"), default=Path()).name


def main(folder, kills):
    train(folder / "whole", resume=False)
    draw, done = random.Random(0), 0
    while True:
        before, child = newest(folder / "killed"), os.fork()
        if child == 0:
            train(folder / "killed", resume=True)
            os._exit(0)
        if done < kills:
            # one step on at least, so that it ends, and then anywhere in the next
            while newest(folder / "killed") == before and not os.waitpid(child, os.WNOHANG)[0]:
                time.sleep(0.0005)
            time.sleep(draw.random() * 0.02)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        done += 1
    (folder / "kills").write_text(str(done))


if __name__ == "__main__":
    for name in ("whole", "killed"):
        (Path(sys.argv[1]) / name).mkdir()
    main(Path(sys.argv[1]), int(sys.argv[2]))
