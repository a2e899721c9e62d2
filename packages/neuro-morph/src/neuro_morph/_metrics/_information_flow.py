"""How much of what came before can still be found in the units, and how much of the targets."""

import torch
from torch import Tensor

from neuro_morph._group_statistics import GroupStatistics
from neuro_morph._metrics._metric import add_metric


def undecodable(units: Tensor, inputs: Tensor) -> float:
    """Returns ``1 - R^2`` of ``inputs`` predicted from ``units`` by the best linear map.

    ``R^2`` is adjusted for the number of units; not a number with no more examples than units.

    Args:
        units: ``[n, C]``.
        inputs: ``[n, I]``.
    """
    n, width = units.shape
    if n <= width + 1:
        return float("nan")
    h, x = units - units.mean(0), inputs - inputs.mean(0)
    total = float(x.square().sum())
    if not total:
        return float("nan")
    left = x - h @ (torch.linalg.pinv(h, rtol=1e-10) @ x)
    return float(left.square().sum()) / total * (n - 1) / (n - width - 1)


def hsic(x: Tensor, y: Tensor) -> float:
    """Returns the unbiased estimate of the linear Hilbert-Schmidt independence criterion.

    ``[tr KL + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3))`` with ``K = xx'`` and
    ``L = yy'``, their diagonals set to zero; not a number below four examples.

    Source: Song et al., feature selection via dependence maximization (JMLR 2012), equation 5.
    """
    n = len(x)
    if n < 4:
        return float("nan")
    k, m = x @ x.T, y @ y.T
    k.fill_diagonal_(0)
    m.fill_diagonal_(0)
    sums = float(k.sum() * m.sum()) / ((n - 1) * (n - 2))
    cross = float(k.sum(0) @ m.sum(0)) * 2 / (n - 2)
    return (float((k * m).sum()) + sums - cross) / (n * (n - 3))


def cka(x: Tensor, y: Tensor) -> float:
    """Returns the unbiased linear centred kernel alignment, at most 1.

    Source: Kornblith et al., similarity of representations revisited (ICML 2019); Nguyen et al.,
    wide and deep networks (ICLR 2021), unbiased.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    scale = hsic(x, x) * hsic(y, y)
    return hsic(x, y) / scale**0.5 if scale > 0 else float("nan")


def information_flow(statistics: GroupStatistics) -> float:
    """Returns the part of what the maker was given that cannot be found in the units."""
    if statistics.inputs is None:
        return float("nan")
    return undecodable(statistics.samples, statistics.inputs)


def target_alignment(statistics: GroupStatistics) -> float:
    """Returns the alignment of the units with the targets; not a number without targets."""
    if statistics.targets is None or len(statistics.targets) != len(statistics.samples):
        return float("nan")
    return cka(statistics.samples, statistics.targets)


add_metric("information_flow", information_flow, "what of the layer's input the units lose")
add_metric("target_alignment", target_alignment, "alignment of the units with the targets")
