"""What a task gains if one unit alone adapts to it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from layer_importance._adaptation import (
    Gradients,
    Halves,
    dot,
    gradients,
    halves,
    own_parameters,
    stepped,
)
from layer_importance._differences import Differences
from layer_importance._edits import Edit
from layer_importance._method import PassMethod
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject


class MetaLearning(PassMethod):
    """Adaptation gain: ``E[L_q(theta) - L_q(theta - eta grad_b L_s)]``, one step of one unit.

    Every batch is a task: its even samples are the support set ``s``, its odd ones the query set
    ``q``, ``L`` is the mean loss. To first order the gain is ``eta <grad_b L_s, grad_b L_q>``, for
    all units from two gradients; with ``exact`` the step is taken, unit by unit. 0 for a unit that
    has nothing to learn, negative where the step makes the query worse. ``relative_gradient`` is
    ``|grad_b L_s| / |theta_b|`` and ``agreement`` the cosine of both gradients: what part of a
    step is for the task and not for the samples. Standard errors are over tasks, so what is in one
    batch together matters here.

    Args:
        learning_rate: ``eta``.
        exact: take the step instead of its first order.

    Source: Finn et al., arXiv 1703.03400, eq. 1, one unit at a time as Lee et al., arXiv
    2210.11466, tune them; first order: Nichol et al., arXiv 1803.02999, section 5.
    """

    name = "meta_learning"
    shares = True
    measure = "nats"
    needs = frozenset({"data", "labels", "parameter_gradients"})

    def __init__(self, *, learning_rate: float = 0.01, exact: bool = False) -> None:
        if not (0 < learning_rate < math.inf):
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        self.learning_rate, self.exact = learning_rate, exact

    def passes(self, units: int) -> tuple[float, float]:
        """Both gradients, each on half of a batch; with ``exact`` half a run of that a unit."""
        return 1.0 + (0.5 + (units + 1) / 4 if self.exact else 0.0), 1.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Takes every batch as a task."""
        owned, reasons = own_parameters(subject)
        columns = {c: Differences() for c in ("gain", "relative_gradient", "agreement")}
        every = list({id(p): p for parameters in owned.values() for p in parameters}.values())
        for done, batch in enumerate(subject.batches(), 1):
            if (task := halves(batch)) is None:
                continue
            support, query = (gradients(subject, h, every) for h in (task.support, task.query))
            gains = self._gains(subject, task, owned, (support, query))
            for name, parameters in owned.items():
                unit = subject.units[name]
                columns["gain"].add(unit, _one(gains[name]))
                for column, value in _beside(parameters, support, query).items():
                    columns[column].add(unit, _one(value))
            progress(self.name, done)
        columns = {name: column.gathered(subject.share) for name, column in columns.items()}
        return self._result(subject, columns, reasons, owned)

    def _gains(
        self,
        subject: Subject,
        task: Halves,
        owned: dict[str, list[Parameter]],
        found: tuple[Gradients, Gradients],
    ) -> dict[str, float]:
        if not self.exact:
            return {n: self.learning_rate * dot(p, *found) for n, p in owned.items()}
        gains = {}
        with Replay(subject, task.query) as replay:
            before = float(replay.losses.double().mean())
            for name, parameters in owned.items():
                with stepped(parameters, found[0], self.learning_rate):
                    again = replay.losses_with({name: Edit(lambda x, y: y, runs=True)})
                gains[name] = before - float(again.double().mean())
        return gains

    def _result(
        self,
        subject: Subject,
        columns: dict[str, Differences],
        reasons: dict[str, str],
        owned: dict[str, Any],
    ) -> MethodScores:
        gain = columns["gain"]
        scores = {name: Score.of(moments) for name, moments in gain.whole().items()}
        extras = {
            column: {n: float(m.mean) for n, m in columns[column].moments.items() if m.count}
            for column in ("relative_gradient", "agreement")
        }
        few = dict.fromkeys((n for n in owned if n not in gain.moments), "no batch has two samples")
        found = self.result(scores, extras, reasons | few | gain.missing())
        forwards, backwards = self.passes(len(subject.units))
        measure = subject.task.measure
        return replace(found, measure=measure, forwards=forwards, backwards=backwards)


def _beside(parameters: list[Parameter], support: Gradients, query: Gradients) -> dict[str, float]:
    """The further columns of one unit; NaN where a norm is zero."""
    size = dot(parameters, support, support) ** 0.5
    both = size * dot(parameters, query, query) ** 0.5
    weights = sum(float(p.detach().double().square().sum()) for p in parameters) ** 0.5
    return {
        "relative_gradient": size / weights if weights else math.nan,
        "agreement": dot(parameters, support, query) / both if both else math.nan,
    }


def _one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)
