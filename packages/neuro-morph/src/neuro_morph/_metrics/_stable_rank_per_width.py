"""How far the largest direction of the units is from carrying all of them."""

from neuro_morph._group_statistics import GroupStatistics
from neuro_morph._metrics._activation_diversity import stable_rank
from neuro_morph._metrics._metric import add_metric


def stable_rank_per_width(statistics: GroupStatistics) -> float:
    """Returns the stable rank of the units over their number."""
    return stable_rank(statistics.covariance()) / statistics.size


add_metric("stable_rank_per_width", stable_rank_per_width, "stable rank over width")
