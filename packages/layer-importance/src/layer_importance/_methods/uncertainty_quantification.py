"""How unsure the answer is if one unit is."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from layer_importance._ablation import replays
from layer_importance._batch import size
from layer_importance._differences import Differences
from layer_importance._method import PassMethod
from layer_importance._noise import Dropout, Noise
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._sharing import totals
from layer_importance._streams import real
from layer_importance._subject import Subject
from layer_importance._task import Task, logits
from layer_importance._units import Unit


class UncertaintyQuantification(PassMethod):
    """Uncertainty of the answer that comes from one unit, made random while all others stay.

    Where the task can list its answers, the information the unit's draw has about them in nats
    (BALD), ``I(y; w | x) = H(E p) - E H(p)`` over ``K`` draws. Elsewhere the variance of the
    prediction, summed over its features and averaged over real tokens. Both are multiplied by
    ``K / (K - 1)``, which makes the variance unbiased and the information to second order. 0 where
    the answer does not depend on the unit, or nothing is drawn. Draws are the same for all samples
    and, as far as shapes allow, for all units. The standard error is over samples, for these draws.

    Args:
        noise: what is drawn: :class:`Dropout` of the unit's branch, :class:`WeightNoise`, or
            :class:`PosteriorNoise`, which is as large as the data leave it.
        draws: ``K``, at least 2.

    Source: Houlsby et al., arXiv 1112.5745, eq. 2; Gal and Ghahramani, arXiv 1506.02142; the
    posterior: Daxberger et al., arXiv 2106.14806.
    """

    name = "uncertainty_quantification"
    shares = True
    measure = "nats"

    def __init__(self, *, noise: Noise | None = None, draws: int = 16) -> None:
        if draws < 2:
            raise ValueError(f"draws must be at least 2, got {draws}")
        self.noise: Noise = noise or Dropout()
        self.draws = draws

    def passes(self, units: int) -> tuple[float, float]:
        """The unchanged run and ``draws`` times half a run a unit."""
        return 1 + self.draws * (units - 1) / 2 + self.noise.forwards, 0.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Makes one unit random at a time."""
        lists = type(subject.task).enumerate is not Task.enumerate
        found, noise = Differences(), self.noise.prepared(subject, progress)
        executed = length = 0.0
        for replay in replays(subject, self.name, progress):
            for unit in subject.units:
                if reason := noise.unmet(subject, unit) or _absent(replay, unit):
                    found.refused[unit.name] = reason
                    continue
                seen = _Answers() if lists else _Predictions()
                for draw in range(self.draws):
                    edit = noise.edit(subject, unit, replay.y(unit), draw)
                    seen.add(replay.run({unit.name: edit}), subject, replay)
                found.add(unit, seen.uncertainty() * self.draws / (self.draws - 1))
            executed, length = executed + replay.executed, length + replay.length
        found = found.gathered(subject.share)
        executed, length = totals(subject.share, executed, length)
        scores = {name: Score.of(moments) for name, moments in found.whole().items()}
        result = self.result(scores, missing=found.missing())
        measure = self.measure if lists else "squared output"
        forwards = executed / max(length, 1) + noise.forwards
        return replace(result, measure=measure, forwards=forwards)


def _absent(replay: Replay, unit: Unit) -> str:
    return "" if replay.ran(unit) else "did not run"


class _Answers:
    """The mean of the probabilities and of their entropies, draw by draw."""

    def __init__(self) -> None:
        self._count = 0
        self._p = self._entropy = torch.zeros(())

    def add(self, output: object, subject: Subject, replay: Replay) -> None:
        listed = subject.task.enumerate(output, replay.batch)
        p = torch.stack([probability.detach().double() for _, probability in listed], 1)
        self._count += 1
        self._p = self._p + (p - self._p) / self._count
        self._entropy = self._entropy + (_entropy(p) - self._entropy) / self._count

    def uncertainty(self) -> Tensor:
        return _entropy(self._p) - self._entropy


class _Predictions:
    """The variance of each entry of the prediction, draw by draw (Welford)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._m2 = torch.zeros(())
        self._mask: Tensor | None = None

    def add(self, output: object, subject: Subject, replay: Replay) -> None:
        values = logits(output).detach().double()
        self._count += 1
        delta = values - self._mean
        self._mean = self._mean + delta / self._count
        self._m2 = self._m2 + delta * (values - self._mean)
        if values.ndim == 3:  # what comes out is what the last unit's tower is about
            tower = list(subject.units)[-1].tower
            self._mask = real(subject.mask(replay.batch, values.shape[1], tower), values)
        if len(values) != size(replay.batch):
            raise ValueError(
                "the model's output must have a row a sample, "
                f"got {len(values)} for {size(replay.batch)}"
            )

    def uncertainty(self) -> Tensor:
        variance = self._m2 / self._count
        if variance.ndim != 3:
            return variance.flatten(1).sum(1) if variance.ndim > 1 else variance
        tokens = variance.sum(2)
        if self._mask is None:
            return tokens.mean(1)
        total = torch.where(self._mask, tokens, torch.zeros_like(tokens)).sum(1)
        return total / self._mask.sum(1).clamp_min(1)


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(1)
