"""The networks that `adlrns experiment` compares, all made of one that was trained in full."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from adlrns import _experiment_static as static
from adlrns._console import stage
from adlrns._errors import UseError
from adlrns._experiment_static import Candidate
from adlrns._experiment_train import Base, Parts, elastic_of
from adlrns._score import batches
from adlrns_models import (
    AdaptiveLayer,
    ADLRNSTrainer,
    Callback,
    ElasticModel,
    RankCascade,
    fit_cascade,
)
from rank_sched import CascadeFrontier, CascadeRule, OperatingPoint

# operating points that recover together, as shares of a budget, in turn; full rank comes last
_SHARES = (1.0, 0.35, 1.0, 0.7)


def candidates(base: Base) -> list[Candidate]:
    """Returns the rows of a seed, full rank first."""
    with stage(f"seed {base.seed}: make it elastic"):
        elastic = elastic_of(base, base.config.run.sketch_size)
    found = [Candidate("full rank", None, base.dense)]
    least = elastic.frontier("flops").min_cost / elastic.full_cost()
    if min(base.config.run.budgets) < least:
        raise UseError(f"run.budgets must be at least {least:.4f}, got {base.config.run.budgets}")
    for budget in base.config.run.budgets:
        found += [static.plain(base, elastic, budget), static.ours(base, elastic, budget)]
        found += _adaptive(base, copy.deepcopy(elastic), budget)
    return found


def _adaptive(base: Base, elastic: ElasticModel, budget: float) -> list[Candidate]:
    """One set of weights for all budgets: settled at this one, and with ranks of its inputs."""
    points = [_point(elastic, share * budget) for share in _SHARES] + [_point(elastic, 1.0)]
    static.tuned(base, elastic, f"elastic, {budget}", [_Cycle(points)])
    found = [static.settled(base, elastic, budget)]
    cascade = per_input(elastic, base.parts)
    if cascade is None:
        one = elastic.set_budget(flops=budget)
        return [*found, Candidate("ADLRNS", budget, elastic, elastic, [one])]
    cascade = _light(cascade, base.config.run.weights)
    rule = cascade.set_budget(flops=budget)
    if rule.first == len(cascade.points):  # one point of its own, for all inputs
        served = [elastic.point_for(flops=budget)]
    else:
        served = [cascade.points[i] for i in sorted({rule.first, rule.second})]
    return [*found, Candidate("ADLRNS, by input", budget, cascade, elastic, served)]


def _light(cascade: RankCascade, share: float) -> RankCascade:
    """Returns a cascade of the rules alone whose points need no more weights than that."""
    if share == 1:
        return cascade
    limit = share * cascade.elastic.full_cost("parameters")
    layers = cascade.elastic.layers()
    kept = [rule for rule in cascade.rules if _needed(cascade, rule, layers) <= limit]
    if not kept:
        raise UseError(f"run.weights must leave a rule to choose, got {share}")
    # it would prefer a point of its own, of any weights, to rules that promise less
    promised = [-1.0] * len(cascade.points)
    return RankCascade(cascade.elastic, cascade.points, promised, CascadeFrontier(kept))


def _needed(cascade: RankCascade, rule: CascadeRule, layers: Mapping[str, AdaptiveLayer]) -> int:
    points = [cascade.points[i] for i in (rule.first, rule.second)]
    return sum(
        weights_at(layer, [point.ranks[name] for point in points]) for name, layer in layers.items()
    )


def weights_at(layer: AdaptiveLayer, ranks: Sequence[int]) -> int:
    """Returns the weights of a layer that runs at these ranks: one prefix holds all smaller."""
    m, n = layer.sizes
    low = max((rank for rank in ranks if rank <= layer.break_even), default=0)
    return (m * n if max(ranks) > layer.break_even else 0) + low * (m + n)


class _Cycle(Callback):
    """Trains each batch at another operating point; which, the step says."""

    def __init__(self, points: Sequence[OperatingPoint]):
        self.points = points

    def on_train_begin(self, trainer: ADLRNSTrainer) -> None:
        """Sets the first."""
        self._set(trainer)

    def on_batch_end(self, trainer: ADLRNSTrainer, record: dict[str, Any]) -> None:
        """Sets the next."""
        self._set(trainer)

    def _set(self, trainer: ADLRNSTrainer) -> None:
        ranks = self.points[trainer.step % len(self.points)].ranks
        trainer.model.set_ranks(ranks)  # type: ignore[operator]


def _point(elastic: ElasticModel, share: float) -> OperatingPoint:
    frontier = elastic.frontier("flops")
    return frontier.at(max(frontier.min_cost, share * elastic.full_cost()))


def per_input(
    elastic: ElasticModel, parts: Parts, budget: float | None = None
) -> RankCascade | None:
    """Returns a cascade whose ranks follow each input; None where the task has no classes.

    Thresholds are set on items that were not trained on, by their labels.
    """
    if parts.task.kind != "classification":
        return None
    cascade = fit_cascade(elastic, batches(parts.held), quality=_hits).eval()
    if budget is not None:
        cascade.set_budget(flops=budget)
    return cascade


def _hits(output: Tensor, full: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    del full
    return (output.argmax(-1) == batch[1]).double()
