"""A short training without labels: every budget learns from the model's own full rank."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adlrns_models._calibrate import Forward, default_forward, still, tensors_in
from adlrns_models._checks import check_bool, check_int, check_kind, check_positive
from adlrns_models._elastic import ElasticModel
from adlrns_models._gauge import balance
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._points import (
    Ranks,
    full_rank_copy,
    operating_ranks,
    ranks_kept,
    run_at,
    stored_batches,
)
from adlrns_models._whole import restored_on_error

DistillationLoss = Callable[[Any, Any, Any], Tensor]

# of the steps, how many the learning rate takes to its height
WARM_UP = 0.05


class Distilled(NamedTuple):
    """What a distillation did.

    Attributes:
        losses: of each step, the mean over the operating points that it ran.
        ranks: the operating points that were trained.
    """

    losses: tuple[float, ...]
    ranks: tuple[Ranks, ...]


def relative_error(student: Any, teacher: Any, batch: Any) -> Tensor:
    """Returns ``|s - t|^2 / |t|^2``, its mean over the floating tensors of the outputs."""
    del batch
    pairs = zip(_floating(student), _floating(teacher), strict=True)
    errors = [(s - t).square().sum() / t.square().sum().clamp(min=1e-30) for s, t in pairs]
    if not errors:
        raise ValueError(
            f"the model's output must hold a floating tensor, got {type(student).__name__}; "
            "give loss= to say what matters"
        )
    return torch.stack(errors).mean()


def distill(
    elastic: ElasticModel,
    batches: Iterable[Any],
    *,
    steps: int = 200,
    shares: Sequence[float] = (0.3, 0.4, 0.5, 0.7, 1.0),
    cost: str = "parameters",
    form: str = "factored",
    ranks: Sequence[Mapping[str, int]] | None = None,
    per_step: int = 2,
    lr: float = 0.004,
    forward: Forward = default_forward,
    loss: DistillationLoss = relative_error,
    teacher: nn.Module | None = None,
    train_others: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Distilled:
    """Trains the nested factors until every budget answers more as the full rank does.

    No labels: the target is what the model answers at full rank when the call is made. A step
    runs one batch at several operating points and adds their gradients (a *sandwich*: prefixes
    that train together stay good together); the points take turns. Adam, each tensor's step in
    proportion to its size, with a warm-up and a cosine. The model runs in ``eval`` mode; ranks,
    modes and flags are afterwards what they were, and what is frozen stays as it is.

    Args:
        elastic: trained in place or, on an error, not at all.
        batches: real inputs; they are held, shuffled, and gone through again and again.
        steps: optimizer steps.
        shares: budgets to train, see :meth:`ElasticModel.set_budget`; 1.0, the full rank, keeps
            itself where it is. One share alone is better there and worse elsewhere.
        cost: what they are shares of, ``"parameters"`` or ``"flops"``.
        form: the form that this cost is counted in.
        ranks: operating points instead of ``shares``; layers that one leaves out run at full rank.
        per_step: operating points a step, or all of them if they are fewer.
        lr: the largest step of a tensor, in units of the root of its mean square.
        forward: ``forward(model, batch)``.
        loss: ``loss(student's output, teacher's output, batch)``, a scalar; default: the relative
            squared error.
        teacher: another model to learn from; default: a copy of this one at full rank.
        train_others: whether parameters that are no factors (norms, embeddings) train as well.
        seed: of the order of batches.
        progress: called as ``progress(done, steps)``.

    Raises:
        TypeError, ValueError: for a wrong argument, no batch, or a loss that is not finite.

    Example:
        >>> import torch
        >>> from adlrns_models import distill, make_elastic
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 8))
        >>> x = torch.randn(64, 16)
        >>> elastic = make_elastic(model, [x])
        >>> done = distill(elastic, [x], steps=30, shares=[0.5])
        >>> done.losses[-1] < done.losses[0]
        True

    Source: the sandwich of *Universally Slimmable Networks* (Yu and Huang, ICCV 2019); nested
    factors that learn from the full rank as in FlexRank (arXiv 2602.02680).
    """
    check_kind("elastic", elastic, ElasticModel)
    check_int("steps", steps, 1)
    check_int("per_step", per_step, 1)
    check_positive("lr", lr)
    points = operating_ranks(elastic, shares, cost=cost, form=form, ranks=ranks)
    together = min(per_step, len(points))
    stored = stored_batches(batches)
    learners = _learners(elastic, check_bool("train_others", train_others))
    if teacher is None:
        teacher = full_rank_copy(elastic)
    check_kind("teacher", teacher, nn.Module)
    lesson = _Lesson(elastic, teacher, forward, loss)
    losses = []
    with _classroom(elastic, teacher, learners):
        optimizer, schedule = _optimizer(learners, lr, steps)
        turns = cycle(points)
        for done, number in enumerate(islice(_order(len(stored), seed), steps), 1):
            optimizer.zero_grad()
            losses.append(lesson.run(stored[number], list(islice(turns, together))))
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(done, steps)
    return Distilled(tuple(losses), points)


class _Lesson(NamedTuple):
    elastic: ElasticModel
    teacher: nn.Module
    forward: Forward
    loss: DistillationLoss

    def run(self, batch: Any, points: list[Ranks]) -> float:
        """Adds the gradients of one batch at some operating points; returns their mean loss."""
        with torch.no_grad():
            wanted = self.forward(self.teacher, batch)
        total = 0.0
        for point in points:
            run_at(self.elastic, point)
            value = self.loss(self.forward(self.elastic.network, batch), wanted, batch)
            if not bool(value.isfinite()):
                raise ValueError(f"loss must be finite, got {float(value.detach())}: lower lr")
            if value.requires_grad:
                (value / len(points)).backward()
            total += float(value.detach())
        return total / len(points)


def _classroom(
    elastic: ElasticModel, teacher: nn.Module, learners: list[nn.Parameter]
) -> ExitStack:
    """Everything as before when it ends, and the weights too if it ends by an error."""
    with ExitStack() as stack:
        stack.enter_context(_gradients_kept(learners))
        stack.enter_context(restored_on_error(elastic.network))
        stack.enter_context(ranks_kept(elastic))
        for model in (teacher, elastic.network):
            stack.enter_context(still(model))
        for layer in _free_to_balance(elastic, learners):
            balance(layer)
        for parameter in learners:
            parameter.requires_grad_(True)
        return stack.pop_all()


def _free_to_balance(
    elastic: ElasticModel, learners: list[nn.Parameter]
) -> Iterator[AdaptiveLayer]:
    """Yields the layers all of whose factors learn: balancing rewrites each of them."""
    learning = set(learners)
    for layer in elastic.layers().values():
        if learning.issuperset((layer.down, layer.up, layer.inner_bias)):
            yield layer


@contextmanager
def _gradients_kept(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def _learners(elastic: ElasticModel, others: bool) -> list[nn.Parameter]:
    parts = [elastic.network] if others else list(elastic.layers().values())
    found = {p: None for part in parts for p in part.parameters() if p.requires_grad}
    if not found:
        raise ValueError("elastic must have parameters that require gradients, got none")
    return list(found)


def _optimizer(
    learners: list[nn.Parameter], lr: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam whose steps are ``lr`` times each tensor's root mean square, warmed up and let fade."""
    sizes = [float(p.detach().double().square().mean().sqrt()) for p in learners]
    # a tensor of zeros (a fresh bias) may grow as fast as a typical one
    typical = sorted(sizes)[len(sizes) // 2] or 1.0
    groups = [
        {"params": [p], "lr": lr * (size or typical)}
        for p, size in zip(learners, sizes, strict=True)
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    rising = max(1, round(WARM_UP * steps))

    def height(step: int) -> float:
        return min(1.0, (step + 1) / rising) * 0.5 * (1 + math.cos(math.pi * step / steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, height)


def _order(count: int, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _floating(output: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
