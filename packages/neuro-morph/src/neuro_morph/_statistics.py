"""One pass over batches that measures everything scores and proposals are made from."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuro_morph._accumulators import GroupSums, Limits
from neuro_morph._arguments import check_kind
from neuro_morph._graph import GrowthGraph
from neuro_morph._group_statistics import GAINS, PARTS, Statistics
from neuro_morph._groups import GrowthGroup
from neuro_morph._patches import UnalignedError
from neuro_morph._tapping import LossFn, Tap, batch_size, taps_of
from neuro_morph._unit_layers import NoLayerError, UnitLayer, makers_of, readers_of
from neuro_morph._wrappers import unwrap

TargetsFn = Callable[[Any], Tensor]


def collect_statistics(
    model: nn.Module,
    graph: GrowthGraph,
    batches: Iterable[Any],
    loss_fn: LossFn,
    *,
    targets: TargetsFn | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    parts: Collection[str] = PARTS,
) -> Statistics:
    """Returns what was measured of every group whose units plain layers read.

    The model is run in evaluation mode, once forwards and once backwards for each batch; it is
    left as it was bit for bit, gradients and random state included. Sums are in float64, and so
    are the products of which an inverse is taken; the others are in the model's precision, up to
    the rounding of which nothing depends on how the examples are split into batches. Of the
    positions of a layer every k-th is looked at, so that at most ``limits.positions`` of each
    example stay.

    Args:
        model: the model; of a compiled or parallel one what is inside is run.
        graph: its growth graph.
        batches: batches as ``loss_fn`` takes them.
        loss_fn: ``loss_fn(model, batch)`` gives the mean loss of a batch's examples, or the
            losses of each.
        targets: gives the targets of a batch, class numbers or numbers to be predicted; None takes
            the second entry of batches that are pairs.
        limits: how much of the examples is looked at.
        parts: what is measured beside the units: ``"gains"``, what new units could gain (most of
            the cost), and ``"gradients"``, how examples' gradients vary (the rest of it).

    Raises:
        ValueError: if there are no batches, a loss is not finite, or a part is not known.

    Example:
        >>> import torch
        >>> from neuro_morph import GrowthGraph, collect_statistics
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)
        ... )
        >>> graph = GrowthGraph.capture(model, torch.ones(1, 3))
        >>> data = [(torch.randn(8, 3), torch.randn(8, 2)) for _ in range(4)]
        >>> def loss_fn(model, batch):
        ...     return (model(batch[0]) - batch[1]).square().mean()
        >>> statistics = collect_statistics(model, graph, data, loss_fn)
        >>> statistics.examples, statistics["0"].x_x.shape
        (32, torch.Size([4, 4]))
    """
    model = unwrap(model)
    check_kind(GrowthGraph, graph=graph)
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"parts must be among {', '.join(PARTS)}; got {sorted(unknown)}")
    chosen, skipped = _chosen(model, graph, limits, frozenset(parts))
    paths = dict.fromkeys(path for sums in chosen for path in sums.paths)
    examples, loss, held = 0, 0.0, []
    for batch in batches:
        count = batch_size(batch)
        taps, value = taps_of(model, paths, batch, loss_fn)
        examples, loss = examples + count, loss + value * count
        held.append(_targets(batch, targets))
        chosen = [sums for sums in chosen if _added(sums, taps, count, skipped)]
    if not examples:
        raise ValueError("batches must hold at least one batch")
    known = [t for t in held if t is not None]
    wanted = _encoded(torch.cat(known)[: limits.samples]) if len(known) == len(held) else None
    groups = {sums.group.id: sums.done(examples, wanted) for sums in chosen}
    return Statistics(groups, skipped, examples, loss / examples, frozenset(parts))


def _chosen(
    model: nn.Module, graph: GrowthGraph, limits: Limits, parts: frozenset[str]
) -> tuple[list[GroupSums], dict[str, str]]:
    chosen, skipped = [], {}
    for group in graph:
        if not group.growable:
            continue
        try:
            readers = readers_of(model, group)
        except NoLayerError as why:
            skipped[group.id] = str(why)
            continue
        if readers:
            maker, reason = _maker(model, group, limits)
            chosen.append(GroupSums(group, maker, readers, limits, reason, parts))
        else:
            skipped[group.id] = "no layer reads its units"
    return chosen, skipped


def _maker(
    model: nn.Module, group: GrowthGroup, limits: Limits
) -> tuple[UnitLayer | None, str | None]:
    try:
        makers = makers_of(model, group)
    except NoLayerError as why:
        return None, str(why)
    if len(makers) != 1:
        return None, f"its units are made by {len(makers)} layers"
    rows = makers[0].places.shape[1]
    if rows != 1:
        return None, f"each of its units is {rows} rows of {makers[0].weight!r}"
    weight: Tensor = makers[0].module.weight  # type: ignore[assignment]
    if weight[0].numel() > limits.features:
        return None, f"each unit is made from {weight[0].numel()} numbers, over {limits.features}"
    return makers[0], None


def _added(
    sums: GroupSums, taps: dict[str, list[Tap]], count: int, skipped: dict[str, str]
) -> bool:
    calls = {path: len(taps[path]) for path in sums.paths}
    often = next((path for path, times in calls.items() if times != 1), None)
    if often is not None:
        skipped[sums.group.id] = f"{often!r} was called {calls[often]} times in one run"
        return False
    mine = {path: taps[path][0] for path in sums.paths}
    gains = GAINS in sums.parts and sums.maker is not None
    if gains and (why := _unaligned(sums, mine)):
        sums.maker, sums.why = None, why
    sums.add(mine, count)
    return True


def _unaligned(sums: GroupSums, taps: dict[str, Tap]) -> str | None:
    """Returns why units cannot be laid over what reads them, None if they can."""
    try:
        for reader in sums.readers:
            assert sums.maker is not None
            sums.laid_over(sums.maker, reader, taps, slice(0, 1), torch.tensor([0]))
    except UnalignedError as why:
        return str(why)
    return None


def _targets(batch: Any, given: TargetsFn | None) -> Tensor | None:
    if given is not None:
        return given(batch).detach()
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    return batch[1].detach() if pair and isinstance(batch[1], Tensor) else None


def _encoded(targets: Tensor) -> Tensor:
    """Returns targets as rows of numbers: classes as ones in columns of their own."""
    if not targets.is_floating_point() and targets.dim() == 1:
        return F.one_hot(targets.long()).double()
    return targets.double().flatten(1) if targets.dim() > 1 else targets.double()[:, None]
