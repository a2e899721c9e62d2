"""Leaving one out for as long as there is time, with what can be said of the least important."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from layer_importance._ablation import Ablation
from layer_importance._methods.layer_ablation import LayerAblation
from layer_importance._moments import Moments
from layer_importance._paired import t_interval
from layer_importance._racing import Race, RaceResult
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._units import Unit


class DamageRace:
    """A race for the ``k`` removable units of least damage that keeps all it measures.

    With a limit of time only units that are not decided yet are run; without one all are, so that
    every unit has its damage on all samples.

    Args:
        subject: what is studied.
        k: how many units to find.
        delta: probability, at most, that a decision is wrong.
        prior: units in the order in which they are expected to go.
        turn: whether a batch would end too late; asked before each.
        late: whether the time is up; asked before each unit: of a batch that was not finished, the
            race hears nothing.
        limited: whether there is a limit.
    """

    def __init__(
        self,
        subject: Subject,
        k: int,
        *,
        delta: float,
        prior: Sequence[str],
        turn: Callable[[], bool],
        late: Callable[[], bool],
        limited: bool,
    ) -> None:
        self.subject, self.turn, self.late, self.limited = subject, turn, late, limited
        self.race = Race(subject.units.removable.names, k, delta=delta, prior=prior)
        self._kept: dict[str, dict[str, Moments]] = {}
        self.stopped = ""

    def run(self, progress: Callable[[str, int], None]) -> MethodScores:
        """Returns the damages; the model must be inside :func:`preserved`."""
        ablation = Ablation(self.subject)
        executed = length = 0
        for done, batch in enumerate(self.subject.batches()):
            if self.turn() and done:
                self.stopped = _up(done)
                break
            if self.race.done and self.limited:
                self.stopped = f"decided after {done} batches"
                break
            ablation.begin(batch)
            with Replay(self.subject, batch) as replay:
                damages = self.damages(replay, ablation)
                executed, length = executed + replay.executed, length + replay.length
                if any(name not in damages for name in self.race.alive):
                    self.stopped = _up(done)
                    if not done:  # better than nothing: no race, but the damage of some
                        self.keep(damages)
                    break
                self.tell(damages)
            progress("race", done + 1)
        return self.scores(executed / max(length, 1))

    def damages(self, replay: Replay, ablation: Ablation) -> dict[str, Tensor]:
        """Returns what each unit's absence costs every sample, of those there was time for."""
        found: dict[str, Tensor] = {}
        for name in self.race.alive if self.limited else self.race.arms:
            if self.late():
                break
            edit = ablation.edit(replay, self.subject.units[name])
            assert not isinstance(edit, str)  # all arms are removable
            losses = replay.losses_with({name: edit})
            found[name] = (losses - replay.losses).detach().to("cpu", torch.float64)
        return found

    def tell(self, damages: dict[str, Tensor]) -> None:
        """Adds the damages of the next batch."""
        self.keep(damages)
        self.race.add(damages)

    def keep(self, damages: dict[str, Tensor]) -> None:
        """Keeps damages for the scores alone."""
        for name, each in damages.items():
            columns = self._kept.setdefault(name, {})
            parts = {"": each, "even": each[::2], "odd": each[1::2]}
            for column, values in parts.items():
                columns.setdefault(column, Moments()).add(values)

    def scores(self, forwards: float) -> MethodScores:
        """Returns the damages told so far."""
        whole = {n: c[""] for n, c in self._kept.items() if c[""].count and not c[""].skipped}
        between = {name: t_interval(moments) for name, moments in whole.items()}
        extras = {
            "low": {name: interval.low for name, interval in between.items()},
            "high": {name: interval.high for name, interval in between.items()},
            **{
                half: {
                    n: float(self._kept[n][half].mean) for n in whole if self._kept[n][half].count
                }
                for half in ("even", "odd")
            },
        }
        missing = {
            unit.name: self._why_not(unit) for unit in self.subject.units if unit.name not in whole
        }
        found = LayerAblation().result({n: Score.of(m) for n, m in whole.items()}, extras, missing)
        measure = self.subject.task.measure
        notes = {n: f"ablation: {self.subject.units[n].removal}" for n in whole}
        return replace(found, measure=measure, notes=notes, forwards=forwards)

    def _why_not(self, unit: Unit) -> str:
        if unit.reason:
            return f"was not run: {unit.reason}"
        return "losses are not finite" if unit.name in self._kept else "time was up before it ran"

    def statement(self) -> dict[str, Any]:
        """Returns what is known of the least important units, in words and numbers."""
        result = self.race.result()
        return {
            "k": self.race.k,
            "delta": result.delta,
            "units": list(result.bottom),
            "decided": list(result.decided),
            "certain": result.certain,
            "draws": dict(result.draws),
            "statement": _words(result, self.race.k, self.stopped),
        }


def _up(done: int) -> str:
    return f"time was up after {done} batches" if done else "time was up within the first batch"


def _words(result: RaceResult, k: int, stopped: str) -> str:
    sure = f"with probability at least {1 - result.delta:g}"
    after = f" ({stopped})" if stopped else ""
    if result.certain:
        return f"{', '.join(result.bottom)} are the {k} units of least damage {sure}{after}"
    if not result.decided:
        return f"nothing is decided at that probability{after}; best guess: " + ", ".join(
            result.bottom
        )
    return (
        f"{', '.join(result.decided)} are among the {k} units of least damage {sure}; "
        f"the others are not decided{after}"
    )
