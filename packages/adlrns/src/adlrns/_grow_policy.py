"""When, where and whether a network grows: by trials, or by score alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from adlrns._grow_inits import init_of, statistics_of
from adlrns._grow_net import Losses
from adlrns._grow_settings import LAST_PART, SHORT_LIST, Settings
from neuro_morph import (
    BackOff,
    Budget,
    GradientHealth,
    GrowthPolicy,
    GrowthRefusedError,
    Morpher,
    MorphogenesisEvent,
    Period,
    Plateau,
    PolicySettings,
    Quorum,
    TournamentResult,
    Traces,
    apply_within,
    standing,
    widenings,
)


class Policy(Protocol):
    """Grows a network between two training steps.

    Attributes:
        decisions: steps, and what the triggers said.
    """

    decisions: list[tuple[int, Any]]

    def step(self, loss: Tensor | float) -> MorphogenesisEvent | None:
        """Counts a step; returns what has grown after it."""
        ...

    def close(self) -> None:
        """Lets go of the optimizers."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns what it knows of the run, as JSON can hold it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what it knew."""
        ...


@dataclass(frozen=True)
class Material:
    """What decisions are made with.

    Attributes:
        losses: of a batch's items.
        batches: training batches, for scores and trials.
        held: batches that are never trained on.
        examples: samples in the example inputs.
        total: steps of the run.
    """

    losses: Losses
    batches: Sequence[Any]
    held: Sequence[Any]
    examples: int
    total: int


def policy_of(settings: Settings, morpher: Morpher, material: Material, step_fn: Any) -> Policy:
    """Returns what the command line asks for.

    Args:
        settings: what it says.
        morpher: the run.
        material: what decisions are made with.
        step_fn: makes a training step of a trial.
    """
    total, losses = material.total, material.losses
    steps = settings.trial(total)
    init = init_of(settings.init, morpher, material.batches, losses, steps=max(1, steps // 2))
    plateau = settings.when == "plateau"
    policy = PolicySettings(
        quorum=_quorum(settings, total),
        check_every=1,
        measure_every=0,
        pause=settings.window(total) if plateau else 0,
        growth=settings.by,
        short_list=SHORT_LIST,
        together=False,
        trial_steps=steps,
        trial_share=None,  # --events and --trial-steps say what trials may take
        per="parameters",
        init=init,
        total_steps=total,
    )
    flops = None if settings.max_flops is None else settings.max_flops * material.examples
    budget = Budget(parameters=settings.max_parameters, flops=flops, events=settings.events)
    if not settings.tournament:
        return ByScore(morpher, material, budget, policy)
    return GrowthPolicy(
        morpher,
        losses,
        material.batches,
        material.held,
        budget=budget,
        settings=policy,
        step_fn=step_fn,
    )


def _quorum(settings: Settings, total: int) -> Quorum:
    if settings.when == "period":
        return Quorum([Period(settings.period(total))], last_part=LAST_PART)
    plateau = Plateau(window=settings.window(total))
    health = [GradientHealth()] if settings.tournament else []
    return Quorum([plateau, *health], last_part=LAST_PART)


@dataclass
class ByScore:
    """Grows the group of the highest score that is not refused, without a trial."""

    morpher: Morpher
    material: Material
    budget: Budget
    settings: PolicySettings
    traces: Traces = field(default_factory=Traces)
    decisions: list[tuple[int, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.back_off = BackOff(self.settings.pause)
        self._last: int | None = None

    def step(self, loss: Tensor | float) -> MorphogenesisEvent | None:
        """Counts a step; returns what has grown after it."""
        self.morpher.steps += 1
        self.traces.loss.append(float(loss))
        since = None if self._last is None else self.morpher.steps - self._last
        decision = self.settings.quorum.decide(
            self.traces, since=since, pause=self.back_off.now, total=self.settings.total_steps
        )
        self.decisions.append((self.morpher.steps, decision))
        return self._grow(decision.reason) if decision.grow else None

    def close(self) -> None:
        """Nothing is held."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what it knows of the run, as JSON can hold it."""
        held = {"loss": list(self.traces.loss), "last": self._last}
        return {**held, "back_off": self.back_off.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what it knew."""
        self.traces = Traces(loss=list(state["loss"]))
        self._last = state["last"]
        self.back_off.load_state_dict(state["back_off"])

    def _grow(self, reason: str) -> MorphogenesisEvent | None:
        if len(standing(self.morpher.events)) >= (self.budget.events or 0):
            return None
        self._last = self.morpher.steps
        for parameter in self.morpher.model.parameters():
            parameter.grad = None
        for edit in self._candidates():
            try:
                return apply_within(self.morpher, edit, self.budget, reason=f"{reason}; by score")
            except GrowthRefusedError as refusal:
                note_refusal(self.morpher, edit, str(refusal))
        self.back_off.failed(self.morpher.steps)
        return None

    def _candidates(self) -> Sequence[Any]:
        model, graph = self.morpher.model, self.morpher.graph
        found = statistics_of(model, graph, self.material.batches, self.material.losses)
        ranked = widenings(graph, found, growth=self.settings.growth, init=self.settings.init)
        return ranked[: self.settings.short_list]


def note_refused(morpher: Morpher, result: TournamentResult) -> None:
    """Adds to a run's events what a tournament could not try."""
    for trial in result.trials:
        if trial.refused is not None:
            note_refusal(morpher, trial.edit, trial.refused)


def note_refusal(morpher: Morpher, edit: Any, why: str) -> None:
    """Adds to a run's events what was refused, if it is not there for that step yet."""
    known = [e for e in morpher.events if (e.step, e.target) == (morpher.steps, edit.target)]
    if any(event.decision == "refused" for event in known):
        return
    size, flops = _sizes(morpher)
    morpher.note(
        MorphogenesisEvent(
            id=len(morpher.events),
            step=morpher.steps,
            op=edit.op,
            target=edit.target,
            detail=edit.detail(),
            reason="tried",
            decision="refused",
            why_not=why,
            parameters_before=size,
            parameters_after=size,
            flops_before=flops,
            flops_after=flops,
            absolute_change=None,
            relative_change=None,
        )
    )


def _sizes(morpher: Morpher) -> tuple[int, int]:
    now = Budget().measure(morpher)
    return now.parameters, now.flops
