"""Whether one list of losses is smaller than another of the same examples."""

from dataclasses import dataclass
from math import inf, isfinite, nan

import torch
from scipy import stats
from torch import Tensor


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


def paired_gain(before: Tensor, after: Tensor, *, level: float = 0.05) -> PairedGain:
    """Returns how much smaller ``after`` is than ``before``, by the one-sided paired t test.

    With a single pair, or numbers that are not finite, nothing is sure: the bound is minus
    infinity and the p value 1.

    Raises:
        ValueError: if the lists are not of one length of at least 1, or ``level`` is not between
            0 and 1.

    Example:
        >>> import torch
        >>> from neuro_morph import paired_gain
        >>> paired_gain(torch.tensor([3.0, 2.0, 4.0]), torch.tensor([2.0, 1.5, 2.5])).mean
        1.0
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
    if n < 2:
        return PairedGain(mean, -inf, 1.0, n)
    error = float(gains.std()) / n**0.5
    if error == 0.0:
        return PairedGain(mean, mean, float(mean <= 0.0), n)
    reach = float(stats.t.ppf(1.0 - level, n - 1)) * error
    return PairedGain(mean, mean - reach, float(stats.t.sf(mean / error, n - 1)), n)


def held_out_losses(losses: list[Tensor]) -> Tensor:
    """Returns the losses of batches as one list: of their examples, or one for each batch."""
    return torch.cat([loss.detach().double().reshape(-1) for loss in losses])
