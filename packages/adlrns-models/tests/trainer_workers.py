"""What each of two workers trains; torchrun starts it, test_trainer_workers.py reads the ends."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from adlrns_models import (
    ADLRNSTrainer,
    Callback,
    JSONLLogger,
    adlrns_mlp,
    iter_adaptive_layers,
    iter_dynamic_layers,
    wrap_model_with_adaptive,
)

SIZES = {"in_features": 12, "hidden": (24, 24), "classes": 3}
CONFIG = {"epochs": 2, "lr": 0.01, "checkpoint_every": 3}


def rows(count=64):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, 12, generator=generator) * torch.logspace(0.5, -1, 12)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def plain():
    torch.manual_seed(1)
    return adlrns_mlp(**SIZES, dense=True)


def dropping():
    return nn.Sequential(plain(), nn.Dropout(0.2))


def dynamic(**options):
    torch.manual_seed(1)
    return adlrns_mlp(**SIZES, r_min=1, r_max=8, **options)


def adaptive():
    options = {"adapt_every": 3, "adapt_cooldown": 0, "sketch_size": 16, "eps": 0.3, "r_min": 1}
    return wrap_model_with_adaptive(plain(), **options)


class Growing:
    """A scheduler whose ranks tell which worker's inputs it has seen, and how often."""

    def init(self):
        return (0, 0.0)

    def step(self, state, observation):
        count, total = state[0] + 1, state[1] + observation.complexity
        return 1 + int(1000 * total) % 8, (count, total)


class Following:
    """A scheduler whose rank follows from all that its worker has seen, and the rank before."""

    def init(self):
        return torch.zeros(1, dtype=torch.float64)

    def step(self, state, observation):
        state = 0.5 * state + observation.complexity
        return 1 + (int(1000 * state) + (observation.rank or 0)) % 8, state


class Broken(TensorDataset):
    """A row that is not a number, seen by one worker alone."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return (x * float("nan"), y) if i == 17 else (x, y)


class Stop(Callback):
    """Ends a run after the checkpoint of step 6, which is the second of the second epoch."""

    def on_batch_end(self, trainer, record):
        if record["step"] == 7:
            raise InterruptedError


class Ranks(Callback):
    """Notes the ranks after each step."""

    def __init__(self):
        self.seen = []

    def on_batch_end(self, trainer, record):
        adaptive = [layer.current_rank() for layer in iter_adaptive_layers(trainer.model)]
        dynamic = [layer.decision.rank for layer in iter_dynamic_layers(trainer.model)]
        self.seen.append([*adaptive, *(rank for rank in dynamic if isinstance(rank, int))])


SCENES = {
    "plain": (plain, {"clip_norm": 0.5}),
    "accumulated": (plain, {"accumulate": 2}),
    "broken": (plain, {}),
    "dropping": (dropping, {}),
    "adaptive": (adaptive, {"epochs": 4}),
    "scheduled": (lambda: dynamic(scheduler=Growing()), {"energy_penalty_weight": 0.1}),
    # a rank for each sample: for each call it would depend on how the rows are shared out
    "sandwich": (lambda: dynamic(granularity="sample"), {"sandwich": 2}),
    "resumed": (dropping, {}),
    "following": (lambda: dynamic(scheduler=Following()), {}),
    "following, resumed": (lambda: dynamic(scheduler=Following()), {}),
}


def loader(scene, *, shuffle):
    data = (Broken if scene == "broken" else TensorDataset)(*rows().tensors)
    sampler = DistributedSampler(data, shuffle=shuffle) if dist.is_initialized() else None
    size = 8 if sampler else 16
    return DataLoader(data, batch_size=size, sampler=sampler)


def main(folder):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for scene, (make, options) in SCENES.items():
        model, ranks = make(), Ranks()
        config, place = CONFIG | options, folder / scene
        resumed = scene.endswith("resumed")
        shuffled = resumed or scene in ("dropping", "following")
        callbacks = [ranks, JSONLLogger(folder / f"{scene}.{rank}.jsonl")]
        loaders = loader(scene, shuffle=shuffled), loader(scene, shuffle=False)
        if resumed:
            with suppress(InterruptedError):
                ADLRNSTrainer(make(), config, "cpu", place, callbacks=[Stop()]).train(*loaders)
            dist.barrier()
        trainer = ADLRNSTrainer(model, config, "cpu", place, callbacks=callbacks)
        history = trainer.train(*loaders, resume=resumed)
        end = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(end, folder / f"{scene}.{rank}.safetensors")
        notes = {"history": history, "ranks": ranks.seen}
        (folder / f"{scene}.{rank}.json").write_text(json.dumps(notes))
        dist.barrier()
    try:
        trainer.train(DataLoader(rows(), 8, shuffle=True), num_epochs=9)
    except ValueError as error:
        (folder / f"refused.{rank}").write_text(str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # threads of gloo can abort a process whose interpreter is being torn down
