"""Learning on some batches which inputs are worth more ranks."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adlrns_models._batch_rows import agreement, margin, row_count
from adlrns_models._calibrate import Forward, default_forward
from adlrns_models._cascade import Confidence, RankCascade
from adlrns_models._checks import check_int, check_kind
from adlrns_models._elastic import ElasticModel
from rank_sched import OperatingPoint, cascade_frontier

Quality = Callable[[Any, Any, Any], Tensor]


def fit_cascade(
    elastic: ElasticModel,
    batches: Iterable[Any],
    *,
    points: int = 32,
    lead: float = 2.0,
    confidence: Confidence = margin,
    quality: Quality = agreement,
    forward: Forward = default_forward,
) -> RankCascade:
    """Returns a model of per-input ranks, its thresholds fitted on ``batches``. No labels needed.

    Every batch runs at ``points`` operating points, from the cheapest to full rank. All rules of
    the form "run point i, and point j where i is not confident" are weighed by mean FLOPs and mean
    quality; :meth:`RankCascade.set_budget` picks among the best. A fixed point is such a rule, and
    a rule of two must be ahead of the fixed points by more than chance: many thousands are tried.

    Args:
        elastic: the model; it is used, not copied, and keeps its ranks.
        batches: some hundreds of inputs or more that were not trained on: tensors,
            ``(input, ...)`` pairs, or mappings of keyword arguments.
        points: operating points tried, spaced evenly in the logarithm of their cost.
        lead: how many standard errors of the paired difference, input by input, a rule of two
            points must be ahead of fixed points of its cost; 0 takes whatever looks best.
        confidence: ``confidence(output)`` returns how sure an answer is, ``[B]``; any scale.
        quality: ``quality(output, full_output, batch)`` returns how good an answer is, ``[B]``;
            by default, whether it is the full-rank model's. Compare with labels in ``batch`` where
            there are any.
        forward: ``forward(model, batch)``, for other kinds of batches.

    Raises:
        TypeError, ValueError: for a wrong argument, no batch, or outputs without logits where
            ``confidence`` or ``quality`` is left to the default.

    Example:
        >>> import torch
        >>> from adlrns_models import fit_cascade, make_elastic
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
        ... )
        >>> x = torch.randn(256, 16)
        >>> cascade = fit_cascade(make_elastic(model, [x]), [x])
        >>> rule = cascade.set_budget(flops=0.6)
        >>> y = cascade(x)
        >>> bool(cascade.mean_flops <= 0.6)
        True
    """
    check_kind("elastic", elastic, ElasticModel)
    check_int("points", points, 2)
    if isinstance(batches, Tensor):
        raise TypeError("batches must be an iterable of batches, got a Tensor: put it into a list")
    chosen = _spread(elastic, points)
    sure: list[list[Tensor]] = [[] for _ in chosen]
    good: list[list[Tensor]] = [[] for _ in chosen]
    with torch.no_grad():
        for batch in batches:
            outputs = [_at(elastic, point, batch, forward) for point in chosen]
            for k, output in enumerate(outputs):
                sure[k].append(_row("confidence", confidence(output)))
                good[k].append(_row("quality", quality(output, outputs[-1], batch)))
    if not sure[0]:
        raise ValueError("batches must hold at least one batch, got none")
    quality_of = np.stack([torch.cat(rows).numpy() for rows in good])
    rules = cascade_frontier(
        np.stack([torch.cat(rows).numpy() for rows in sure]),
        quality_of,
        [point.cost / elastic.full_cost() for point in chosen],
        lead=lead,
    )
    alone = quality_of.mean(1).tolist()
    return RankCascade(elastic, chosen, alone, rules, confidence=confidence)


def _spread(elastic: ElasticModel, count: int) -> list[OperatingPoint]:
    """Returns operating points from the cheapest to full rank, each once."""
    frontier = elastic.frontier("flops")
    budgets = np.geomspace(frontier.min_cost, frontier.max_cost, count)
    budgets[0], budgets[-1] = frontier.min_cost, frontier.max_cost  # whatever rounding says
    found = {point.cost: point for point in map(frontier.at, budgets.tolist())}
    return [found[cost] for cost in sorted(found)]


def _at(elastic: ElasticModel, point: OperatingPoint, batch: Any, forward: Forward) -> Any:
    with elastic.at(ranks=point.ranks):
        return forward(elastic, batch)


def _row(name: str, values: Tensor) -> Tensor:
    row_count(values, name)
    return values.detach().double().cpu()
