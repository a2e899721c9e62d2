"""The whole way from a model and some batches to a report."""

import itertools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from layer_importance._batch import filled
from layer_importance._checkpoint import Checkpoint
from layer_importance._depth_gate import check_ungated
from layer_importance._discover import discover
from layer_importance._method import Method
from layer_importance._modalities import find_modality
from layer_importance._modality import Modality
from layer_importance._preserve import preserved
from layer_importance._registry import Registry, registry as default_registry
from layer_importance._report import Report
from layer_importance._run import Progress, Run
from layer_importance._select import Clock
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._tasks import task as find_task
from layer_importance._units import Units
from layer_importance._whose import of_batch


def analyze(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    task: str | Task = "classification",
    methods: Sequence[str | Method] | str = ("block_influence", "skip_attribution"),
    units: Units | Sequence[str] | None = None,
    modality: str | Modality | None = "auto",
    seconds: float | None = None,
    bottom: int | None = None,
    delta: float = 0.05,
    max_batches: int | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 8,
) -> Report:
    """Returns how important each unit of a model is, by every method that was asked for.

    All methods that can share passes do: one forward and one backward pass a batch feeds them all.
    The model is in evaluation mode meanwhile and bit for bit as it was afterwards, also after an
    error. A method that cannot run here (no labels, frozen parameters) is left out, and the report
    says why.

    With ``methods="auto"`` what can be had in ``seconds`` is run. The first batch is timed, and
    half of the time is kept for leaving units out one by one: a race for the ``bottom`` ones of
    least damage that ends when they are known with probability ``1 - delta``. The other half is for
    the sweep and for working out scores, whose price is tried on one unit as the sweep goes on;
    methods that are too dear are let go. The report says for every method why it ran or not, and
    its ``facts["seconds"]`` what each part took.

    Args:
        model: any module.
        batches: any iterable of batches, in the form the task reads; for a race, in random order.
        task: a task or its name.
        methods: methods or their names; ``"auto"`` to have them chosen.
        units: what to score; found by :func:`discover` if not given.
        modality: what kind of data it is: one or its name; ``auto`` looks at the first batch.
        seconds: about how long it may take. Looked at between batches, in a race between units: the
            sweep ends early, though never before one batch, and no method that runs the model
            itself is begun after it. With methods that are named, scores are worked out whatever
            that takes.
        bottom: how many units the race is for; a quarter of those that can be removed if not given.
        delta: probability, at most, that the race is wrong.
        max_batches: use at most so many batches.
        seed: of everything drawn at random.
        registry: where names of methods are looked up.
        progress: told what is done.
        clock: what tells the time, in seconds.
        checkpoint: a file that what was seen is written to; an analysis that was killed goes on
            from it, and says the same as one that was not. For methods that are named.
        checkpoint_every: how many batches lie between two writings.

    Raises:
        ValueError: if there is no batch with a sample, no unit, no such method or task, the data or
            the loss are not finite, or ``checkpoint`` is of another analysis. Errors about data,
            of whatever kind, name the batch and its entry.
    """
    start = clock()
    if isinstance(methods, str) and methods != "auto":
        raise ValueError(f"methods must be 'auto' or a list of methods, got {methods!r}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    if checkpoint is not None and methods == "auto":
        raise ValueError("methods must be named for a checkpoint, got 'auto'")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be inside 0..1, got {delta}")
    known = registry or default_registry
    named = None if isinstance(methods, str) else named_methods(methods, known)
    model, subject, note = prepared(model, batches, task, units, max_batches, seed, modality)
    removable = len(subject.units.removable)
    if bottom is not None and not 1 <= bottom <= removable:
        raise ValueError(
            f"bottom must be in 1..{removable}, the units that can be removed, got {bottom}"
        )
    run = Run(subject, progress, clock, start, seconds)
    with preserved(model, gradients=True):
        if named is None:
            run.choose(known, bottom, delta)
        else:
            if checkpoint is not None:
                run.keep(Checkpoint(checkpoint, subject, named, every=checkpoint_every))
            run.ask(named)
    return run.report(note)


def prepared(
    model: nn.Module,
    batches: Iterable[Any],
    task: str | Task,
    units: Units | Sequence[str] | None,
    max_batches: int | None,
    seed: int,
    modality: str | Modality | None,
) -> tuple[nn.Module, Subject, str]:
    """Returns the model itself, what is studied of it, and how its modality was found."""
    model = getattr(model, "_orig_mod", model)
    check_ungated(model)
    # an iterator is read by the subject: keep what it gives
    batches = list(itertools.islice(batches, max_batches)) if iter(batches) is batches else batches
    _, first = next(filled(itertools.islice(batches, max_batches)), (0, None))
    if first is None:
        raise ValueError("batches must give at least one batch with a sample, got none")
    found, note = _modality(modality, first)
    subject = _subject(model, batches, first, find_task(task), units, max_batches, seed, found)
    return model, subject, note


def _modality(which: str | Modality | None, first: Any) -> tuple[Modality | None, str]:
    if which is None:
        return None, "not asked for"
    try:
        found = find_modality(which, first)
    except ValueError as error:
        if which != "auto":
            raise
        return None, str(error)
    return found, found.reason


def named_methods(methods: Sequence[str | Method], registry: Registry | None) -> list[Method]:
    """Returns methods, made of their names where it is names.

    Raises:
        ValueError: if there is no method of a name, or it is no list.
    """
    if isinstance(methods, str):
        raise ValueError(f"methods must be a list of methods, got {methods!r}")
    known = registry or default_registry
    return [m if isinstance(m, Method) else known.get(m)() for m in methods]


def _subject(
    model: nn.Module,
    batches: Iterable[Any],
    first: Any,
    task: Task,
    units: Units | Sequence[str] | None,
    max_batches: int | None,
    seed: int,
    modality: Modality | None,
) -> Subject:
    if not isinstance(units, Units):
        with of_batch(0, first):
            call = task.inputs(first)
        units = discover(model, first, units=units, call=call)
    return Subject(
        model, units, task, batches, max_batches=max_batches, seed=seed, modality=modality
    )
