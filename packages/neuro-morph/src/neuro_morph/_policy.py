"""Growth by itself: triggers say when, scores where, a tournament whether."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from neuro_morph._arguments import check_kind
from neuro_morph._back_off import BackOff
from neuro_morph._budget import Budget
from neuro_morph._candidates_layers import candidates
from neuro_morph._edit import Edit
from neuro_morph._edit_together import Together
from neuro_morph._edit_widen import Widen
from neuro_morph._event import MorphogenesisEvent, standing
from neuro_morph._group_statistics import PARTS, Statistics
from neuro_morph._metrics._activation_diversity import activation_diversity, dead_units
from neuro_morph._morpher import Morpher
from neuro_morph._policy_checks import (
    check_batches,
    check_budget,
    check_loss,
    check_trainable,
    number_of,
    take_up,
)
from neuro_morph._policy_settings import PolicySettings
from neuro_morph._policy_state import load_state, state_of, whole_or_not_at_all
from neuro_morph._run_work import RunWork
from neuro_morph._score import parts_of
from neuro_morph._smaller import fitting
from neuro_morph._statistics import collect_statistics
from neuro_morph._step_watch import StepWatch, clear_gradients
from neuro_morph._tapping import LossFn
from neuro_morph._tournament import Tournament, TournamentResult
from neuro_morph._trial import StepFn, check_no_gradients, held_out
from neuro_morph._triggers import (
    Decision,
    Traces,
    mean_connection_length,
)

_ALL = 10**6  # candidates; the short list is made of what is allowed


class GrowthPolicy:
    """Grows a run's network while it trains, called once after every optimizer step.

    Every ``check_every`` steps the triggers are asked. If enough ask for growth, all groups are
    scored on the training batches, the best few are tried in a tournament, measured on the
    held-out batches, and the one that gains the most is kept, or none: then the pause doubles and
    what was tried is left alone for a while. What would overspend the budget is tried smaller.
    Nothing is tried if all trials so far and the next would take more than ``trial_share`` of the
    run.

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
        ValueError: if there are no batches or no held-out batches, or the run has a policy that
            is not closed, takes more than ``budget`` as it is, or has no optimizer where there is
            no ``step_fn``.
        TypeError: if ``batches`` or ``validation`` are no sequences, or another argument is not
            what it must be.

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
        self.budget = Budget() if budget is None else budget
        self.settings = PolicySettings() if settings is None else settings
        check_kind(Morpher, morpher=morpher)
        check_kind(Budget, budget=self.budget)
        check_kind(PolicySettings, settings=self.settings)
        check_trainable(morpher, loss_fn, step_fn)
        check_batches(batches=batches, validation=validation)
        check_budget(self.budget, morpher)
        self.morpher, self.loss_fn = morpher, loss_fn
        self.batches, self.validation = batches, validation
        self.traces = Traces()
        self.back_off = BackOff(self.settings.pause)
        self.decisions: list[tuple[int, Decision]] = []
        self.results: list[TournamentResult] = []
        self.taken = 0
        self.work = RunWork(morpher)
        self._step_fn = step_fn
        self._last: int | None = None
        self._watch = StepWatch(morpher.optimizers, norms=True)
        take_up(morpher, self)

    def step(
        self, loss: Tensor | float, *, progress: float | None = None
    ) -> MorphogenesisEvent | None:
        """Counts a training step; returns what has grown after it, None if nothing has.

        Call it right after the optimizer's step. Gradients that the step has used are cleared
        where something is tried; with gradients that wait for a step nothing is tried. Where
        something is raised, an interrupt included, the step is not counted and may be told again.

        Args:
            loss: the step's loss; after one that is not finite nothing is tried.
            progress: the part of the run that is done, from 0 to 1, where its length is not a
                number of steps; None for the settings' ``total_steps``.

        Raises:
            ValueError: if ``progress`` is not from 0 to 1.
            TypeError: if the loss is no number.
        """
        if progress is not None and not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress must be from 0 to 1, got {progress!r}")
        check_loss(loss)
        with whole_or_not_at_all(self):
            return self._step(loss, progress)

    def state_dict(self) -> dict[str, Any]:
        """Returns what it knows of the run, as JSON can hold it; ``decisions`` are left out."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from :meth:`state_dict` of the policy of a run that was cut short."""
        load_state(self, state)

    def close(self) -> None:
        """Takes the policy off the optimizers."""
        self._watch.close()
        if self.morpher.policy is self:
            self.morpher.policy = None

    def grow(self, reason: str) -> TournamentResult | None:
        """Tries the best candidates at once and keeps the one that gains the most, or none.

        Returns None if there is nothing to try.

        Raises:
            GrowthRefusedError: if a parameter has a gradient.
        """
        check_no_gradients(self.morpher.model)
        candidates = self._candidates()
        self._last = self.taken
        if not candidates:
            self.back_off.failed(self.taken)
            return None
        passes = self.work.flops
        self._watch.paused = True
        try:
            result = self._tournament().run(candidates, reason=reason)
        finally:
            self._watch.paused = False
        grown = [trial.event.flops_after for trial in result.trials if trial.event is not None]
        self.work.tried += self.settings.trial_steps * (passes + sum(grown))
        self.results.append(result)
        tried = [(edit.op, edit.target) for edit in candidates]
        if result.winner is None:
            self.back_off.failed(self.taken, *tried)
        else:
            self.back_off.succeeded()
        return result

    def _step(self, loss: Tensor | float, progress: float | None) -> MorphogenesisEvent | None:
        self.taken += 1
        self.morpher.steps += 1
        self.traces.loss.append(number_of(loss))
        self.work.step()
        norms, self._watch.norms = self._watch.norms or [], []
        self.traces.gradient_norm += norms[-1:]
        every = self.settings.measure_every
        if every and self.taken % every == 0:
            self._measure()
        if self.taken % self.settings.check_every or not self._watch.ready(self.morpher.model):
            return None
        return self._ask(self._total(progress))

    def _total(self, progress: float | None) -> int | None:
        return round(self.taken / progress) if progress else self.settings.total_steps

    def _ask(self, total: int | None) -> MorphogenesisEvent | None:
        since = None if self._last is None else self.taken - self._last
        decision = self.settings.quorum.decide(
            self.traces, since=since, pause=self.back_off.now, total=total
        )
        if decision.grow and (why := self._too_much(total)) is not None:
            decision = replace(decision, grow=False, blocked=why)
        self.decisions.append((self.taken, decision))
        if not decision.grow:
            return None
        clear_gradients(self.morpher.model)
        result = self.grow(decision.reason)
        return None if result is None else result.event

    def _candidates(self) -> list[Edit]:
        settings, most = self.settings, self.budget.events
        if most is not None and len(standing(self.morpher.events)) >= most:
            return []
        found = candidates(
            self.morpher,
            self._statistics(parts_of(settings.weights)),
            self.loss_fn,
            self.batches,
            kinds=settings.kinds,
            growth=settings.growth,
            weights=settings.weights,
            init=settings.init,
            most=_ALL,
        )
        wide = tuple(edit for edit in found if isinstance(edit, Widen))
        whole = [Together(wide)] if settings.together and len(wide) > 1 else []
        return [*self._fitting(found, settings.short_list), *self._fitting(whole, 1)]

    def _fitting(self, edits: Sequence[Edit], most: int) -> list[Edit]:
        """Returns the first edits that are not left alone, as large as the budget allows."""
        chosen: list[Edit] = []
        for edit in edits:
            if len(chosen) == most:
                break
            small = fitting(self.morpher, edit, self.budget) if self._allows(edit) else None
            chosen += [] if small is None else [small]
        return chosen

    def _too_much(self, total: int | None) -> str | None:
        """Returns why a tournament would take too much of the run, None if it would not."""
        times, settings = 1.0 + self.settings.growth, self.settings
        runs = 1.0 + settings.short_list * times + settings.together * times**2
        wanted = settings.trial_steps * runs * self.work.flops
        return self.work.blocked(wanted, settings.trial_share, self.taken, total)

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

    def _statistics(self, parts: Collection[str] = PARTS) -> Statistics:
        count = min(self.settings.score_batches, len(self.batches))
        batches = [self.batches[k] for k in range(count)]
        return collect_statistics(
            self.morpher.model, self.morpher.graph, batches, self.loss_fn, parts=parts
        )

    def _measure(self) -> None:
        held = self._statistics(())  # of the units alone
        groups = list(held.groups.values())
        if groups:
            spreads = [mean_connection_length(g.covariance()) for g in groups]
            self.traces.used_rank.append(max(activation_diversity(g) for g in groups))
            self.traces.saturated.append(max(dead_units(g) for g in groups))
            self.traces.spread.append(max(spreads))
        losses = held_out(self.morpher.model, self.validation, self.loss_fn)
        self.traces.validation.append(float(losses.mean()))
        self.traces.training.append(held.loss)
