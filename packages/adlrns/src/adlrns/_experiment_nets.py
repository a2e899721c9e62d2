"""The networks that `adlrns experiment` compares, all made of one that was trained in full."""

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from torch import Tensor, nn

from adlrns._baselines import PlainSvd
from adlrns._console import stage
from adlrns._errors import UseError
from adlrns._experiment_train import Base, Parts, elastic_of, fit
from adlrns._score import FALLING, batches, score_on
from adlrns._settle import settle
from adlrns_models import (
    AdaptiveLayer,
    ADLRNSTrainer,
    Callback,
    ElasticModel,
    RankCascade,
    fit_cascade,
)
from rank_sched import BudgetError, CascadeFrontier, CascadeRule, OperatingPoint, allocate, uniform

# recovering takes smaller steps than learning
_TUNE_LR = 0.2
# operating points that recover together, as shares of a budget, in turn; full rank comes last
_SHARES = (1.0, 0.35, 1.0, 0.7)


class Candidate(NamedTuple):
    """One row: a network, and the operating points that it serves."""

    name: str
    budget: float | None
    net: nn.Module
    elastic: ElasticModel | None = None
    points: Sequence[OperatingPoint] = ()


def candidates(base: Base) -> list[Candidate]:
    """Returns the rows of a seed, full rank first."""
    with stage(f"seed {base.seed}: make it elastic"):
        elastic = elastic_of(base, base.config.run.sketch_size)
    found = [Candidate("full rank", None, base.dense)]
    least = elastic.frontier("flops").min_cost / elastic.full_cost()
    if min(base.config.run.budgets) < least:
        raise UseError(f"run.budgets must be at least {least:.4f}, got {base.config.run.budgets}")
    for budget in base.config.run.budgets:
        found += [_plain(base, elastic, budget), _ours(base, elastic, budget)]
        found += _adaptive(base, copy.deepcopy(elastic), budget)
    return found


def _plain(base: Base, elastic: ElasticModel, budget: float) -> Candidate:
    """The better of two plain SVDs, by the items held out: uniform and allocated ranks."""
    svd = PlainSvd(base.dense, elastic.profiles)
    nets = []
    for chooser in (uniform, allocate):
        with suppress(BudgetError):  # the same share of every rank cannot be as small
            nets.append(svd.at(svd.tables.choose(chooser, budget)))
    metric = base.parts.task.metric
    sign = -1 if metric in FALLING else 1
    best = max(nets, key=lambda net: sign * score_on(net, batches(base.parts.held), metric))
    return Candidate("static, plain SVD", budget, _tuned(base, best, f"plain SVD, {budget}"))


def _ours(base: Base, elastic: ElasticModel, budget: float) -> Candidate:
    net, _ = settle(elastic, cost="flops", share=budget, form="auto")
    return Candidate("static, ours", budget, _tuned(base, net, f"static, {budget}"))


def _adaptive(base: Base, elastic: ElasticModel, budget: float) -> list[Candidate]:
    """One set of weights for all budgets: settled at this one, and with ranks of its inputs."""
    points = [_point(elastic, share * budget) for share in _SHARES] + [_point(elastic, 1.0)]
    _tuned(base, elastic, f"elastic, {budget}", [_Cycle(points)])
    settled, _ = settle(elastic, cost="flops", share=budget, form="auto")
    found = [Candidate("ADLRNS, settled", budget, settled.eval())]
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
    promised = [-math.inf] * len(cascade.points)
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


def _tuned(base: Base, net: nn.Module, name: str, callbacks: Sequence[Callback] = ()) -> nn.Module:
    epochs, told = base.config.run.tune_epochs, base.config.training(base.seed)
    if epochs:
        net.train()
        rate = _TUNE_LR * told.lr
        fit(base, net, name, epochs=epochs, callbacks=callbacks, lr=rate, patience=None)
    return net.cpu().eval()


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
