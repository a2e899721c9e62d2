"""Candidates for growth, tried out on the same batches; the one that gains the most is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from neuro_morph._arguments import check_kind, check_least, check_number, check_share, several
from neuro_morph._budget import Budget
from neuro_morph._edit import Edit
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._morpher import Morpher
from neuro_morph._named import check_names
from neuro_morph._paired import PairedGain, paired_gain
from neuro_morph._policy_checks import check_batches, check_trainable
from neuro_morph._tapping import LossFn
from neuro_morph._trial import StepFn, check_no_gradients, held_out, train, trial
from neuro_morph._work import Work

_TRIED = "tried in a tournament"
COSTS = (None, "parameters", "flops")


@dataclass(frozen=True)
class Trial:
    """What became of one candidate.

    Attributes:
        edit: the candidate.
        gain: how much smaller the held-out losses are than without growth, None if it was refused.
        cost: what it adds, in the tournament's unit; 1 without one.
        event: what the edit did, None if it was refused.
        refused: why it could not be done.
    """

    edit: Edit
    gain: PairedGain | None
    cost: float = 1.0
    event: MorphogenesisEvent | None = None
    refused: str | None = None

    @property
    def worth(self) -> float:
        """The gain over the cost; minus infinity if it was refused."""
        return -inf if self.gain is None else self.gain.mean / self.cost


@dataclass(frozen=True)
class TournamentResult:
    """What a tournament has found.

    Attributes:
        trials: one for each candidate, in their order.
        winner: the one that was kept, None if no gain was beyond the noise.
        event: what keeping it did.
        before: the mean held-out loss at the start.
        control: the mean held-out loss after the same steps without growth.
    """

    trials: tuple[Trial, ...]
    winner: Trial | None
    event: MorphogenesisEvent | None
    before: float
    control: float


@dataclass
class Tournament:
    """Tries candidates out on a run and keeps the best, or none.

    Each is applied to the run as it is, trained for ``steps`` steps on the same batches with the
    same random numbers, measured on ``validation`` and discarded bit for bit. The run without
    growth is trained and measured in the same way; a candidate counts only if its held-out losses
    are smaller by the paired one-sided t test, at ``level`` over the number of candidates. The
    test knows of the noise of the examples, not of that of training.

    What is kept is the candidate applied to the run as it was: of the trial steps nothing stays.
    Over a trial the learning rates fall to nothing: at those of the middle of a run the loss
    depends on the order of the batches more than on what has grown, and the test would know
    nothing of it.

    Args:
        morpher: the run, with its optimizers.
        loss_fn: ``loss_fn(model, batch)`` gives the losses of a batch's examples (the test is then
            over examples) or their mean (over batches). Of fewer than 8 held-out losses in all
            nothing is kept.
        batches: what candidates are trained on, taken in turn.
        validation: what they are measured on; it must not be trained on.
        steps: steps of each trial.
        repeats: how often each trial is made, on other batches and with other random numbers; the
            losses of an example are averaged over them.
        per: ``"parameters"`` or ``"flops"`` for the best gain over what is added, None for the
            best gain.
        level: how often a tournament may keep something though nothing gains.
        min_gain: the smallest mean gain that is kept.
        budget: candidates that would overspend it are refused by name.
        step_fn: ``step_fn(model, batch)`` makes a whole training step; None for the plain one.
        cool: whether learning rates fall in trials; with False they stay as they are.

    Raises:
        TypeError: if an argument is of another kind than it is to be: batches are sequences.
        ValueError: for an unknown ``per``, fewer than one step, empty batches, or a run that has
            no optimizer where there is no ``step_fn``.

    Example:
        >>> import torch
        >>> from neuro_morph import Morpher, Tournament, Widen
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)
        ... )
        >>> optimizer = torch.optim.Adam(model.parameters(), 0.03)
        >>> x = torch.randn(128, 2)
        >>> batches = [(part, part.prod(1, keepdim=True)) for part in x.split(32)]
        >>> def loss_fn(model, batch):
        ...     return (model(batch[0]) - batch[1]).square()
        >>> morpher = Morpher(model, optimizer, example_inputs=x[:1])
        >>> tournament = Tournament(morpher, loss_fn, batches[:3], batches[3:], steps=60)
        >>> tournament.run([Widen("0", by=8)]).winner.edit.by
        8
    """

    morpher: Morpher
    loss_fn: LossFn
    batches: Sequence[Any]
    validation: Sequence[Any]
    steps: int = 100
    repeats: int = 1
    per: str | None = "parameters"
    level: float = 0.05
    min_gain: float = 0.0
    budget: Budget = field(default_factory=Budget)
    step_fn: StepFn | None = field(default=None, repr=False)
    cool: bool = True

    def __post_init__(self) -> None:
        self._event: MorphogenesisEvent | None = None
        if self.per not in COSTS:
            raise ValueError(f"per must be 'parameters', 'flops' or None, got {self.per!r}")
        check_kind(Morpher, morpher=self.morpher)
        check_trainable(self.morpher, self.loss_fn, self.step_fn)
        check_kind(Budget, budget=self.budget)
        check_least(1, whole=True, steps=self.steps, repeats=self.repeats)
        check_number(min_gain=self.min_gain)
        check_batches(batches=self.batches, validation=self.validation)
        check_share(level=self.level)

    def run(
        self, candidates: Sequence[Edit], *, reason: str = "won a tournament"
    ) -> TournamentResult:
        """Tries candidates out, keeps the best, or none, and returns what was found.

        Candidates that were not kept are noted in the run's events as rolled back, with their
        gain, those that could not be done or would overspend as refused, with the reason. Where
        everything is refused or nothing gains, the run is as it was bit for bit.

        Raises:
            TypeError: if ``candidates`` is no list of edits.
            KeyError: if one names a group that is not there; nothing has been trained then.
            ValueError: if there are no candidates, or one names a module that is not there.
            GrowthRefusedError: if a parameter has a gradient.
        """
        candidates = several(
            "candidates", candidates, lambda one: isinstance(one, Edit), "a list of edits"
        )
        if not candidates:
            raise ValueError("candidates must hold at least one edit")
        for edit in candidates:
            check_names(edit, self.morpher)
        check_no_gradients(self.morpher.model)
        before = self._measured()
        control = self._averaged(None)
        trials = tuple(self._try(edit, control, len(candidates)) for edit in candidates)
        winner = self._best(trials)
        self._note(trials, winner)
        event = self._keep(winner, reason)
        return TournamentResult(trials, winner, event, float(before.mean()), float(control.mean()))

    def _try(self, edit: Edit, control: Tensor, candidates: int) -> Trial:
        try:
            after = self._averaged(edit)
        except GrowthRefusedError as refusal:
            return Trial(edit, None, refused=str(refusal))
        assert self._event is not None
        gain = paired_gain(control, after, level=self.level / candidates)
        return Trial(edit, gain, self._cost(self._event), self._event)

    def _averaged(self, edit: Edit | None) -> Tensor:
        """Returns the held-out losses after growth and training, the mean over repeats."""
        return torch.stack([self._tried(edit, k) for k in range(self.repeats)]).mean(0)

    def _tried(self, edit: Edit | None, repeat: int) -> Tensor:
        with trial(self.morpher):
            if repeat:  # other random numbers than those of the growth that may be kept
                torch.rand(repeat)
                torch.rand(repeat, generator=self.morpher.generator)
            if edit is not None:
                event = self._grown(edit)
                self._event = self._event if repeat else event
                self._check_budget(edit)
            first = repeat * self.steps
            batches = [
                self.batches[k % len(self.batches)] for k in range(first, first + self.steps)
            ]
            train(self.morpher, batches, self.loss_fn, self.step_fn, cool=self.cool)
            return self._measured()

    def _grown(self, edit: Edit) -> MorphogenesisEvent:
        try:
            return self.morpher.apply(edit, reason=_TRIED)
        except GrowthRefusedError:
            raise
        except Exception as error:  # an edit may fail in any way; the others go on
            found = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise GrowthRefusedError(
                f"{edit.op} of {edit.target!r} fails with {type(error).__name__}: {found}"
            ) from error

    def _check_budget(self, edit: Edit) -> None:
        over = self.budget.overspent(self.budget.measure(self.morpher))
        if over is not None:
            raise GrowthRefusedError(f"{edit.op} of {edit.target!r} {over}")

    def _cost(self, event: MorphogenesisEvent) -> float:
        if self.per == "parameters":
            return float(max(event.parameters_added, 1))
        if self.per == "flops":
            return float(max(event.flops_after - event.flops_before, 1))
        return 1.0

    def _best(self, trials: Sequence[Trial]) -> Trial | None:
        able = [t for t in trials if t.gain and t.gain.lower > 0.0 and t.gain.mean >= self.min_gain]
        return max(able, key=lambda t: t.worth, default=None)

    def _keep(self, winner: Trial | None, reason: str) -> MorphogenesisEvent | None:
        if winner is None or winner.gain is None:
            return None
        found = f"{reason}: {winner.gain.mean:.4g} less loss after {self.steps} steps"
        return self.morpher.apply(winner.edit, reason=found, gain=winner.gain.mean)

    def _note(self, trials: Sequence[Trial], winner: Trial | None) -> None:
        for each in trials:
            if each is winner:
                continue
            if each.event is None:
                refused = Work(self.morpher, each.edit, _TRIED).event("refused", each.refused)
                self.morpher.note(refused)
                continue
            gain = each.gain.mean if each.gain and isfinite(each.gain.mean) else None
            doubt = each.gain.why_not if each.gain else "its gain was not measured"
            why = "a better one was kept" if winner else doubt
            number = len(self.morpher.events)
            self.morpher.note(
                replace(each.event, id=number, decision="rolled back", why_not=why, gain=gain)
            )

    def _measured(self) -> Tensor:
        return held_out(self.morpher.model, self.validation, self.loss_fn)
