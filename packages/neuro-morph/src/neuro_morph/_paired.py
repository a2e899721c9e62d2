"""Whether one list of losses is smaller than another of the same examples."""

from dataclasses import dataclass
from math import inf, isfinite, nan

import torch
from scipy import stats
from torch import Tensor

LEAST_PAIRS = 8  # of fewer numbers nobody can tell whether one in ten is of another kind


@dataclass(frozen=True)
class PairedGain:
    """How much smaller losses have become.

    Attributes:
        mean: the mean of the differences.
        lower: a bound that the true mean is above, but for one case in ``1 / level``.
        p_value: how likely a mean as large is if the true one is not above 0.
        pairs: how many examples were compared.
    """

    mean: float
    lower: float
    p_value: float
    pairs: int

    @property
    def why_not(self) -> str:
        """Why it is not enough, where ``lower`` is not above what is asked for."""
        if self.pairs < LEAST_PAIRS:
            return (
                f"a gain needs at least {LEAST_PAIRS} held-out losses to be told from noise, got "
                f"{self.pairs}: give one for each example, or more batches"
            )
        return "its gain is not beyond the noise"


def paired_gain(before: Tensor, after: Tensor, *, level: float = 0.05) -> PairedGain:
    """Returns how much smaller ``after`` is than ``before``, by the one-sided paired t test.

    With fewer than 8 pairs, or numbers that are not finite, nothing is sure: the bound is minus
    infinity and the p value 1. The test is exact for differences that are normal and errs on the
    safe side for symmetric ones with long tails; where a few examples lose much and most gain a
    little it errs more often than ``level`` says, the less so the more pairs there are.

    Raises:
        ValueError: if the lists are not of one length of at least 1, or ``level`` is not between
            0 and 1.

    Example:
        >>> import torch
        >>> from neuro_morph import paired_gain
        >>> before = torch.tensor([3.0, 2.0, 4.0, 3.5, 2.5, 3.0, 4.5, 2.0])
        >>> gain = paired_gain(before, before / 2)
        >>> gain.mean, gain.lower > 1
        (1.53125, True)
        >>> paired_gain(before[:7], before[:7] / 2).lower
        -inf
    """
    if before.shape != after.shape or before.dim() != 1 or not len(before):
        raise ValueError(
            "before and after must be lists of one length of at least 1, got shapes "
            f"{tuple(before.shape)} and {tuple(after.shape)}"
        )
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be between 0 and 1, got {level!r}")
    gains = before.double() - after.double()
    n, mean = len(gains), float(gains.mean())
    if not isfinite(mean):
        return PairedGain(nan, -inf, 1.0, n)
    if n < LEAST_PAIRS:
        return PairedGain(mean, -inf, 1.0, n)
    error = float(gains.std()) / n**0.5
    if error == 0.0:
        return PairedGain(mean, mean, float(mean <= 0.0), n)
    reach = float(stats.t.ppf(1.0 - level, n - 1)) * error
    return PairedGain(mean, mean - reach, float(stats.t.sf(mean / error, n - 1)), n)


def held_out_losses(losses: list[Tensor]) -> Tensor:
    """Returns the losses of batches as one list: of their examples, or one for each batch."""
    return torch.cat([loss.detach().double().reshape(-1) for loss in losses])
