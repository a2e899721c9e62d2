"""The whole way from a model and some batches to a report."""

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from layer_importance._discover import discover
from layer_importance._method import Method, PassMethod, SweepMethod
from layer_importance._preserve import preserved
from layer_importance._registry import Registry, registry as default_registry
from layer_importance._report import Report
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep
from layer_importance._task import Task
from layer_importance._tasks import task as find_task
from layer_importance._units import Units

Progress = Callable[[str, int], None]
"""Called with what is being done and how many batches of it are done."""


def analyze(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    task: str | Task = "classification",
    methods: Sequence[str | Method] = ("block_influence", "skip_attribution"),
    units: Units | Sequence[str] | None = None,
    max_batches: int | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Report:
    """Returns how important each unit of a model is, by every method that was asked for.

    All methods that can share passes do: one forward and one backward pass a batch feeds them all.
    The model is in evaluation mode meanwhile and bit for bit as it was afterwards, also after an
    error. A method that cannot run here (no labels, frozen parameters) is left out, and the report
    says why.

    Args:
        model: any module.
        batches: any iterable of batches, in the form the task reads.
        task: a task or its name.
        methods: methods or their names.
        units: what to score; found by :func:`discover` if not given.
        max_batches: use at most so many batches.
        seed: of everything drawn at random.
        registry: where names of methods are looked up.
        progress: told what is done.

    Raises:
        ValueError: if there is no batch, no unit, no such method or task, or the data or the loss
            are not finite.
    """
    model = getattr(model, "_orig_mod", model)
    task = find_task(task)
    chosen = [_method(m, registry or default_registry) for m in methods]
    subject = _subject(model, batches, task, units, max_batches, seed)
    reasons = {method.name: method.unmet(subject) for method in chosen}
    runs = [method for method in chosen if not reasons[method.name]]
    with preserved(model, gradients=True):
        sweep, seconds = _sweep(subject, runs, progress)
        found = {
            m.name: _swept(m.scores(), seconds, sweep) for m in runs if isinstance(m, SweepMethod)
        }
        for method in runs:
            if isinstance(method, PassMethod):
                found[method.name] = _run(method, subject, progress)
    return Report(
        units=subject.units,
        methods={method.name: found[method.name] for method in runs},
        reasons={name: why or "asked for" for name, why in reasons.items()},
        notes=sweep.notes,
        samples=sweep.samples,
        batches=sweep.batches,
        passes=sweep.passes,
        facts=_facts(subject),
    )


def _method(which: str | Method, registry: Registry) -> Method:
    return which if isinstance(which, Method) else registry.get(which)()


def _subject(
    model: nn.Module,
    batches: Iterable[Any],
    task: Task,
    units: Units | Sequence[str] | None,
    max_batches: int | None,
    seed: int,
) -> Subject:
    if not isinstance(units, Units):
        # an iterator is read by the subject: keep what it gives
        batches = list(batches) if iter(batches) is batches else batches
        first = next(iter(batches), None)
        if first is None:
            raise ValueError("batches must give at least one batch, got none")
        units = discover(model, first, units=units, call=task.inputs(first))
    return Subject(model, units, task, batches, max_batches=max_batches, seed=seed)


def _sweep(
    subject: Subject, methods: Sequence[Method], progress: Progress | None
) -> tuple[Sweep, float]:
    sweep = Sweep(subject, [m for m in methods if isinstance(m, SweepMethod)])
    start = time.perf_counter()
    if sweep.methods:
        for method in sweep.methods:
            method.begin(subject)
        with sweep:
            for batch in subject.batches():
                sweep.run(batch)
                if progress is not None:
                    progress("sweep", sweep.batches)
    return sweep, time.perf_counter() - start


def _run(method: "PassMethod", subject: Subject, progress: Progress | None) -> Any:
    start = time.perf_counter()
    scores = method.run(subject, progress or (lambda what, done: None))
    return replace(scores, seconds=time.perf_counter() - start)


def _swept(scores: Any, seconds: float, sweep: Sweep) -> Any:
    forwards, backwards = sweep.passes
    missing = {
        unit.name: sweep.missing.get(unit.name, "no sample told anything about it")
        for unit in sweep.subject.units
        if unit.name not in scores and unit.name not in scores.missing
    }
    return replace(
        scores,
        missing={**scores.missing, **missing},
        seconds=seconds,
        forwards=forwards,
        backwards=backwards,
        shared=True,
    )


def _facts(subject: Subject) -> dict[str, Any]:
    return {
        "model": type(subject.model).__name__,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "task": subject.task.name,
        "seed": subject.seed,
        "device": str(subject.device),
        "layer-importance": version("layer-importance"),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
