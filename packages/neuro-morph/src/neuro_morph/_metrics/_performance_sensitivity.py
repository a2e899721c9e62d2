"""How much the loss depends on the units that are there."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._group_statistics import GroupStatistics
from neuro_morph._metrics._metric import add_metric
from neuro_morph._tapping import LossFn, batch_size, left_as_it_was


def performance_sensitivity(statistics: GroupStatistics) -> float:
    """Returns the mean over units of ``sqrt(E[(sum h dL/dh)^2])``: what losing one would change.

    It finds important groups, not small ones, and has no weight in the default score.

    Source: Molchanov et al., importance estimation for neural network pruning (CVPR 2019).
    """
    return float(statistics.taylor.sqrt().mean())


def zeroing_damage(
    model: nn.Module, statistics: GroupStatistics, batches: Iterable[Any], loss_fn: LossFn
) -> float:
    """Returns how much the mean loss rises when all units of a group are read as zero."""
    before = after = examples = 0.0
    for batch in batches:
        count = batch_size(batch)
        with torch.no_grad(), left_as_it_was(model):
            before += float(loss_fn(model, batch)) * count
        after += _without(model, statistics, batch, loss_fn) * count
        examples += count
    return (after - before) / examples


def _without(model: nn.Module, statistics: GroupStatistics, batch: Any, loss_fn: LossFn) -> float:
    handles = []
    for reader in statistics.readers:
        places = reader.layer.places.flatten()
        dim = -1 if isinstance(reader.layer.module, nn.Linear) else 1

        def zeroed(_: nn.Module, args: tuple[Any, ...], at: Tensor = places, d: int = dim) -> Any:
            return (args[0].index_fill(d, at.to(args[0].device), 0.0), *args[1:])

        handles.append(model.get_submodule(reader.layer.path).register_forward_pre_hook(zeroed))
    try:
        with torch.no_grad(), left_as_it_was(model):
            return float(loss_fn(model, batch))
    finally:
        for handle in handles:
            handle.remove()


add_metric("performance_sensitivity", performance_sensitivity, "what losing a unit would change")
