"""A training loop that can be killed at any moment."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adlrns_models._callbacks import Callback, ProgressBar
from adlrns_models._checks import check_bool, check_int, check_kind
from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_hardware import (
    check_callbacks,
    check_device,
    equip,
    tell_idle_keys,
)
from adlrns_models._trainer_loader import check_length, groups, rest_of_epoch, with_new_workers
from adlrns_models._trainer_objective import Loss
from adlrns_models._trainer_random import seed_generators
from adlrns_models._trainer_ranks import share_decision_state
from adlrns_models._trainer_state import begin, restore, store
from adlrns_models._trainer_step import Stepper, to_device
from adlrns_models._trainer_sums import Sums, is_stale, numbers, watched
from adlrns_models._trainer_workers import check_loader, total, worker


class ADLRNSTrainer:
    """Trains a model on ``loss + energy_penalty_weight * rank_penalty(model, alpha, beta)``.

    Everything random follows from ``seed`` and the number of the epoch, and checkpoints in
    ``save_dir`` appear whole or not at all: a run that was killed at any moment and resumed ends,
    on a CPU, with the same bits as one that never was. Under ``torchrun``, once
    ``torch.distributed`` is initialised, gradients are averaged over the workers, ranks are decided
    by the first and sent to the others, and the first writes; all of them read ``save_dir``.

    Args:
        model: any module; trained in place.
        config: a :class:`TrainConfig` or the dict that one is made from.
        device: where to train.
        save_dir: folder of the checkpoints.
        loss: the loss of an output and a target; without one the ``loss`` that an output holds, as
            Hugging Face models' do, or else the cross entropy.
        callbacks: listeners; without any, a progress bar.

    Batches are pairs ``(input, target)`` or dicts of the model's arguments.

    Raises:
        ValueError, TypeError: for what cannot be trained with, named.

    Example:
        >>> import tempfile, torch
        >>> from adlrns_models import ADLRNSTrainer
        >>> rows = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randint(0, 2, (32,)))
        >>> loader = torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True)
        >>> config = {"lr": 0.01, "epochs": 2}
        >>> trainer = ADLRNSTrainer(torch.nn.Linear(4, 2), config, "cpu", tempfile.mkdtemp())
        >>> [record["step"] for record in trainer.train(loader)]
        [4, 8]
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig | Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        save_dir: str | PathLike[str] = "checkpoints",
        *,
        loss: Loss | None = None,
        callbacks: Sequence[Callback] | None = None,
    ):
        check_kind("model", model, nn.Module)
        nested = config if isinstance(config, Mapping) else None
        if not isinstance(config, TrainConfig):
            config = TrainConfig.from_dict({} if config is None else config)
        self.callbacks = [ProgressBar()] if callbacks is None else check_callbacks(callbacks)
        self.config, self.device, self.save_dir = config, check_device(device), Path(save_dir)
        self.model, self.stepper = model, Stepper(model, config, self.device, loss)
        tell_idle_keys(model, config)
        if nested is not None:
            equip(model, nested)
        self.history: list[dict[str, Any]] = []
        self.epoch = self.batch = self.step = 0
        self.sums, self.stop, self.started, self.resume = Sums(), False, False, False
        self.batches: int | None = None  # of an epoch
        self.random: dict[str, Any] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes."""
        return worker() == 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.stepper.extent.steps

    def train(
        self,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any] | None = None,
        num_epochs: int | None = None,
        *,
        resume: bool = False,
    ) -> list[dict[str, Any]]:
        """Trains up to ``num_epochs`` epochs in all and returns one record for each.

        Args:
            train_loader: batches, in an order that ``torch.manual_seed`` or the loader's generator
                decides (every ``DataLoader``; a list is taken as it is). Its worker processes start
                anew each epoch, persistent or not: they are seeded only then.
            val_loader: batches to judge by after each epoch.
            num_epochs: ``config.epochs`` if missing. A later call with more goes on.
            resume: go on from the newest checkpoint in ``save_dir``, if there is one. To get back
                to its batch the loader is run up to there.

        Raises:
            ValueError: if ``save_dir`` or a logger's file holds another run and ``resume`` is off,
                or ``train_loader`` has not as many batches as the epoch that it goes on with.
            RuntimeError: after ``max_bad_steps`` steps in a row whose loss or gradient was not
                finite.
        """
        epochs = self.config.epochs if num_epochs is None else num_epochs
        check_int("num_epochs", epochs, 1)
        count = check_loader(train_loader, self.config.batch_size)
        self.resume = check_bool("resume", resume)
        begin(self)
        check_length(self, count)
        self._measure(count, epochs)
        with self._heard():
            while self.epoch < epochs and not self.stop and not is_stale(self.history, self.config):
                self.batches = count
                self._train_epoch(train_loader)
                self._end_epoch(val_loader)
        return self.history

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Returns mean loss, and penalty, share of the FLOPs and accuracy where they are known."""
        objective, sums = self.stepper.objective, Sums()
        was_training = objective.training
        objective.eval()
        share_decision_state(self.model)
        try:
            for batch in loader:
                sums.add(numbers(objective(to_device(batch, self.device), self.step)))
        finally:
            objective.train(was_training)
        return Sums(total(sums.values)).means("")

    def save(self) -> Path:
        """Writes a checkpoint of this moment, on the first worker, and returns where."""
        return store(self)

    def load(self, path: str | PathLike[str]) -> None:
        """Goes back to a checkpoint of this run, ``save_dir / "best.safetensors"`` for instance."""
        restore(self, Path(path))

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Tells listeners that training begins and ends; the end those that heard the beginning."""
        begun: list[Callback] = []
        try:
            for callback in self.callbacks:
                begun.append(callback)
                callback.on_train_begin(self)
            yield
        finally:
            for callback in begun:
                callback.on_train_end(self)

    def _measure(self, count: int, epochs: int) -> None:
        extent = self.stepper.extent
        extent.steps_per_epoch = max(1, math.ceil(count / self.config.accumulate))
        extent.steps = epochs * extent.steps_per_epoch

    def _train_epoch(self, loader: Iterable[Any]) -> None:
        self.stepper.runner.train()
        for group in groups(rest_of_epoch(self, loader), self.config.accumulate):
            sums, good = self.stepper.step(group, self.step)
            if good:
                self.sums.add(sums.values)
            self.batch, self.step = self.batch + len(group), self.step + 1
            record = {"step": self.step, "epoch": self.epoch + 1, **sums.means(""), **self._where()}
            for callback in self.callbacks:
                callback.on_batch_end(self, record)
            every = self.config.checkpoint_every
            if every and self.step % every == 0:
                self.save()

    def _end_epoch(self, loader: Iterable[Any] | None) -> None:
        record = {"epoch": self.epoch + 1, "step": self.step, **self.sums.means("train_")}
        if loader is not None:
            seed_generators(loader, self.config.seed, self.epoch)
            means = self.evaluate(with_new_workers(loader))
            record |= {f"val_{name}": value for name, value in means.items()}
        record |= self._where()
        self.history.append(record)
        self.stepper.end_epoch(watched(record))
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, Sums()
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)
        self.save()

    def _where(self) -> dict[str, Any]:
        return {"lr": self.stepper.lr, "skipped": self.stepper.skipped}
