"""Floors, ceilings and ties: what an allocation may not choose freely."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rank_sched._layers import Ints, Layer
from rank_sched._numbers import whole

Bound = int | Mapping[str, int] | None
Ties = Iterable[Sequence[str]]


def constrain(layers: list[Layer], *, r_min: Bound, r_max: Bound, tied: Ties) -> list[Layer]:
    """Return the layers with the choices that the bounds leave, tied ones made one.

    Raises:
        ValueError: A bound or tie names no layer or leaves a layer without a choice; the message
            says which bound would leave one.
        TypeError: A bound is no whole number, or a tie no sequence of names.
    """
    names = [layer.name for layer in layers]
    lows, highs = _bounds("r_min", r_min, names), _bounds("r_max", r_max, names)
    layers = [_within(layer, lows.get(layer.name), highs.get(layer.name)) for layer in layers]
    return _tie(layers, _groups(tied, names))


def _bounds(argument: str, bound: Bound, names: list[str]) -> dict[str, int]:
    if bound is None:
        return {}
    if not isinstance(bound, Mapping):
        return dict.fromkeys(names, whole(argument, bound))
    if unknown := sorted(map(repr, bound.keys() - set(names))):
        raise ValueError(f"{argument} must name layers of loss_curves, got {unknown[0]}")
    return {name: whole(f"{argument}[{name!r}]", value) for name, value in bound.items()}


def _within(layer: Layer, low: int | None, high: int | None) -> Layer:
    if low is None and high is None:
        return layer
    ranks = layer.ranks
    kept = np.flatnonzero(
        (ranks >= (low or 0)) & (ranks <= (ranks.max() if high is None else high))
    )
    if kept.size:
        return _chosen(layer, kept)
    if low is not None and low > ranks.max():
        raise ValueError(
            f"r_min must be at most {ranks.max()} for layer {layer.name!r}, its largest rank, "
            f"got {low}"
        )
    if high is not None and high < ranks.min():
        raise ValueError(
            f"r_max must be at least {ranks.min()} for layer {layer.name!r}, its smallest rank, "
            f"got {high}"
        )
    raise ValueError(
        f"r_min and r_max must leave a rank of layer {layer.name!r}, got {low}..{high}"
    )


def _groups(tied: Ties, names: list[str]) -> list[tuple[str, ...]]:
    groups, seen = [], set[str]()
    for group in tied:
        if isinstance(group, str):
            raise TypeError(f"tied must hold groups of names, got the text {group!r}")
        for name in group:
            if name not in names:
                raise ValueError(f"tied must name layers of loss_curves, got {name!r}")
            if name in seen:
                raise ValueError(f"tied must name a layer once, got {name!r} again")
            seen.add(name)
        groups.append(tuple(group))
    return [group for group in groups if len(group) > 1]


def _tie(layers: list[Layer], groups: list[tuple[str, ...]]) -> list[Layer]:
    """Return the layers with each group in the place of its first member."""
    by_name = {layer.name: layer for layer in layers}
    first: dict[str, Layer] = {}
    absorbed: set[str] = set()
    for group in groups:
        members = [layer for layer in layers if layer.name in group]
        first[members[0].name] = _join([by_name[layer.name] for layer in members])
        absorbed |= {layer.name for layer in members[1:]}
    return [first.get(layer.name, layer) for layer in layers if layer.name not in absorbed]


def _join(members: list[Layer]) -> Layer:
    names = tuple(layer.name for layer in members)
    ranks = members[0].ranks
    for layer in members:
        if len(np.unique(layer.ranks)) != len(layer.ranks):
            raise ValueError(f"ranks of the tied layer {layer.name!r} must differ, got one twice")
        ranks = np.intersect1d(ranks, layer.ranks)
    if not ranks.size:
        raise ValueError(f"tied layers must have a rank in common, {', '.join(names)} have none")
    own = [_chosen(layer, _places(layer.ranks, ranks)) for layer in members]
    return Layer(
        name=names[0],
        costs=np.sum([layer.costs for layer in own], axis=0),
        losses=np.sum([layer.losses for layer in own], axis=0),
        ranks=ranks.astype(np.int64),
        members=names,
    )


def _places(ranks: Ints, wanted: Ints) -> Ints:
    order = np.argsort(ranks)
    return order[np.searchsorted(ranks[order], wanted)]


def _chosen(layer: Layer, kept: Ints) -> Layer:
    return Layer(layer.name, layer.costs[kept], layer.losses[kept], layer.ranks[kept])
