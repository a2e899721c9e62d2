"""All dynamic layers of a model at once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from adlrns_models._checks import check_int, check_kind
from adlrns_models._dynamic import DynamicLayer
from adlrns_models._dynamic_budget import Budget, amount_of, check_amount, check_unit


def iter_dynamic_layers(model: nn.Module) -> Iterator[DynamicLayer]:
    """Yields every dynamic layer of ``model`` once, in the order of its modules."""
    check_kind("model", model, nn.Module)
    return (module for module in model.modules() if isinstance(module, DynamicLayer))


@contextmanager
def rank_budget(
    model: nn.Module, budget: float, unit: str | None = None, *, batch: int = 1
) -> Iterator[None]:
    """Has every dynamic layer of a model decide under a budget, inside a ``with`` block.

    Each layer gets what ``r_min`` costs there, and of the rest its part of what the largest ranks
    cost more: together they spend no more than the budget wherever it pays for ``r_min`` in all
    layers, and run at ``r_min`` where it does not. A share of the FLOPs is the share of every
    layer, and one that cannot keep to it runs at ``r_min``. Costs are of samples of the size that a
    layer saw last: run the model once before, or convolutions are weighed as if they had a single
    position.

    Args:
        model: any module.
        budget: in ``unit``, for one sample.
        unit: ``"energy_mj_per_sample"`` or ``"latency_s"``, predicted by the layers' estimators
            for all their layers in all, or ``"flops"``, a share of the dense FLOPs. None is the
            first layer's ``budget_unit``.
        batch: samples of the calls that costs are predicted for: they share the joules of a call,
            its launches among them, and each waits for all of its seconds.

    Raises:
        ValueError, TypeError: for an unknown unit, a budget that is negative or no number, a batch
            below 1, or a model without dynamic layers.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, rank_budget
        >>> layer = DynamicLinear(64, 64)
        >>> with rank_budget(layer, 0.25, "flops"):
        ...     y = layer(torch.randn(8, 64))
        >>> layer.last_rank <= 8  # 8 (64 + 64) is a quarter of 64 * 64
        True
    """
    layers = list(iter_dynamic_layers(model))
    if not layers:
        raise ValueError("model must have a dynamic layer, got none")
    unit = check_unit("unit", layers[0].budget_unit if unit is None else unit)
    total = check_amount(budget)
    check_int("batch", batch, 1)
    parts = _parts(layers, total, unit, batch)
    before = [layer._budget for layer in layers]
    try:
        for layer, part in zip(layers, parts, strict=True):
            layer._spend_at_most(Budget.of(part, unit, batch))
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer._spend_at_most(old)


def _parts(layers: list[DynamicLayer], total: float, unit: str, batch: int) -> list[float]:
    """Returns what each layer may spend."""
    if unit == "flops" or math.isinf(total):
        return [total] * len(layers)
    least = [amount_of(layer, layer.r_min, unit, batch) for layer in layers]
    more = [
        amount_of(layer, layer.max_rank, unit, batch) - low
        for layer, low in zip(layers, least, strict=True)
    ]
    share = max(0.0, total - sum(least)) / (sum(more) or 1.0)
    return [low + share * extra for low, extra in zip(least, more, strict=True)]
