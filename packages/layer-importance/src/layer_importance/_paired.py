"""How sure a mean of paired differences is."""

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from layer_importance._moments import Moments
from layer_importance._sharing import Share, gathered


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it lies with the stated confidence."""

    mean: float
    low: float
    high: float
    confidence: float


def t_interval(differences: Moments | Tensor, *, confidence: float = 0.95) -> Interval:
    """Returns Student's interval for the mean of paired differences.

    ``mean ± t((1 + confidence) / 2, n - 1) sd / sqrt(n)``: exact for normal differences, for
    others as good as the central limit theorem. Infinite below two samples.

    Args:
        differences: their moments, or ``[n]`` of them.
        confidence: probability that the interval holds the true mean.

    Raises:
        ValueError: if ``confidence`` is not inside 0..1 or there is no difference.

    Example:
        >>> t_interval(torch.tensor([1.0, 2.0, 3.0]), confidence=0.5).high  # 2 + 0.816 / sqrt(3)
        2.471...
    """
    _check(confidence)
    moments = differences if isinstance(differences, Moments) else _moments(differences)
    if not moments.count:
        raise ValueError("differences must hold at least one number, got none")
    mean, error = float(moments.mean), float(moments.standard_error)
    if moments.count < 2:
        return Interval(mean, -math.inf, math.inf, confidence)
    reach = float(stats.t.ppf((1 + confidence) / 2, moments.count - 1)) * error
    return Interval(mean, mean - reach, mean + reach, confidence)


def bootstrap_interval(
    differences: Tensor, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Returns the BCa bootstrap interval for the mean of paired differences.

    For differences that are far from normal. Where all are equal it is that number.

    Args:
        differences: ``[n]`` of them, at least two.
        confidence: probability that the interval holds the true mean.
        resamples: how many samples are drawn from the sample.
        seed: of what is drawn.

    Raises:
        ValueError: if an argument is out of its range.

    Source: Efron, Better bootstrap confidence intervals, JASA 1987.
    """
    _check(confidence)
    values = differences.detach().to("cpu", torch.float64).numpy()
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"differences must be [n] with n >= 2, got {list(values.shape)}")
    mean = float(values.mean())
    if (values == values[0]).all():
        return Interval(mean, mean, mean, confidence)
    found = stats.bootstrap(
        (values,),
        lambda sample, axis: sample.mean(axis),
        confidence_level=confidence,
        n_resamples=resamples,
        rng=seed,
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), confidence)


class Ratio:
    """The ratio of two means over the same samples, with its error.

    ``E a / E b`` by their sums, and to first order ``Var = (Var a - 2 r Cov(a, b) + r² Var b) /
    (n (E b)²)`` (the delta method).
    """

    def __init__(self) -> None:
        self._moments = Moments((3,))

    def add(self, above: Tensor, below: Tensor) -> None:
        """Adds samples ``[N]`` of both."""
        self._moments.add(
            torch.stack([above.double(), below.double(), (above - below).double()], 1)
        )

    def gathered(self, share: Share) -> "Ratio":
        """Returns that of all processes' samples."""
        found = Ratio()
        found._moments = gathered(share, {"": self._moments})[""]
        return found

    @property
    def value(self) -> float:
        """The ratio; NaN where the denominator is zero."""
        above, below, _ = self._moments.mean.tolist()
        return above / below if below else math.nan

    @property
    def standard_error(self) -> float:
        """Of the ratio; NaN below two samples."""
        moments, ratio = self._moments, self.value
        a, b, difference = moments.variance.tolist()
        covariance = (a + b - difference) / 2
        variance = max(a - 2 * ratio * covariance + ratio**2 * b, 0.0)
        below = abs(float(moments.mean[1]))
        return math.sqrt(variance / moments.count) / below if below else math.nan


def _moments(differences: Tensor) -> Moments:
    moments = Moments()
    moments.add(differences)
    return moments


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be inside 0..1, got {confidence}")
