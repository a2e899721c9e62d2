"""When :class:`DNMFramework` grows: the held-out metric of every epoch, and what units do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from neuro_morph._group_statistics import Statistics
from neuro_morph._metrics._activation_diversity import activation_diversity, dead_units
from neuro_morph._triggers import (
    GeneralizationGap,
    GradientHealth,
    Information,
    Plateau,
    Quorum,
    Saturation,
    Topology,
    Traces,
    Trigger,
    Vote,
    mean_connection_length,
)

_WINDOW = 8  # epochs: the shortest that a slope is taken over
_AGREEING = 3  # theories that outvote a metric that still improves


@dataclass(frozen=True)
class Stalled:
    """Asks for growth when a metric has improved too little over the last epochs.

    The best of the last ``interval`` values is compared with the best before, or with the first
    value there is.

    Attributes:
        values: the metric of every epoch, the larger the better.
        interval: epochs.
        threshold: the improvement that is enough.
    """

    values: tuple[float, ...]
    interval: int
    threshold: float
    name: str = "performance"

    def vote(self, traces: Traces) -> Vote:
        """Returns what it says of the metric."""
        if len(self.values) < 2:
            return Vote(self.name, False, f"{len(self.values)} of 2 epochs seen")
        cut = max(len(self.values) - self.interval, 1)
        gained = max(self.values[cut:]) - max(self.values[:cut])
        told = f"the metric has improved by {gained:.3g} in {len(self.values) - cut} epochs"
        return Vote(self.name, gained < self.threshold, f"{told}, {self.threshold:g} asked for")


@dataclass
class Monitor:
    """What was seen of a run, epoch by epoch.

    Args:
        interval: epochs between two questions.
        threshold: see :class:`Stalled`.
    """

    interval: int
    threshold: float
    traces: Traces = field(default_factory=Traces)
    values: list[float] = field(default_factory=list)
    blocked: str | None = None

    def add_epoch(self, train: Mapping[str, float], val: Mapping[str, float]) -> None:
        """Takes the metrics of an epoch: the held-out accuracy if there is one, else the loss.

        One that is not finite is left out, and nothing grows in that epoch.

        Raises:
            ValueError: if there is neither.
        """
        name = next((n for n in ("accuracy", "loss") if n in val), None)
        if name is None:
            raise ValueError(f"val_metrics must have 'accuracy' or 'loss', got {sorted(val)}")
        losses = [float(metrics["loss"]) for metrics in (train, val) if "loss" in metrics]
        value = float(val[name]) if name == "accuracy" else -float(val[name])
        wrong = [each for each in (value, *losses) if not isfinite(each)]
        self.blocked = f"a metric of this epoch is {wrong[0]}" if wrong else None
        if wrong:
            return
        self.values.append(value)
        if "loss" in train:
            self.traces.loss.append(losses[0])
        if len(losses) == 2:
            self.traces.training.append(losses[0])
            self.traces.validation.append(losses[1])

    def add_units(self, statistics: Statistics) -> None:
        """Takes what the units of all groups did."""
        groups = list(statistics.groups.values())
        if not groups:
            return
        self.traces.used_rank.append(max(activation_diversity(g) for g in groups))
        self.traces.saturated.append(max(dead_units(g) for g in groups))
        self.traces.spread.append(max(mean_connection_length(g.covariance()) for g in groups))
        squares = [g.gradient_second for g in groups if g.gradient_second is not None]
        if squares:
            self.traces.gradient_norm.append(sum(float(s.sum()) for s in squares) ** 0.5)

    def decide(self) -> tuple[bool, list[str]]:
        """Returns whether to grow, and what asks for it or stands against it.

        The metric has to have stalled, or three theories to agree: that of the loss (plateau), of
        the units' rank (information), of idle units (saturation) and of their relations (topology).
        Gradients out of bounds and a growing generalization gap forbid growth.
        """
        if self.blocked is not None:
            return False, [self.blocked]
        found = Quorum(self._triggers()).decide(self.traces)
        if found.blocked is not None:
            return False, [found.blocked]
        asked = [f"{vote.name}: {vote.reason}" for vote in found.votes if vote.grow]
        if found.votes[0].grow or len(asked) >= _AGREEING:
            return True, asked
        against = f"{found.votes[0].name}: {found.votes[0].reason}"
        return False, [f"{against}; {len(asked)} of {_AGREEING} theories ask for growth"]

    def _triggers(self) -> list[Trigger]:
        stalled = Stalled(tuple(self.values), self.interval, self.threshold)
        theories = (Plateau(_WINDOW), Information(window=1), Saturation(window=1))
        guards = (GradientHealth(1), GeneralizationGap(_WINDOW))
        return [stalled, *theories, Topology(window=1), *guards]

    def since_growth(self) -> None:
        """Begins anew: the units are others, what the metric has gained counts from here."""
        del self.values[:-1]
        for held in (self.traces.used_rank, self.traces.saturated, self.traces.spread):
            held.clear()
        self.traces.gradient_norm.clear()
