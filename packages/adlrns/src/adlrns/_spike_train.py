"""Training a spiking network by surrogate gradients."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from adlrns._console import Advance
from adlrns._errors import RunError
from adlrns._spike_data import Material
from adlrns._spike_net import encode
from adlrns._spike_settings import Settings
from adlrns._table import Value

Row = dict[str, Value]
# the rate falls to nothing over the last part
_LAST_PART = 0.5


class Training:
    """A network that is being trained, an epoch at a time.

    Attributes:
        history: a row an epoch.
    """

    def __init__(
        self, net: nn.Module, settings: Settings, material: Material, device: torch.device
    ):
        self.net, self.settings, self.material, self.device = net, settings, material, device
        self.optimizer = torch.optim.Adam(net.parameters(), settings.lr)
        self.history: list[Row] = []
        count: int = len(material.train)  # type: ignore[arg-type]
        self.steps = -(-count // settings.batch_size)
        self.total = self.steps * settings.epochs

    def epoch(self, advance: Advance, check: Callable[[], None]) -> Row:
        """Trains for the next epoch and returns its row.

        What is drawn depends on the seed and the epoch alone, so that a run that goes on is the
        run that was not cut short.

        Raises:
            RunError: if a loss is not finite.
        """
        number, settings = len(self.history), self.settings
        torch.manual_seed(settings.seed * 1_000_003 + number + 1)
        schedule = LambdaLR(self.optimizer, lambda step: self._rate(number * self.steps + step))
        loader = DataLoader(self.material.train, settings.batch_size, shuffle=True)
        losses, hits = [], 0
        self.net.train()
        for step, (x, y) in enumerate(loader, 1):
            check()
            loss, right = self._step(x.to(self.device), y.to(self.device))
            if not math.isfinite(loss):
                raise RunError(f"training diverged: the loss of epoch {number + 1} is {loss}")
            schedule.step()
            losses.append(loss)
            hits += right
            advance(number * self.steps + step, self.total)
        seen: int = len(self.material.train)  # type: ignore[arg-type]
        mean = sum(losses) / len(losses)
        return {"epoch": number + 1, "loss": mean, "training_accuracy": hits / seen}

    def _step(self, x: Any, y: Any) -> tuple[float, int]:
        scores = self.net(encode(self.settings, self.material, x)).mean(0)
        loss = F.cross_entropy(scores, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach()), int((scores.argmax(1) == y).sum())

    def _rate(self, step: int) -> float:
        left = 1 - step / max(1, self.total)
        return min(1.0, left / _LAST_PART)


def accuracy(net: nn.Module, settings: Settings, material: Material, device: torch.device) -> float:
    """Returns the share of the validation part that is told right."""
    hits, seen = 0, 0
    torch.manual_seed(settings.seed)  # encoders may draw
    net.eval()
    with torch.no_grad():
        for x, y in DataLoader(material.valid, settings.batch_size):
            scores = net(encode(settings, material, x.to(device))).mean(0)
            hits += int((scores.argmax(1).cpu() == y).sum())
            seen += len(y)
    return hits / seen
