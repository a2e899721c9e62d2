"""Training for `adlrns experiment`: one network at full rank, the base of all that is compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from adlrns._config_file import Config
from adlrns._console import stage
from adlrns._datasets import Task, shuffled
from adlrns._nets import loss_of, make_net
from adlrns._score import batches
from adlrns._train_seed import Progress
from adlrns_models import ADLRNSTrainer, Callback, ElasticModel, make_elastic

# batches that a network is made elastic with
CALIBRATION = 32
# the folder of the checkpoints that all else is made of
FULL = "full-rank"


class Parts(NamedTuple):
    """A task, its training items divided: to learn from, and to set thresholds by."""

    task: Task
    held: Subset[Any]


class Base(NamedTuple):
    """What all rows of one seed are made from."""

    config: Config
    parts: Parts
    seed: int
    folder: Path
    device: torch.device
    dense: nn.Module


def divide(task: Task, share: float) -> Parts:
    """Returns the task without a share of its training items, and those."""
    count = len(task.train)  # type: ignore[arg-type]
    order = shuffled(count).tolist()
    kept = max(1, round(share * count))
    return Parts(
        task._replace(train=Subset(task.train, order[kept:])), Subset(task.train, order[:kept])
    )


def train_dense(
    config: Config, parts: Parts, seed: int, folder: Path, device: torch.device
) -> Base:
    """Returns the network at full rank, trained; the base of the seed's rows."""
    torch.manual_seed(seed)
    net = make_net(config, parts.task, dense=True)
    base = Base(config, parts, seed, folder, device, net)
    fit(base, net, FULL, epochs=config.training(seed).epochs)
    return base._replace(dense=net.cpu().eval())


def fit(
    base: Base,
    net: nn.Module,
    name: str,
    *,
    epochs: int,
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> None:
    """Trains a network in place, on the loss of the task alone; goes on where it was cut short."""
    plain = {
        "energy_penalty_weight": 0.0,
        "energy_budget_mj_per_sample": None,
        "sandwich": 0,
        "keep_last": 1,
    }
    told = base.config.training(base.seed, **(plain | {"epochs": epochs} | changes))
    size = told.batch_size or 64
    loader = DataLoader(base.parts.task.train, batch_size=size, shuffle=True)
    with stage(f"seed {base.seed}: train {name}") as advance:
        trainer = ADLRNSTrainer(
            net,
            told,
            base.device,
            base.folder / name.replace(" ", "-").replace(",", ""),
            loss=loss_of(base.parts.task),
            callbacks=[Progress(advance), *callbacks],
        )
        trainer.train(loader, resume=True)


def calibration(base: Base) -> list[Tensor]:
    """Returns some batches of training inputs."""
    items = base.parts.task.train
    count = min(CALIBRATION * 64, len(items))  # type: ignore[arg-type]
    return [x for x, _ in batches(Subset(items, range(count)), size=64)]


def elastic_of(base: Base, sketch_size: int) -> ElasticModel:
    """Returns the dense network made elastic."""
    return make_elastic(base.dense, calibration(base), sketch_size=sketch_size).eval()
