"""Weights that smaller factors would almost do for."""

from collections.abc import Collection

import torch
from torch import nn

from layer_importance._subject import Subject


def low_ranks(
    subject: Subject, removed: Collection[str], *, energy: float = 0.99, largest: int = 4096
) -> dict[str, int]:
    """Returns the least rank that keeps ``energy`` of each weight ``[M, N]``, where that pays.

    Of linear layers in units that stay; only where ``rank (M + N) < M N``. The error of cutting at
    rank ``r`` is ``sum_{i > r} s_i²`` exactly (Eckart and Young), which says nothing of what the
    data make of it.

    Args:
        subject: what is studied.
        removed: names of units that go.
        energy: share of ``sum s_i²`` to keep.
        largest: weights longer on their short side are left out.
    """
    found: dict[str, int] = {}
    for unit in subject.units:
        if unit.name in removed:
            continue
        for path, module in subject.module(unit).named_modules():
            weight = module.weight if isinstance(module, nn.Linear) else None
            if weight is None or weight.is_meta or min(weight.shape) > largest:
                continue
            rank = _rank(weight.detach(), energy)
            if rank * sum(weight.shape) < weight.numel():
                found[f"{unit.path}.{path}".strip(".")] = rank
    return found


def _rank(weight: torch.Tensor, energy: float) -> int:
    squares = torch.linalg.svdvals(weight.double()).square()
    if not float(squares.sum()) > 0:
        return 0
    share = squares.cumsum(0) / squares.sum()
    return min(int((share < energy - 1e-12).sum()) + 1, len(share))
