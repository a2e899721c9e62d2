"""The part of the units' directions that are not negligible."""

import torch

from neuro_morph._group_statistics import GroupStatistics
from neuro_morph._metrics._metric import add_metric


def north_count(statistics: GroupStatistics, *, epsilon: float = 0.01) -> float:
    """Returns ``|{sigma_i(H / sqrt n) > epsilon}| / C`` of the units ``H``, not centred.

    Source: Maile, Rachelson, Luga, Wilson, when, where and how to add new neurons (AutoML 2022).
    """
    values = torch.linalg.eigvalsh(statistics.unit_second).clamp(min=0).sqrt()
    return float((values > epsilon).sum()) / statistics.size


add_metric("north", north_count, "part of the directions above a floor")
