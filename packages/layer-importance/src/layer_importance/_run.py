"""One analysis under way: the sweep, methods that run the model themselves, the report."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from layer_importance._checkpoint import Checkpoint
from layer_importance._consensus import Consensus, consensus
from layer_importance._damage_race import DamageRace
from layer_importance._halves import halved, halves
from layer_importance._method import Method, PassMethod, SweepMethod
from layer_importance._pace import Pace
from layer_importance._ranker import shipped
from layer_importance._registry import Registry
from layer_importance._report import Report
from layer_importance._scores import MethodScores
from layer_importance._select import Clock, Selection, circumstances, select
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep
from layer_importance._validity import Validity, Values, validity

Progress = Callable[[str, int], None]
"""Called with what is being done and how many batches of it are done."""


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
        selection = self._selection(registry)
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
        start = self.clock()
        race = DamageRace(
            self.subject,
            max(len(removable) // 4, 1) if bottom is None else bottom,
            delta=delta,
            prior=self._prior(),
            late=self.late,
            limited=self.seconds is not None,
        )
        scores = self._raced(race)
        self.found[scores.method] = replace(scores, seconds=self.clock() - start)
        self.bottom = race.statement()

    def _selection(self, registry: Registry) -> Selection:
        here = circumstances(self.subject, self.clock)
        return select(self.subject, here, registry, self.seconds)

    def _prior(self) -> Sequence[str]:
        """Units in the order in which they are expected to go."""
        values = self._consensus()
        return values.ranking if values else ()

    def _raced(self, race: DamageRace) -> MethodScores:
        return race.run(self.progress)

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
        shares = {unit.name: float(unit.parameters) for unit in self.subject.units}
        names = self.subject.units.names
        try:
            return consensus(self.found, names, known, shares=shares, ranker=shipped())
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
