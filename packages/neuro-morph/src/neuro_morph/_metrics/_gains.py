"""What new units would gain at first order, the best few of them."""

from neuro_morph._errors import GrowthRefusedError
from neuro_morph._group_statistics import GAINS, GroupStatistics
from neuro_morph._metrics._metric import add_metric
from neuro_morph._proposals import gains_of

_UNITS = 4  # the same for every group, so that a wide one has no more chances


def tiny_gain(statistics: GroupStatistics, *, units: int = _UNITS) -> float:
    """Returns the gain of the best units in the residual, ``sum s_i(S^-1/2 E[x G_perp'])^2``.

    Where a layer reads too many numbers for the residual, that of the gradient.

    Source: Verbockhaven et al., growing tiny networks (TMLR 2024).
    """
    return _gain(statistics, "residual", "pre", units)


def senn_score(statistics: GroupStatistics, *, units: int = _UNITS) -> float:
    """Returns the natural expansion score of the best units, ``tr(N' S^-1 N K^-1)``.

    Source: Mitchell et al., self-expanding networks (arXiv:2307.04526).
    """
    return _gain(statistics, "residual", "both", units)


def gradmax_score(statistics: GroupStatistics, *, units: int = _UNITS) -> float:
    """Returns the largest squared gradient of new units, ``sum s_i(E[x G'])^2``.

    Source: Evci et al., GradMax (ICLR 2022).
    """
    return _gain(statistics, "gradient", "euclidean", units)


def _gain(statistics: GroupStatistics, target: str, metric: str, units: int) -> float:
    for each in (target, "gradient"):
        try:
            return float(gains_of(statistics, each, metric, units).sum())
        except GrowthRefusedError:
            continue
    return float("nan")


add_metric("tiny_gain", tiny_gain, "first-order gain of new units in the residual", GAINS)
add_metric("senn", senn_score, "natural gain of new units in the residual", GAINS)
add_metric("gradmax", gradmax_score, "largest gradient of new units", GAINS)
