"""How far each unit's branch can be turned down when all are turned down together."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from layer_importance._edits import Edit, adds
from layer_importance._method import PassMethod
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._units import Unit


class LearnedGates(PassMethod):
    """Gates ``alpha_b`` in 0..1 on the branches of all units, after learning them.

    They begin at 1 and minimise ``E l + penalty sum alpha`` by ``steps`` steps of Adam, one batch
    each, with a learning rate that falls to zero along a cosine and a projection onto 0..1; weights
    stay. 0 for a unit that is not worth its penalty next to the others, 1 for one that is worth all
    of it. Unlike leaving one out, that sees units which can stand in for each other.

    Args:
        steps: how many; batches are gone through again as often as needed.
        penalty: what an open gate costs, in the loss's own unit.
        learning_rate: of the first step.

    Source: Louizos et al., arXiv 1712.01312, for gates under an L0 penalty; here relaxed to 0..1,
    as Liu et al., arXiv 1708.06519, have it for channels.
    """

    name = "learned_gates"
    needs = frozenset({"data", "labels", "gradients"})

    def __init__(
        self, *, steps: int = 50, penalty: float = 0.01, learning_rate: float = 0.05
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not penalty >= 0:
            raise ValueError(f"penalty must be at least 0, got {penalty}")
        if not (0 < learning_rate < math.inf):
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        self.steps, self.penalty, self.learning_rate = steps, penalty, learning_rate

    def passes(self, units: int) -> tuple[float, float]:
        """Of each step: an unchanged run for its record, and one with gates and gradients."""
        del units
        return 2.0, 1.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Learns all gates at once."""
        gated = list(subject.units.removable)
        gates = torch.ones(len(gated), dtype=torch.float64, device=subject.device)
        gates.requires_grad_()
        optimizer = torch.optim.Adam([gates], self.learning_rate)
        samples = 0
        for step, batch in enumerate(itertools.islice(_again(subject), self.steps)):
            rate = self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            optimizer.param_groups[0]["lr"] = rate
            samples += self._step(subject, batch, gated, gates, optimizer)
            progress(self.name, step + 1)
        scores = {
            u.name: Score(v, samples=samples) for u, v in zip(gated, gates.tolist(), strict=True)
        }
        missing = {unit.name: unit.reason for unit in subject.units if not unit.removable}
        return replace(self.result(scores, missing=missing), forwards=2.0, backwards=1.0)

    def _step(
        self,
        subject: Subject,
        batch: Any,
        gated: list[Unit],
        gates: Tensor,
        optimizer: torch.optim.Optimizer,
    ) -> int:
        edits = {unit.name: _gate(unit, gates, i) for i, unit in enumerate(gated)}
        with Replay(subject, batch) as replay:
            losses = replay.losses_with(edits, gradients=True)
        loss = losses.double().mean() + self.penalty * gates.sum()
        # not .backward(): the model's own gradients stay as they are
        gates.grad = torch.autograd.grad(loss, gates)[0]
        optimizer.step()
        with torch.no_grad():
            gates.clamp_(0, 1)
        return len(losses)


def _gate(unit: Unit, gates: Tensor, place: int) -> Edit:
    return adds(unit, lambda x, added: added * gates[place].to(added.dtype), runs=True)


def _again(subject: Subject) -> Iterator[Any]:
    while True:
        yield from subject.batches()
