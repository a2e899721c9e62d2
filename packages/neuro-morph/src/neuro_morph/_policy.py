"""Growth by itself: triggers say when, scores where, a tournament whether."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuro_morph._back_off import BackOff
from neuro_morph._budget import Budget
from neuro_morph._candidates import widenings
from neuro_morph._edit import Edit
from neuro_morph._edit_together import Together
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._group_statistics import Statistics
from neuro_morph._initial import UnitInit
from neuro_morph._metrics._activation_diversity import activation_diversity, dead_units
from neuro_morph._morpher import Morpher
from neuro_morph._score import DEFAULT_WEIGHTS
from neuro_morph._statistics import collect_statistics
from neuro_morph._tapping import LossFn
from neuro_morph._tournament import Tournament, TournamentResult
from neuro_morph._trial import StepFn, held_out
from neuro_morph._triggers import (
    Decision,
    GeneralizationGap,
    GradientHealth,
    Plateau,
    Quorum,
    Traces,
    mean_connection_length,
)


@dataclass(frozen=True)
class PolicySettings:
    """When, where and how much a policy grows.

    Args:
        quorum: the triggers that decide when.
        check_every: steps between two questions to them.
        measure_every: steps between two measurements of the units and the held-out loss; 0 for
            none.
        pause: steps after an attempt before the next; it doubles after each that fails.
        growth: the part of its units that a group is given.
        short_list: how many groups enter a tournament.
        together: whether all groups at once enter it as well.
        trial_steps: training steps of each trial.
        per: what gains are weighed by (see :class:`Tournament`).
        score_batches: how many of the training batches scores are measured on.
        weights: of the metrics that make the short list.
        init: how new units begin; None for the best that is exact.
        total_steps: how many steps the run will have; the last part of it grows nothing.

    Raises:
        ValueError: if a number is out of range.
    """

    quorum: Quorum = field(
        default_factory=lambda: Quorum([Plateau(), GradientHealth(), GeneralizationGap()])
    )
    check_every: int = 10
    measure_every: int = 500
    pause: int = 200
    growth: float = 1.0
    short_list: int = 3
    together: bool = True
    trial_steps: int = 150
    per: str | None = None
    score_batches: int = 8
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    init: UnitInit | None = None
    total_steps: int | None = None

    def __post_init__(self) -> None:
        least = {"check_every": 1, "measure_every": 0, "pause": 0, "short_list": 1}
        for name, value in {**least, "trial_steps": 1, "score_batches": 1}.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)!r}")


class GrowthPolicy:
    """Grows a run's network while it trains, called once after every optimizer step.

    Every ``check_every`` steps the triggers are asked. If enough ask for growth, all groups are
    scored on the training batches, the best few are tried in a tournament, measured on the
    held-out batches, and the one that gains the most is kept, or none: then the pause doubles and
    what was tried is left alone for a while.

    Args:
        morpher: the run, with its optimizers.
        loss_fn: ``loss_fn(model, batch)`` gives the mean loss of a batch, or the losses of its
            examples.
        batches: training batches, for scores and trials.
        validation: held-out batches, for decisions.
        budget: what may be spent.
        settings: see :class:`PolicySettings`.
        step_fn: makes a whole training step in trials; None for the plain one.

    Raises:
        ValueError: if there are no batches or no held-out batches.

    Example:
        >>> import torch
        >>> from neuro_morph import GrowthPolicy, Morpher
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
        ... )
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> x = torch.randn(64, 4)
        >>> data = [(part, part.sum(1, keepdim=True)) for part in x.split(16)]
        >>> def loss_fn(model, batch):
        ...     return (model(batch[0]) - batch[1]).square().mean()
        >>> morpher = Morpher(model, optimizer, example_inputs=x[:1])
        >>> policy = GrowthPolicy(morpher, loss_fn, data[:3], data[3:])
        >>> for batch in data[:3]:
        ...     optimizer.zero_grad()
        ...     loss = loss_fn(model, batch)
        ...     loss.backward()
        ...     optimizer.step()
        ...     event = policy.step(loss)  # None, or what has grown
    """

    def __init__(
        self,
        morpher: Morpher,
        loss_fn: LossFn,
        batches: Sequence[Any],
        validation: Sequence[Any],
        *,
        budget: Budget | None = None,
        settings: PolicySettings | None = None,
        step_fn: StepFn | None = None,
    ) -> None:
        self.morpher, self.loss_fn = morpher, loss_fn
        self.batches, self.validation = batches, validation
        self.budget, self.settings = budget or Budget(), settings or PolicySettings()
        self.traces = Traces()
        self.back_off = BackOff(self.settings.pause)
        self.decisions: list[tuple[int, Decision]] = []
        self.results: list[TournamentResult] = []
        self.taken = 0
        self._step_fn, self._stepped = step_fn, not morpher.optimizers
        self._last: int | None = None
        self._norms: list[float] = []
        self._trying = False
        for name, held in (("batches", batches), ("validation", validation)):
            if not len(held):
                raise ValueError(f"{name} must hold at least one batch")
        self._handles = [o.register_step_post_hook(self._after) for o in morpher.optimizers]
        morpher.policy = self

    def step(
        self, loss: Tensor | float, *, progress: float | None = None
    ) -> MorphogenesisEvent | None:
        """Counts a training step; returns what has grown after it, None if nothing has.

        Call it right after the optimizer's step. Gradients that the step has used are cleared
        where something is tried; with gradients that wait for a step nothing is tried.

        Args:
            loss: the step's loss.
            progress: the part of the run that is done, from 0 to 1, where its length is not a
                number of steps; None for the settings' ``total_steps``.

        Raises:
            ValueError: if ``progress`` is not from 0 to 1.
        """
        if progress is not None and not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress must be from 0 to 1, got {progress!r}")
        self.taken += 1
        self.morpher.steps += 1
        self.traces.loss.append(float(loss.detach() if isinstance(loss, Tensor) else loss))
        self.traces.gradient_norm += self._norms[-1:]
        self._norms.clear()
        ready = self._stepped or all(p.grad is None for p in self.morpher.model.parameters())
        self._stepped = False
        every = self.settings.measure_every
        if every and self.taken % every == 0:
            self._measure()
        if not ready or self.taken % self.settings.check_every:
            return None
        return self._ask(self._total(progress))

    def close(self) -> None:
        """Takes the policy off the optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def grow(self, reason: str) -> TournamentResult | None:
        """Tries the best candidates at once and keeps the one that gains the most, or none.

        Returns None if there is nothing to try.
        """
        for parameter in self.morpher.model.parameters():
            parameter.grad = None
        candidates = self._candidates()
        self._last = self.taken
        if not candidates:
            self.back_off.failed(self.taken)
            return None
        self._trying = True
        try:
            result = self._tournament().run(candidates, reason=reason)
        finally:
            self._trying = False
        self.results.append(result)
        tried = [(edit.op, edit.target) for edit in candidates]
        if result.winner is None:
            self.back_off.failed(self.taken, *tried)
        else:
            self.back_off.succeeded()
        return result

    def _total(self, progress: float | None) -> int | None:
        return round(self.taken / progress) if progress else self.settings.total_steps

    def _ask(self, total: int | None) -> MorphogenesisEvent | None:
        since = None if self._last is None else self.taken - self._last
        decision = self.settings.quorum.decide(
            self.traces, since=since, pause=self.back_off.now, total=total
        )
        self.decisions.append((self.taken, decision))
        if not decision.grow:
            return None
        result = self.grow(decision.reason)
        return None if result is None else result.event

    def _candidates(self) -> list[Edit]:
        if self.budget.events is not None:
            kept = sum(event.decision == "committed" for event in self.morpher.events)
            if kept >= self.budget.events:
                return []
        found = widenings(
            self.morpher.graph,
            self._statistics(),
            growth=self.settings.growth,
            weights=self.settings.weights,
            init=self.settings.init,
        )
        allowed: Iterator[Edit] = (e for e in found if self._allows(e))
        chosen = list(islice(allowed, self.settings.short_list))
        whole = Together(tuple(found)) if self.settings.together and len(found) > 1 else None
        return [*chosen, whole] if whole is not None and self._allows(whole) else chosen

    def _allows(self, edit: Edit) -> bool:
        return self.back_off.allows(edit.op, edit.target, self.taken)

    def _tournament(self) -> Tournament:
        return Tournament(
            self.morpher,
            self.loss_fn,
            self.batches,
            self.validation,
            steps=self.settings.trial_steps,
            per=self.settings.per,
            budget=self.budget,
            step_fn=self._step_fn,
        )

    def _statistics(self) -> Statistics:
        def mean(model: Any, batch: Any) -> Tensor:
            return self.loss_fn(model, batch).mean()

        count = min(self.settings.score_batches, len(self.batches))
        batches = [self.batches[k] for k in range(count)]
        return collect_statistics(self.morpher.model, self.morpher.graph, batches, mean)

    def _measure(self) -> None:
        held = self._statistics()
        groups = list(held.groups.values())
        if groups:
            spreads = [mean_connection_length(g.covariance()) for g in groups]
            self.traces.used_rank.append(max(activation_diversity(g) for g in groups))
            self.traces.saturated.append(max(dead_units(g) for g in groups))
            self.traces.spread.append(max(spreads))
        losses = held_out(self.morpher.model, self.validation, self.loss_fn)
        self.traces.validation.append(float(losses.mean()))
        self.traces.training.append(held.loss)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._trying:
            return
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norms = torch.stack([g.detach().norm() for g in grads]) if grads else torch.zeros(1)
        self._norms.append(float(norms.norm()))
        self._stepped = True
