"""One analysis under way: the sweep, methods that run the model themselves, the report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from layer_importance._batch import size
from layer_importance._budget import Budget, Finish
from layer_importance._checkpoint import Checkpoint
from layer_importance._consensus import Consensus, consensus
from layer_importance._damage_race import DamageRace
from layer_importance._halves import halved, halves
from layer_importance._method import Method, PassMethod, SweepMethod
from layer_importance._outcome import facts, left_out, swept, without_reach
from layer_importance._pace import Pace
from layer_importance._ranker import shipped
from layer_importance._registry import Registry
from layer_importance._report import Report
from layer_importance._scores import MethodScores
from layer_importance._select import Clock, Selection, circumstances, select
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep
from layer_importance._validity import Validity, Values, validity

_MOST = 0.8
"""Share of the time that the race is left at most, where one batch of it takes more than half."""
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
        self.subject, self.clock, self.seconds = subject, clock, seconds
        self.budget = Budget(clock, start, seconds)
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
        self.dear: dict[str, str] = {}

    def keep(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint, and writes it."""
        self.pace = self.checkpoint = checkpoint

    def late(self) -> bool:
        """Whether the time is up."""
        return self.budget.left() <= 0

    def ask(self, methods: Sequence[Method]) -> None:
        """Runs what was asked for."""
        unmet = {method.name: method.unmet(self.subject) for method in methods}
        self.reasons = {name: why or "asked for" for name, why in unmet.items()}
        runs = [method for method in methods if not unmet[method.name]]
        self._sweep([m for m in runs if isinstance(m, SweepMethod)])
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
        scores = without_reach(method, scores, self.subject)
        scores = replace(scores, seconds=self.clock() - start)
        if self.checkpoint is not None:
            self.checkpoint.ran(scores)
        return scores

    def choose(self, registry: Registry, bottom: int | None, delta: float) -> None:
        """Runs what there is time for."""
        self.budget.parts["discovery"] = self.budget.spent
        with self.budget.on("first look"):
            selection = self._selection(registry)
        self.reasons, self.chosen = dict(selection.reasons), {"selection": selection.why}
        methods = [m for m in selection.methods if isinstance(m, SweepMethod)]
        self._sweep(methods, self._kept_for(selection), chosen=True)
        with self.budget.on("methods that run alone"):
            self._alone(selection.methods)
        if selection.race:
            self._race(selection, bottom, delta)
        if self.seconds is not None:
            self.chosen["seconds"] = self.budget.to_dict()

    def _kept_for(self, selection: Selection) -> float:
        """Seconds that are the race's: half of them, or as many as its first batch takes."""
        if self.seconds is None or not selection.race:
            return 0.0
        return min(max(0.5 * self.seconds, 1.25 * selection.race_s), _MOST * self.seconds)

    def _race(self, selection: Selection, bottom: int | None, delta: float) -> None:
        removable = self.subject.units.removable
        if self.budget.left() < selection.race_s:
            self.reasons["layer_ablation"] = (
                f"the first batch of a race would take about {selection.race_s:.2g} s, and "
                f"{max(self.budget.left(), 0):.2g} of {self.seconds:g} s were left"
            )
            return
        race = DamageRace(
            self.subject,
            max(len(removable) // 4, 1) if bottom is None else bottom,
            delta=delta,
            prior=self._prior(),
            turn=self.budget.turns(),
            late=self.late,
            limited=self.seconds is not None,
        )
        start = self.clock()
        with self.budget.on("race"):
            scores = self._raced(race)
        self.found[scores.method] = replace(scores, seconds=self.clock() - start)
        self.bottom = race.statement()

    def _selection(self, registry: Registry) -> Selection:
        here = circumstances(self.subject, self.clock)
        return select(self.subject, here, registry, self.seconds, spent=self.budget.spent)

    def _prior(self) -> Sequence[str]:
        """Units in the order in which they are expected to go."""
        values = self._consensus()
        return values.ranking if values else ()

    def _raced(self, race: DamageRace) -> MethodScores:
        return race.run(self.progress)

    def _sweep(
        self, methods: Sequence[SweepMethod], keep: float = 0.0, *, chosen: bool = False
    ) -> None:
        start = self.clock()
        heard = [halved(method) for method in methods]
        self.sweep = Sweep(self.subject, heard)
        if not heard:
            return
        limited = chosen and self.seconds is not None
        with self.budget.on("sweep"):
            for method in heard:
                method.begin(self.subject)
            self.pace.begin(self.sweep, heard)
            finish = Finish(self.subject, heard if limited else (), self.budget)
            late = self.budget.turns(lambda: keep + finish.price) if limited else self.late
            self._listen(late, lambda: self._price(finish, keep) if limited else None)
        with self.budget.on("scores"):
            self._score(heard, finish, keep, start)

    def _listen(self, late: Callable[[], bool], looked: Callable[[], None]) -> None:
        """Sends batches through; ``looked`` is called after the first, second, fourth, ..."""
        with self.sweep as sweep:
            seen = 0
            for index, batch in enumerate(self.subject.batches()):
                sweep.first, seen = seen, seen + size(batch)
                if not self.pace.mine(index):
                    continue
                if late() and sweep.batches:
                    self.notes.append(f"the sweep ended after {sweep.batches} batches: time was up")
                    break
                self.pace.before(index)
                sweep.run(batch)
                self.pace.after(index)
                self.progress("sweep", sweep.batches)
                if sweep.batches.bit_count() == 1:  # what scores are worked out of grows
                    looked()
        self.pace.end()

    def _price(self, finish: Finish, keep: float) -> None:
        """Lets go of methods whose scores would take too long: half of what the race leaves."""
        with self.budget.on("prices of scores"):
            finish.look(self.sweep.methods)
        most = max(finish.affordable(keep) / 2, finish.affordable(math.inf))
        self._let_go(finish.too_dear(self.sweep.methods, most))

    def _let_go(self, gone: Mapping[str, str]) -> None:
        self.dear |= gone
        self.reasons |= gone
        self.sweep.drop(gone)

    def _score(
        self, heard: Sequence[SweepMethod], finish: Finish, keep: float, start: float
    ) -> None:
        """Works out scores; those that would not be ready in time are left out."""
        seconds = self.clock() - start
        if finish.prices:
            self._let_go(finish.too_dear(self.sweep.methods, finish.affordable(keep)))
        scored = [method for method in heard if method.name not in self.dear]
        self.found = {
            m.name: without_reach(m, swept(m.scores(), seconds, self.sweep), self.subject)
            for m in scored
        }
        self.halves = halves(scored)

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
            notes=(*sweep.notes, *self.notes, *left_out(subject)),
            samples=sweep.samples,
            batches=sweep.batches,
            passes=sweep.passes,
            facts={
                **facts(subject),
                "modality": name,
                "modality_reason": modality,
                **self.chosen,
            },
            validity=self._validity(),
            consensus=self._consensus(),
            bottom=self.bottom,
        )
