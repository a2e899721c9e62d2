"""Training with growth in between, and with all that it costs counted."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from adlrns._console import Advance
from adlrns._datasets import Task
from adlrns._errors import RunError
from adlrns._experiment_train import Parts
from adlrns._grow_net import Losses
from adlrns._grow_settings import LAST_PART, Settings
from adlrns._score import batches, score
from adlrns._table import Value

Row = dict[str, Value]
Grow = Callable[[float], None]


class Course(NamedTuple):
    """What a run trains on, and how."""

    settings: Settings
    parts: Parts
    losses: Losses
    device: torch.device
    total: int


@dataclass
class Spent:
    """FLOPs, forward and backward passes, of training steps and of the steps of trials."""

    training: float = 0.0
    trials: float = 0.0


@dataclass
class Place:
    """Where a run is in its epochs.

    Attributes:
        order: the state of the draws of batches when the epoch began.
        epoch: the epoch, from 1.
        losses: of the epoch's steps so far.
    """

    order: Tensor
    epoch: int = 1
    losses: list[float] = field(default_factory=list)


class Training:
    """A network that is being trained.

    Attributes:
        history: a row an epoch.
        spent: what all steps have cost.
        place: where it is.
        whole: whether no step is half made.
    """

    def __init__(self, net: nn.Module, course: Course, check: Callable[[], None]):
        self.net, self.course, self._check = net, course, check
        self.optimizer = torch.optim.AdamW(net.parameters(), course.settings.lr)
        self.schedule = LambdaLR(self.optimizer, self._rate)
        self.history: list[Row] = []
        self.spent = Spent()
        self._costs: dict[Any, float] = {}
        self._draws = torch.Generator().manual_seed(course.settings.seed)
        self.place = Place(self._draws.get_state())
        self.whole = True

    def run(
        self,
        *,
        grow: Grow,
        advance: Advance,
        after_epoch: Callable[[], None],
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains for the epochs that are left; `grow` is called with the loss after every step.

        `begin` is called when the batches that were trained on have been passed over.

        Raises:
            RunError: if a loss is not finite.
        """
        settings, total = self.course.settings, self.course.total
        items = self.course.parts.task.train
        loader = DataLoader(items, settings.batch_size, shuffle=True, generator=self._draws)
        before, done = (self.place.epoch - 1) * len(loader), begin
        while self.place.epoch <= settings.epochs:
            losses = self.place.losses
            for batch in self._left(loader, done):
                losses.append(self._train(batch))
                self.whole = True
                step = before + len(losses)
                if not math.isfinite(losses[-1]):
                    raise self._diverged(f"the loss of step {step} is {losses[-1]}")
                try:
                    grow(losses[-1])
                except ValueError as error:
                    if self._sound(batch):
                        raise
                    why = f"losses are not finite after step {step}"
                    raise self._diverged(why) from error
                advance(step, total)
            before, done = before + len(losses), lambda: None
            self._end_epoch(before)
            after_epoch()

    def _diverged(self, why: str) -> RunError:
        rate = f"a smaller --lr than {self.course.settings.lr:g} may help"
        return RunError(f"training diverged: {why}; {rate}")

    def _sound(self, batch: Any) -> bool:
        """Whether the network as it is gives finite losses, on a batch and in validation."""
        with torch.no_grad():
            here = self.course.losses(self.net, batch)
        found = float(here.mean()), mean_loss(self.net, self.course.parts.task, self.course)
        return all(map(math.isfinite, found))

    def state_dict(self) -> dict[str, Any]:
        """Returns where it is, apart from the network, its optimizer and schedule."""
        return {
            "place": vars(self.place),
            "history": self.history,
            "spent": vars(self.spent),
            "costs": [[list(map(list, key)), cost] for key, cost in self._costs.items()],
            "total": self.course.total,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from :meth:`state_dict`."""
        self.place, self.spent = Place(**state["place"]), Spent(**state["spent"])
        self.history = list(state["history"])
        self._costs = {tuple(map(torch.Size, key)): cost for key, cost in state["costs"]}

    def _left(self, loader: Any, done: Callable[[], None]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of the epoch that are left."""
        self._draws.set_state(self.place.order)
        left = iter(loader)
        for _ in self.place.losses:
            next(left)
        done()
        for x, y in left:
            yield x.to(self.course.device), y.to(self.course.device)

    def _end_epoch(self, step: int) -> None:
        place = self.place
        row = self._row(place.epoch, step, sum(place.losses) / len(place.losses))
        self.history.append(row)
        self.place = Place(self._draws.get_state(), place.epoch + 1)

    def trial_step(self, model: nn.Module, batch: Any) -> None:
        """Makes a step of a trial."""
        self._check()
        self.spent.trials += self._step(model, batch)[1]

    def _train(self, batch: Any) -> float:
        self._check()
        self.whole = False
        self.net.train()
        loss, flops = self._step(self.net, batch)
        self.schedule.step()
        self.spent.training += flops
        return loss

    def _step(self, model: nn.Module, batch: Any) -> tuple[float, float]:
        """Makes a step; returns its loss and FLOPs, which are counted once for each shape."""
        key = tuple(p.shape for p in model.parameters())
        if key in self._costs:
            loss = self._update(model, batch)
        else:
            with FlopCounterMode(display=False) as counter:
                loss = self._update(model, batch)
            self._costs[key] = counter.get_total_flops() / len(batch[1])
        return loss, self._costs[key] * len(batch[1])

    def _update(self, model: nn.Module, batch: Any) -> float:
        self.optimizer.zero_grad()
        loss = self.course.losses(model, batch).mean()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _rate(self, step: int) -> float:
        """The rate stays until nothing grows any more, and falls to nothing then."""
        left = 1 - step / max(1, self.course.total)
        return min(1.0, left / LAST_PART)

    def _row(self, epoch: int, step: int, loss: float) -> Row:
        task = self.course.parts.task
        return {
            "epoch": epoch,
            "step": step,
            "training_loss": loss,
            "loss": mean_loss(self.net, task, self.course),
            task.metric: score(self.net, task, device=self.course.device),
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "flops": forward_flops(self.net, task, self.course.device),
            "training_flops": self.spent.training,
            "trial_flops": self.spent.trials,
        }


def mean_loss(net: nn.Module, task: Task, course: Course) -> float:
    """Returns the mean loss of the validation part's items."""
    was_training = net.training
    net.eval()
    with torch.no_grad():
        found = [course.losses(net, b) for b in batches(task.valid, device=course.device)]
    net.train(was_training)
    return float(torch.cat(found).double().mean())


def forward_flops(net: nn.Module, task: Task, device: torch.device) -> int:
    """Returns the counted FLOPs of one sample."""
    x: Tensor = task.valid[0][0]
    was_training = net.training
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x[None].to(device))
    net.train(was_training)
    return int(counter.get_total_flops())
