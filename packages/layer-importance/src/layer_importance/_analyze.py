"""The whole way from a model and some batches to a report."""

import itertools
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layer_importance._checkpoint import Checkpoint
from layer_importance._consensus import Consensus, consensus
from layer_importance._damage_race import DamageRace
from layer_importance._discover import discover
from layer_importance._halves import halved, halves
from layer_importance._method import Method, PassMethod, SweepMethod
from layer_importance._modalities import find_modality
from layer_importance._modality import Modality
from layer_importance._pace import Pace
from layer_importance._preserve import preserved
from layer_importance._registry import Registry, registry as default_registry
from layer_importance._report import Report
from layer_importance._scores import MethodScores
from layer_importance._select import Clock, circumstances, select
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep
from layer_importance._task import Task
from layer_importance._tasks import task as find_task
from layer_importance._units import Units
from layer_importance._validity import Validity, Values, validity

Progress = Callable[[str, int], None]
"""Called with what is being done and how many batches of it are done."""


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

    With ``methods="auto"`` the first batch is timed and what can be had in ``seconds`` is run: the
    sweep always, with as many methods as half of the time allows; the rest of the time goes to
    leaving units out one by one, a race for the ``bottom`` ones of least damage that ends when they
    are known with probability ``1 - delta``. The report says for every method why it ran or not.

    Args:
        model: any module.
        batches: any iterable of batches, in the form the task reads; for a race, in random order.
        task: a task or its name.
        methods: methods or their names; ``"auto"`` to have them chosen.
        units: what to score; found by :func:`discover` if not given.
        modality: what kind of data it is: one or its name; ``auto`` looks at the first batch.
        seconds: about how long it may take. Looked at between batches: the sweep ends early, though
            never before one batch, and no method that runs the model itself is begun after it.
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
        ValueError: if there is no batch, no unit, no such method or task, the data or the loss
            are not finite, or ``checkpoint`` is of another analysis.
    """
    start = clock()
    if isinstance(methods, str) and methods != "auto":
        raise ValueError(f"methods must be 'auto' or a list of methods, got {methods!r}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    if checkpoint is not None and methods == "auto":
        raise ValueError("methods must be named for a checkpoint, got 'auto'")
    known = registry or default_registry
    named = None if isinstance(methods, str) else named_methods(methods, known)
    model, subject, note = prepared(model, batches, task, units, max_batches, seed, modality)
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
    # an iterator is read by the subject: keep what it gives
    batches = list(itertools.islice(batches, max_batches)) if iter(batches) is batches else batches
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("batches must give at least one batch, got none")
    found, note = _modality(modality, first)
    subject = _subject(model, batches, find_task(task), units, max_batches, seed, found)
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


class Run:
    """One analysis: what runs, what it finds, and until when."""

    def __init__(
        self,
        subject: Subject,
        progress: Progress | None,
        clock: Clock,
        start: float,
        seconds: float | None,
    ) -> None:
        self.subject, self.clock, self.start, self.seconds = subject, clock, start, seconds
        self.progress = progress or (lambda what, done: None)
        self.found: dict[str, MethodScores] = {}
        self.reasons: dict[str, str] = {}
        self.notes: list[str] = []
        self.halves: dict[str, tuple[Values, Values]] = {}
        self.bottom: dict[str, Any] | None = None
        self.sweep = Sweep(subject, [])
        self.pace = Pace()
        self.checkpoint: Checkpoint | None = None
        self.chosen: dict[str, Any] = {}

    def keep(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint, and writes it."""
        self.pace = self.checkpoint = checkpoint

    def late(self, share: float = 1.0) -> bool:
        """Whether ``share`` of the time is up."""
        return self.seconds is not None and self.clock() - self.start >= share * self.seconds

    def ask(self, methods: Sequence[Method]) -> None:
        """Runs what was asked for."""
        unmet = {method.name: method.unmet(self.subject) for method in methods}
        self.reasons = {name: why or "asked for" for name, why in unmet.items()}
        runs = [method for method in methods if not unmet[method.name]]
        self._sweep([m for m in runs if isinstance(m, SweepMethod)], 1.0)
        self._alone(runs)
        self.found = {m.name: self.found[m.name] for m in runs if m.name in self.found}

    def _alone(self, methods: Sequence[Method]) -> None:
        """Runs those that run the model themselves, until the time is up."""
        for method in methods:
            if not isinstance(method, PassMethod):
                continue
            if self.late():
                self.reasons[method.name] = f"the {self.seconds:g} s were up before it began"
                continue
            self.found[method.name] = self._passed(method)

    def _passed(self, method: PassMethod) -> MethodScores:
        if self.checkpoint is not None and (known := self.checkpoint.known(method)) is not None:
            return known
        start = self.clock()
        scores = method.run(self.subject, self.progress)
        scores = replace(scores, seconds=self.clock() - start)
        if self.checkpoint is not None:
            self.checkpoint.ran(scores)
        return scores

    def choose(self, registry: Registry, bottom: int | None, delta: float) -> None:
        """Runs what there is time for."""
        here = circumstances(self.subject, self.clock)
        selection = select(self.subject, here, registry, self.seconds)
        self.reasons, self.chosen = dict(selection.reasons), {"selection": selection.why}
        methods = [m for m in selection.methods if isinstance(m, SweepMethod)]
        self._sweep(methods, 0.5 if selection.race else 1.0)
        self._alone(selection.methods)
        if not selection.race:
            return
        if self.late():
            self.reasons["layer_ablation"] = f"the {self.seconds:g} s were up before it began"
            return
        removable = self.subject.units.removable
        values = self._consensus()
        start = self.clock()
        race = DamageRace(
            self.subject,
            max(len(removable) // 4, 1) if bottom is None else bottom,
            delta=delta,
            prior=values.ranking if values else (),
            late=self.late,
            limited=self.seconds is not None,
        )
        scores = race.run(self.progress)
        self.found[scores.method] = replace(scores, seconds=self.clock() - start)
        self.bottom = race.statement()

    def _sweep(self, methods: Sequence[SweepMethod], share: float) -> None:
        start = self.clock()
        heard = [halved(method) for method in methods]
        self.sweep = sweep = Sweep(self.subject, heard)
        if not heard:
            return
        for method in heard:
            method.begin(self.subject)
        self.pace.begin(sweep, heard)
        with sweep:
            for index, batch in enumerate(self.subject.batches()):
                if not self.pace.mine(index):
                    continue
                if sweep.batches and self.late(share):
                    self.notes.append(f"the sweep ended after {sweep.batches} batches: time was up")
                    break
                self.pace.before(index)
                sweep.run(batch)
                self.pace.after(index)
                self.progress("sweep", sweep.batches)
        self.pace.end()
        seconds = self.clock() - start
        self.found = {m.name: _swept(m.scores(), seconds, sweep) for m in heard}
        self.halves = halves(heard)

    def _validity(self) -> Validity:
        return validity(self.found, self.subject.units.names, self.halves)

    def _consensus(self) -> Consensus | None:
        known = {n: v.reliability for n, v in self._validity().methods.items()}
        try:
            return consensus(self.found, self.subject.units.names, known)
        except ValueError:  # nothing claims a direction
            return None

    def report(self, modality: str) -> Report:
        """Returns all that was found."""
        sweep, subject = self.sweep, self.subject
        name = None if subject.modality is None else subject.modality.name
        return Report(
            units=subject.units,
            methods=self.found,
            reasons=self.reasons,
            notes=(*sweep.notes, *self.notes),
            samples=sweep.samples,
            batches=sweep.batches,
            passes=sweep.passes,
            facts={
                **_facts(subject),
                "modality": name,
                "modality_reason": modality,
                **self.chosen,
            },
            validity=self._validity(),
            consensus=self._consensus(),
            bottom=self.bottom,
        )


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
    task: Task,
    units: Units | Sequence[str] | None,
    max_batches: int | None,
    seed: int,
    modality: Modality | None,
) -> Subject:
    if not isinstance(units, Units):
        first = next(iter(batches))
        units = discover(model, first, units=units, call=task.inputs(first))
    return Subject(
        model, units, task, batches, max_batches=max_batches, seed=seed, modality=modality
    )


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
