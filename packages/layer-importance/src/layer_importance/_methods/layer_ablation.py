"""What the loss does without a unit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from layer_importance._ablation import Ablation, Mode, chosen, replays
from layer_importance._differences import Differences
from layer_importance._method import PassMethod
from layer_importance._paired import t_interval
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._sharing import totals
from layer_importance._subject import Subject


class LayerAblation(PassMethod):
    """Damage of leaving one unit out: ``D = E[l(without it) - l]``, paired sample by sample.

    In the loss's own unit; 0 where the unit does nothing, negative where the model is better
    without it. ``low`` and ``high`` bound the mean with the stated confidence (Student's interval
    of the paired differences), ``even`` and ``odd`` are the means over every other sample, to see
    how far they repeat, ``quality_change`` is the same difference of the task's quality, and the
    notes say what stood in for each unit. Only what comes after a unit is run again: over
    ``L`` units ``(L + 1) / 2`` forward passes instead of ``L + 1``.

    Args:
        mode: what stands in: see :class:`~layer_importance.Ablation`.
        units: names of the units to score; all if not given.
        confidence: of the interval.

    Source: Veit et al., arXiv 1605.06431, section 4.1, for residual blocks; mean and resample
    ablation: Zhang and Nanda, arXiv 2309.16042.
    """

    name = "layer_ablation"
    shares = True
    measure = "nats"
    needs = frozenset({"data", "labels"})

    def __init__(
        self,
        *,
        mode: Mode = "auto",
        units: Sequence[str] | None = None,
        confidence: float = 0.95,
    ) -> None:
        self.mode, self.units, self.confidence = mode, units, confidence

    def passes(self, units: int) -> tuple[float, float]:
        """The unchanged run and half a run a unit."""
        return 1 + (units - 1) / 2, 0.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Ablates one unit at a time."""
        units, ablation = chosen(subject, self.units), Ablation(subject, self.mode)
        damage = Differences()
        quality = Differences()
        parts = {"even": Differences(), "odd": Differences()}
        executed = length = 0.0
        before = ablation.prepare([u for u in units if not ablation.unmet(u)], progress)
        for replay in replays(subject, self.name, progress):
            ablation.begin(replay.batch)
            good = _quality(subject, replay, replay.output)
            for unit in units:
                edit = ablation.edit(replay, unit)
                if isinstance(edit, str):
                    damage.refused[unit.name] = edit
                    continue
                output = replay.run({unit.name: edit})
                losses = subject.losses(output, replay.answers, finite=False)
                damage.add(unit, losses - replay.losses)
                for start, part in enumerate(parts.values()):
                    part.add(unit, (losses - replay.losses)[start::2])
                if good is not None:
                    quality.add(unit, _quality(subject, replay, output) - good)
            executed, length = executed + replay.executed, length + replay.length
        share = subject.share
        executed, length = totals(share, executed, length)
        damage, quality = damage.gathered(share), quality.gathered(share)
        parts = {half: part.gathered(share) for half, part in parts.items()}
        found = self._result(subject, ablation, damage, quality, before + executed / length)
        halves = {
            half: {n: float(part.moments[n].mean) for n in found if part.moments[n].count}
            for half, part in parts.items()
        }
        return replace(found, extras={**found.extras, **halves})

    def _result(
        self,
        subject: Subject,
        ablation: Ablation,
        damage: Differences,
        quality: Differences,
        forwards: float,
    ) -> MethodScores:
        whole = damage.whole()
        between = {n: t_interval(m, confidence=self.confidence) for n, m in whole.items()}
        seen = {n: m for n, m in quality.moments.items() if n in whole and m.count}
        extras = {
            "low": {name: interval.low for name, interval in between.items()},
            "high": {name: interval.high for name, interval in between.items()},
            "quality_change": {n: float(m.mean) for n, m in seen.items()},
            "quality_change_error": {n: float(m.standard_error) for n, m in seen.items()},
        }
        found = self.result(
            {name: Score.of(moments) for name, moments in whole.items()},
            {column: values for column, values in extras.items() if values},
            damage.missing(),
        )
        notes = {name: f"ablation: {ablation.way(subject.units[name])}" for name in whole}
        return replace(found, measure=subject.task.measure, notes=notes, forwards=forwards)


def _quality(subject: Subject, replay: Replay, output: Any) -> Any:
    labels = subject.task.labels(replay.answers)
    return subject.task.quality(output, labels, replay.answers)
