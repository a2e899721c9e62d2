"""Which methods to run, in which order, for how long, and why."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from layer_importance._consensus import PREFERRED
from layer_importance._method import Method, SweepMethod
from layer_importance._registry import Registry
from layer_importance._subject import Subject

Clock = Callable[[], float]

_FORWARD = frozenset({"data", "labels"})
_SHARE = 0.5
"""Share of the time that the sweep may take before cheaper methods are chosen for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the choice of methods depends on.

    Attributes:
        gradients: whether a gradient of the loss reaches the units.
        labels: whether the batches have labels.
        units: number of units.
        removable: number of those that can be removed.
        parameters: number of parameters of the model.
        task: name of the task.
        modality: name of the modality; empty if it is not known.
        forward_s: seconds of a forward pass of the first batch.
        backward_s: seconds of a backward pass; NaN without gradients.
        batches: how many there are; ``None`` if nothing says so.
    """

    gradients: bool
    labels: bool
    units: int
    removable: int
    parameters: int
    task: str
    modality: str
    forward_s: float
    backward_s: float
    batches: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is to be run.

    Attributes:
        methods: in this order.
        reasons: for every method known, why it is run or not.
        race: whether leaving one out is measured, for the time that is left.
        race_s: about how many seconds a batch of that takes.
        why: what the choice went by.
    """

    methods: tuple[Method, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    race: bool = False
    race_s: float = 0.0
    why: str = ""


def circumstances(subject: Subject, clock: Clock = time.perf_counter) -> Circumstances:
    """Returns what holds here; runs the first batch twice forward and once back.

    The model must be inside :func:`preserved`, with gradients enabled.
    """
    batch = subject.first
    with torch.no_grad():
        subject.forward(batch)  # the first pass is slower than the others
        start = clock()
        subject.forward(batch)
        forward = clock() - start
    backward = _backward_seconds(subject, batch, clock) if subject.has_labels else math.nan
    return Circumstances(
        gradients=math.isfinite(backward),
        labels=subject.has_labels,
        units=len(subject.units),
        removable=len(subject.units.removable),
        parameters=sum(p.numel() for p in subject.model.parameters()),
        task=subject.task.name,
        modality="" if subject.modality is None else subject.modality.name,
        forward_s=forward,
        backward_s=backward,
        batches=subject.length,
    )


def _backward_seconds(subject: Subject, batch: Any, clock: Clock) -> float:
    """Of one pass; NaN if no gradient gets through the model."""
    parameters = list(subject.model.parameters())
    required = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:  # a sweep sends gradients through frozen models too
            parameter.requires_grad_(parameter.is_floating_point())
        losses = subject.losses(subject.forward(batch), batch)
        if not losses.requires_grad:
            return math.nan
        start = clock()
        losses.sum().backward()
        return clock() - start
    except RuntimeError:  # an operation without a derivative, as quantised layers are
        return math.nan
    finally:
        for parameter, needed in zip(parameters, required, strict=True):
            parameter.requires_grad_(needed)
            parameter.grad = None


def select(
    subject: Subject,
    here: Circumstances,
    registry: Registry,
    seconds: float | None = None,
    *,
    spent: float = 0.0,
) -> Selection:
    """Returns what to run within ``seconds``; without a limit, all that one sweep can give.

    ``spent`` of them are gone already, which is the sweep's loss.

    The sweep always runs. Where it may take more than half of the time, methods that need more
    than one backward pass, or gradients of parameters, sample by sample, are left out first, then
    those that need gradients of parameters at all. Methods that pass batches through the model
    themselves are not chosen: what is left of the time goes to leaving units out, which measures
    what they estimate.
    """
    made = {name: registry.get(name)() for name in registry.names()}
    level, why = _level(here, seconds, spent)
    reasons: dict[str, str] = {}
    chosen: list[Method] = []
    for name in sorted(made, key=_place):
        method = made[name]
        reason = _refusal(method, subject, here, level)
        reasons[name] = reason or _because(method, level)
        if not reason:
            chosen.append(method)
    race, race_s = here.labels and here.removable > 0, (here.removable + 1) / 2 * here.forward_s
    if "layer_ablation" in made:
        reasons["layer_ablation"] = (
            f"it measures the damage itself: a race over {here.removable} units, "
            f"about {race_s:.2g} s a batch"
            if race
            else "needs labels and units that can be removed"
        )
    return Selection(methods=tuple(chosen), reasons=reasons, race=race, race_s=race_s, why=why)


_LEVELS = (
    "reads the forward pass alone",
    "reads gradients of activations",
    "reads gradients of parameters",
    "reads gradients of each sample's, or of sampled labels",
)
# passes of a sweep over one batch: forward passes and backward passes, from measured sweeps
_COSTS = ((1.5, 0.0), (1.3, 1.3), (1.4, 1.4), (1.5, 2.5))


def level_words(level: int) -> str:
    """Returns what a level of the sweep is, in words."""
    return ("forward sweep", "sweep", "sweep with parameters", "whole sweep")[level]


def sweep_seconds(here: Circumstances, level: int) -> float:
    """Returns about how long a sweep over all batches takes; of one batch if nobody knows."""
    forward, backward = _COSTS[level]
    back = here.backward_s if math.isfinite(here.backward_s) else 0.0
    return (here.batches or 1) * (forward * here.forward_s + backward * back)


def setup_seconds(here: Circumstances, level: int) -> float:
    """Returns about how long it takes before a sweep's first batch."""
    if level < 3:
        return 0.0
    # gradients of samples are compared with those of a loop: about as much as ten batches
    return 10 * (here.forward_s + here.backward_s)


def _level(here: Circumstances, seconds: float | None, spent: float) -> tuple[int, str]:
    top = 3 if here.gradients else 0
    if seconds is None:
        return top, "no limit of time: all that one sweep gives"
    share = _SHARE * seconds - spent

    def fits(level: int) -> bool:
        return setup_seconds(here, level) + sweep_seconds(here, level) <= share

    level = next((n for n in range(top, 0, -1) if fits(n)), min(top, 1))
    known = "" if here.batches else ", for one batch: nothing says how many there are"
    return level, (
        f"a {level_words(level)} takes about {sweep_seconds(here, level):.2g} of "
        f"{seconds:.3g} s{known}"
    )


def _level_of(method: Method) -> int:
    if method.needs & {"per_sample", "sampled", "exact"}:
        return 3
    if "parameter_gradients" in method.needs:
        return 2
    return 1 if "gradients" in method.needs else 0


def _refusal(method: Method, subject: Subject, here: Circumstances, level: int) -> str:
    """Why a method is not run; empty if it is."""
    if reason := method.unmet(subject):
        return reason
    forwards, backwards = method.passes(here.units)
    if not isinstance(method, SweepMethod) and forwards + backwards > 0:
        return (
            f"needs {forwards:.3g} forward and {backwards:.3g} backward passes of its own a batch; "
            "leaving units out is the better use of them: ask for it by name"
        )
    if "exact" in method.needs:
        return "needs a backward pass for every answer there is: ask for it by name"
    needed = _level_of(method)
    if needed and not here.gradients:
        return f"{_LEVELS[needed]}, and there are none"
    if needed > level:
        about = setup_seconds(here, needed) + sweep_seconds(here, needed)
        return f"{_LEVELS[needed]}: the sweep would take about {about:.2g} s, over half of the time"
    return ""


def _because(method: Method, level: int) -> str:
    if not isinstance(method, SweepMethod):
        return "reads no data"
    return f"{_LEVELS[_level_of(method)]}: within the {level_words(level)}"


def _place(name: str) -> tuple[int, str]:
    return (PREFERRED.index(name), "") if name in PREFERRED else (len(PREFERRED), name)
