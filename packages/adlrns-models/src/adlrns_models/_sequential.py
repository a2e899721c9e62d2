"""Refitting layer by layer, each to the inputs that the compressed layers before it give."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models._calibrate import (
    Forward,
    Objective,
    Observed,
    OutputProbe,
    calibrate,
    default_forward,
    spread,
    still,
)
from adlrns_models._checks import check_bool, check_kind, check_positive
from adlrns_models._cross_moments import CrossMoments
from adlrns_models._elastic import ElasticModel
from adlrns_models._factorize import factorize
from adlrns_models._grouped_conv import AdaptiveGroupedConv2d
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._left_out import tell_left_out
from adlrns_models._order import Order, calls_of, order_of
from adlrns_models._points import (
    Ranks,
    full_rank_copy,
    operating_ranks,
    ranks_kept,
    run_at,
    stored_batches,
)
from adlrns_models._whole import restored_on_error


def refit(
    elastic: ElasticModel,
    batches: Iterable[Any],
    *,
    shares: Sequence[float] = (0.5,),
    cost: str = "parameters",
    form: str = "factored",
    ranks: Sequence[Mapping[str, int]] | None = None,
    correct: bool = True,
    ridge: float = 0.01,
    forward: Forward = default_forward,
    objective: Objective | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Refits every layer to what reaches it when the layers before it are compressed.

    In the order of execution, with ``x`` what a layer saw in the full model, ``z`` what it sees
    now and ``G`` the sensitivity of its output, the layer becomes at every rank the best map
    from ``z`` to its old output, ``min sum (W x - A z)' G (W x - A z)``: with ``C = sum z z'`` and
    ``A* = (sum W x z') C^-1``, the best of all ranks, the truncation of ``A*`` for inputs ``z`` as
    :func:`factorize` does it. Factors stay nested. Layers that share their input (queries, keys,
    values) are done together; the moments of one such set are in memory at a time,
    ``n^2 + sum m n`` numbers. Convolutions of several groups stay as they are. No training, no
    labels.

    Loss curves, and with them the ranks of every budget, stay: they say what layers lose on
    their own. The full rank of a corrected model is no longer the model that was given, and the
    correction is for the budgets named; ``correct=False`` keeps the full rank and only re-orders
    directions.

    Args:
        elastic: changed in place or, on an error, not at all.
        batches: real inputs; they are held and gone through twice for each group of layers. Rows
            that are not finite do not count, and a warning is logged.
        shares: budgets that the layers before run at; with several, inputs of all are mixed.
        cost: what they are shares of, ``"parameters"`` or ``"flops"``.
        form: the form that this cost is counted in.
        ranks: operating points instead of ``shares``; layers that one leaves out run at full rank.
        correct: whether layers make good what those before them lost.
        ridge: how strongly ``A*`` is drawn to ``W``, in units of the mean of ``C``'s diagonal:
            few samples know ``A*`` badly, and directions without inputs keep ``W``.
        forward: ``forward(model, batch)``.
        objective: as in :func:`make_elastic`, for the sensitivities.
        progress: called as ``progress(done, groups)``.

    Raises:
        TypeError, ValueError: for a wrong argument or no batch.

    Example:
        >>> import torch
        >>> from adlrns_models import make_elastic, refit
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 8))
        >>> x = torch.randn(256, 16)
        >>> elastic = make_elastic(model, [x])
        >>> def error():
        ...     elastic.set_budget(parameters=0.4)
        ...     return (elastic(x) - model(x)).square().sum().item()
        >>> before = error()
        >>> refit(elastic, [x], shares=[0.4])
        >>> error() < before
        True

    Source: the closed form is reduced-rank regression (Izenman, J. Multivariate Anal. 5, 1975).
    """
    check_kind("elastic", elastic, ElasticModel)
    check_bool("correct", correct)
    check_positive("ridge", ridge)
    points = operating_ranks(elastic, shares, cost=cost, form=form, ranks=ranks)
    stored = stored_batches(batches)
    objective = OutputProbe() if objective is None else objective
    teacher = full_rank_copy(elastic)
    with ExitStack() as stack:
        stack.enter_context(restored_on_error(elastic.network))
        stack.enter_context(ranks_kept(elastic))
        for model in (teacher, elastic.network):
            stack.enter_context(still(model))
        work = _Refit(elastic, teacher, stored, points, forward, ridge if correct else None)
        work.run(objective, progress or (lambda done, total: None))


class _Refit:
    """One refit: the plain model, the elastic one, and what both are fed."""

    def __init__(
        self,
        elastic: ElasticModel,
        teacher: nn.Module,
        batches: list[Any],
        points: Sequence[Ranks],
        forward: Forward,
        ridge: float | None,
    ):
        self.elastic, self.teacher, self.batches, self.points = elastic, teacher, batches, points
        self.forward, self.ridge = forward, ridge
        layers = elastic.layers().items()
        self.new = {n: mine for n, mine in layers if not isinstance(mine, AdaptiveGroupedConv2d)}
        self.old = {name: _part(teacher, name) for name in self.new}

    def run(self, objective: Objective, report: Callable[[int, int], None]) -> None:
        """Refits all layers in their order."""
        seen, _ = calibrate(
            self.teacher,
            self.old,
            self.batches,
            sketch_size=2,
            forward=self.forward,
            objective=objective,
            watch_inputs=False,
        )
        order = order_of(self.old, self._pass(self.teacher, self.batches[0]))
        left_out = {}
        for done, names in enumerate(order.groups, 1):
            moments = self._moments(names, order)
            left_out[names[0]] = moments.left_out
            for name in names:
                if seen[name].gradient_rows and moments.gram.n_samples_seen:
                    self._fit(name, moments, seen[name])
            report(done, len(order.groups))
        tell_left_out("refit", left_out)

    def _moments(self, names: list[str], order: Order) -> CrossMoments:
        first = self.new[names[0]]
        outputs = {name: self.new[name].sizes[0] for name in names}
        moments = CrossMoments(first.sizes[1], outputs, first.down.device)
        for batch in self.batches:
            old = calls_of(self.old, names, order, self._pass(self.teacher, batch))
            for point in self.points:
                run_at(self.elastic, point)
                new = calls_of(self.new, names, order, self._pass(self.elastic.network, batch))
                for number, (x, _) in enumerate(new[names[0]]):
                    z, where = _rows(first, x)
                    y = {name: _outputs(first, old[name][number][1])[where] for name in names}
                    moments.add(z, y)
        return moments

    def _pass(self, model: nn.Module, batch: Any) -> Callable[[], Any]:
        return partial(self.forward, model, batch)

    @torch.no_grad()
    def _fit(self, name: str, moments: CrossMoments, seen: Observed) -> None:
        layer, plain = self.new[name], self.old[name]
        assert plain.bias is not None  # settled layers have one
        weight, bias = plain.weight.detach().flatten(1), plain.bias.detach()
        if self.ridge is not None:
            weight, bias = moments.best_map(name, weight, self.ridge)
        factors = factorize(weight, bias, moments.gram, sensitivity=seen.sensitivity)
        new = (factors.down.reshape(layer.down.shape), factors.up, factors.inner_bias, factors.bias)
        old = (layer.down, layer.up, layer.inner_bias, layer.outer_bias)
        for mine, value in zip(old, new, strict=True):
            mine.copy_(value)


def _part(model: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    part = model.get_submodule(name) if name else model
    assert isinstance(part, nn.Linear | nn.Conv2d)
    return part


def _rows(layer: AdaptiveLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns at most ``MAX_ROWS`` rows of an input, and which they are."""
    where = spread(layer._row_count(x), x.device)
    return layer._take_rows(x, where), where


def _outputs(layer: AdaptiveLayer, y: Tensor) -> Tensor:
    axis = -1 if len(layer.weight_shape) == 2 else -3
    y = y.movedim(axis, -1)
    return y.reshape(-1, y.shape[-1])
