"""One step of the optimizer: passes forward and back, what is clipped, what is left out."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_objective import Loss, Objective
from adlrns_models._trainer_optimizer import Extent, decay_used, make_optimizer, make_schedule
from adlrns_models._trainer_ranks import has_ranks, share_decisions, within_budget
from adlrns_models._trainer_sums import Sums, numbers
from adlrns_models._trainer_workers import total, unsynced, wrapped


class Stepper:
    """Model, optimizer, schedule and loss scale: all that a step changes."""

    def __init__(
        self, model: nn.Module, config: TrainConfig, device: torch.device, loss: Loss | None
    ):
        self.config, self.device, self.extent = config, device, Extent()
        self.objective = Objective(model, config, loss)
        self.model = model.to(device)
        self.optimizer = make_optimizer(model, config)
        self.schedule = make_schedule(self.optimizer, config, self.extent)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.runner = wrapped(self.objective, device, branches=has_ranks(model))
        self.skipped = self.bad_in_row = 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batches: list[Any], number: int) -> tuple[Sums, bool]:
        """Returns the sums of one step over ``batches``, and whether it was taken.

        Raises:
            RuntimeError: after ``max_bad_steps`` bad ones in a row.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums = Sums()
        good = all(
            self._backward(batch, sums, number, share=1 / len(batches), last=batch is batches[-1])
            for batch in batches
        )
        good = good and self._update()
        self._count(good, sums)
        share_decisions(self.model)
        return sums, good

    def end_epoch(self, loss: float) -> None:
        """Tells a schedule that follows the loss."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(loss)

    def _backward(self, batch: Any, sums: Sums, number: int, *, share: float, last: bool) -> bool:
        """Adds a batch's gradients, unless the loss of any worker is not finite."""
        if not last:
            with unsynced(self.runner):
                return self._pass(batch, sums, number, share)
        return self._pass(batch, sums, number, share)

    def _pass(self, batch: Any, sums: Sums, number: int, share: float) -> bool:
        outcome = self.runner(to_device(batch, self.device), number)
        # all workers must agree before one of them waits for the others' gradients
        objective, *values = total([float(outcome.total.detach()), *numbers(outcome)])
        sums.add(values)
        if not math.isfinite(objective):
            return False
        config = self.config
        # compiled graphs that checkpointing runs again read what is in force now
        with within_budget(self.model, config.energy_budget_mj_per_sample, config.calls_of):
            self.scaler.scale(outcome.total * share).backward()
        return True

    def _update(self) -> bool:
        """Steps, unless a gradient is not finite."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        finite = bool(norm.isfinite())
        if finite:
            decay_used(self.model, self.lr * self.config.weight_decay)
            self.scaler.step(self.optimizer)
            if not isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step()
        self.scaler.update()  # a loss scale that was too large is halved
        return finite

    def _count(self, good: bool, sums: Sums) -> None:
        if good:
            self.bad_in_row = 0
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped, self.bad_in_row = self.skipped + 1, self.bad_in_row + 1
        if self.bad_in_row >= self.config.max_bad_steps:
            raise RuntimeError(
                f"{self.bad_in_row} steps in a row had a loss or gradient that is not finite (the "
                f"last loss was {sums.means('')['loss']}); none of them changed the model. Lower "
                "lr or clip_norm, train in float32, or look at the data"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns all of it but the model."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "bad_in_row": self.bad_in_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped, self.bad_in_row = state["skipped"], state["bad_in_row"]


def to_device(batch: Any, device: torch.device) -> Any:
    """Returns a batch whose tensors are on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [to_device(value, device) for value in batch]
    return batch
