"""What a run may spend on growth."""

import time
from dataclasses import dataclass
from statistics import median

import torch

from neuro_morph._arguments import check_kind, check_number
from neuro_morph._counting import sizes_of_model
from neuro_morph._edit import Edit
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent, standing
from neuro_morph._graph import evaluating
from neuro_morph._morpher import Morpher
from neuro_morph._trial import trial
from neuro_morph._untouched import untouched

_RUNS = 7  # of which the median counts


@dataclass(frozen=True)
class Usage:
    """What a network takes, all of it counted or timed.

    Attributes:
        parameters: its parameters.
        flops: floating point operations of a run on the example inputs.
        latency_s: seconds of that run, the median of a few; None if it was not timed.
        events: edits that were kept.
    """

    parameters: int
    flops: int
    latency_s: float | None
    events: int


@dataclass(frozen=True)
class Budget:
    """Limits of what the grown network may take; None for no limit.

    Args:
        parameters: parameters of the whole network.
        flops: floating point operations of a run on the example inputs.
        latency_s: seconds of that run.
        events: edits that are kept.

    Raises:
        ValueError: if a limit is not above 0.

    Example:
        >>> import torch
        >>> from neuro_morph import Budget, GrowthRefusedError, Morpher, Widen, apply_within
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> morpher = Morpher(model, example_inputs=torch.ones(1, 4))
        >>> try:
        ...     apply_within(morpher, Widen("0", by=2), Budget(parameters=60))
        ... except GrowthRefusedError as refusal:
        ...     print(refusal)
        widen of '0' would take parameters to 72, over the budget of 60
    """

    parameters: int | None = None
    flops: int | None = None
    latency_s: float | None = None
    events: int | None = None

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit is not None:
                check_number(**{name: limit})
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be above 0, got {limit!r}")

    def overspent(self, usage: Usage) -> str | None:
        """Returns which limit a network is over, None if it is within all of them."""
        for name, limit in vars(self).items():
            used = getattr(usage, name)
            if limit is not None and used is not None and used > limit:
                return f"would take {name} to {used:.6g}, over the budget of {limit:.6g}"
        return None

    def measure(self, morpher: Morpher) -> Usage:
        """Returns what a run's network takes as it is; it is timed only if time is limited."""
        parameters, flops = sizes_of_model(morpher.model, morpher.inputs)
        kept = len(standing(morpher.events))
        return Usage(parameters, flops, None if self.latency_s is None else latency(morpher), kept)


def latency(morpher: Morpher) -> float:
    """Returns the median seconds of a run on the example inputs, in evaluation mode."""
    inputs, seconds = morpher.inputs, []
    with untouched(morpher.model), evaluating(morpher.model), torch.no_grad():
        for _ in range(_RUNS):
            start = time.perf_counter()
            morpher.model(*inputs.args, **inputs.kwargs)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return median(seconds)


def apply_within(
    morpher: Morpher, edit: Edit, budget: Budget, *, reason: str = "asked for"
) -> MorphogenesisEvent:
    """Carries an edit out if what it leads to is within a budget; returns what was measured.

    It is tried first and everything put back bit for bit, so that the counts are those of the
    network itself.

    Raises:
        GrowthRefusedError: if it would overspend, or cannot be done; nothing has changed then.
    """
    check_kind(Morpher, morpher=morpher)
    with trial(morpher):
        morpher.apply(edit, reason=reason)
        over = budget.overspent(budget.measure(morpher))
    if over is not None:
        raise GrowthRefusedError(f"{edit.op} of {edit.target!r} {over}")
    return morpher.apply(edit, reason=reason)
