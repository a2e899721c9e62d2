"""The rows of one rank for all inputs, and what all rows are made with."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from torch import Tensor, nn

from adlrns._baselines import PlainSvd, elastic_at
from adlrns._experiment_train import Base, fit
from adlrns._score import FALLING, batches, score_on
from adlrns._settle import forms_of, settle, settled_as
from adlrns_models import Callback, ElasticModel
from rank_sched import BudgetError, OperatingPoint, allocate, uniform

# recovering takes smaller steps than learning
_TUNE_LR = 0.2


class Candidate(NamedTuple):
    """One row: a network, and the operating points that it serves; the forms of what is settled."""

    name: str
    budget: float | None
    net: nn.Module
    elastic: ElasticModel | None = None
    points: Sequence[OperatingPoint] = ()
    forms: dict[str, int] | None = None


def plain(base: Base, elastic: ElasticModel, budget: float) -> Candidate:
    """Returns the better of two plain SVDs, by the items held out: uniform and allocated ranks."""
    svd = PlainSvd(base.dense, elastic.profiles)
    points = []
    for chooser in (uniform, allocate):
        with suppress(BudgetError):  # the same share of every rank cannot be as small
            points.append(svd.tables.choose(chooser, budget))
    metric = base.parts.task.metric
    sign = -1 if metric in FALLING else 1
    best = max(points, key=lambda p: sign * score_on(svd.at(p), batches(base.parts.held), metric))
    name = f"plain SVD, {budget}"
    if for_time(base):
        net = fastest(base, tuned(base, svd.ranked(best), name))
    else:
        net = tuned(base, svd.at(best), name)
    return settled_row("static, plain SVD", budget, net, elastic)


def ours(base: Base, elastic: ElasticModel, budget: float) -> Candidate:
    """Returns factors for the inputs at ranks that were allocated."""
    name = f"static, {budget}"
    if for_time(base):
        net = fastest(base, tuned(base, elastic_at(elastic, elastic.point_for(flops=budget)), name))
    else:
        net, _ = settle(elastic, cost="flops", share=budget, form="auto")
        net = tuned(base, net, name)
    return settled_row("static, ours", budget, net, elastic)


def settled(base: Base, elastic: ElasticModel, budget: float) -> Candidate:
    """Returns weights that serve every budget, as plain layers at this one."""
    form, x = base.config.run.form, example(base) if for_time(base) else None
    net, _ = settle(elastic, cost="flops", share=budget, form=form, batch=x)
    return settled_row("ADLRNS, settled", budget, net.eval(), elastic)


def settled_row(name: str, budget: float, net: nn.Module, elastic: ElasticModel) -> Candidate:
    """Returns the row of a network that is plain layers."""
    return Candidate(name, budget, net, forms=forms_of(net, elastic.profiles))


def for_time(base: Base) -> bool:
    """Returns whether layers are settled in the form that takes the least time.

    Such networks are trained before they are settled: a run that goes on after it was cut short may
    find another form the fastest, and must find the weights that it had.
    """
    return base.config.run.form == "fastest"


def fastest(base: Base, net: nn.Module) -> nn.Module:
    """Returns a network with ranks as plain layers, each in its fastest form here."""
    return settled_as(net, "fastest", example(base)).eval()


def example(base: Base) -> Tensor:
    """Returns a batch of the size that is timed, of training inputs."""
    x, _ = next(batches(base.parts.task.train, size=base.config.run.batch))
    return x


def tuned(base: Base, net: nn.Module, name: str, callbacks: Sequence[Callback] = ()) -> nn.Module:
    """Returns a network of low rank after it has recovered."""
    epochs, told = base.config.run.tune_epochs, base.config.training(base.seed)
    if epochs:
        net.train()
        rate = _TUNE_LR * told.lr
        fit(base, net, name, epochs=epochs, callbacks=callbacks, lr=rate, patience=None)
    return net.cpu().eval()
