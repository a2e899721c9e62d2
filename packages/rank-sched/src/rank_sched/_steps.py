"""All layers in one list of steps, the best gain per cost first."""

from dataclasses import dataclass

import numpy as np

from rank_sched._hull import lower_hull, undominated
from rank_sched._layers import Floats, Ints, Layer


@dataclass(frozen=True, eq=False)
class Steps:
    """The undominated choices of all layers in flat arrays, and the steps between their vertices.

    A step leads from one vertex of a layer's hull to the next. Steps are numbered layer by layer;
    `order` lists them by falling gain per cost, ties as numbered, so that the steps of one layer
    keep their order and the first i of the list are a valid choice for every i.

    Attributes:
        names: Names in the order given, `[N]`; more than layers where some are tied.
        group: Layer of each name, `[N]`.
        ranks, costs, losses: The undominated choices, `[C]`, layer by layer, by rising cost.
        vertices: Where the vertices of the hulls are among the choices, `[V]`, layer by layer.
        first: Number of the first vertex of each layer, `[L]`.
        layer, start, stop: Layer of each step and the choices it leads from and to, `[S]`.
        rate: Gain per cost of each step, `[S]`.
        order: The steps by falling rate, `[S]`.
    """

    names: list[str]
    group: Ints
    ranks: Ints
    costs: Floats
    losses: Floats
    vertices: Ints
    first: Ints
    layer: Ints
    start: Ints
    stop: Ints
    rate: Floats
    order: Ints

    def choices_of(self, layers: Ints) -> tuple[Ints, Ints]:
        """Return the choices of these layers in one list, and the layer of each before it."""
        ends = np.append(self.first, len(self.vertices))
        low = self.vertices[self.first[layers]]
        counts = self.vertices[ends[layers + 1] - 1] + 1 - low
        shift = np.repeat(low - _starts(counts.tolist()), counts)
        return np.repeat(layers, counts), np.arange(len(shift)) + shift


def build_steps(layers: list[Layer], *, names: list[str]) -> Steps:
    """Return the sorted steps of these layers, which have these members."""
    number = {name: i for i, x in enumerate(layers) for name in x.members or (x.name,)}
    kept = [undominated(layer.costs, layer.losses) for layer in layers]
    costs = np.concatenate([layer.costs[k] for layer, k in zip(layers, kept, strict=True)])
    losses = np.concatenate([layer.losses[k] for layer, k in zip(layers, kept, strict=True)])
    offsets = _starts([len(k) for k in kept])
    hulls = [
        offset + lower_hull(costs[offset : offset + len(k)], losses[offset : offset + len(k)])
        for offset, k in zip(offsets, kept, strict=True)
    ]
    counts = [len(hull) - 1 for hull in hulls]
    start = np.concatenate([hull[:-1] for hull in hulls])
    stop = np.concatenate([hull[1:] for hull in hulls])
    rate = _falling(_rates(costs, losses, start, stop), counts)
    return Steps(
        names=names,
        group=np.array([number[name] for name in names], dtype=np.int64),
        ranks=np.concatenate([layer.ranks[k] for layer, k in zip(layers, kept, strict=True)]),
        costs=costs,
        losses=losses,
        vertices=np.concatenate(hulls),
        first=_starts([len(hull) for hull in hulls]),
        layer=np.repeat(np.arange(len(layers)), counts),
        start=start,
        stop=stop,
        rate=rate,
        order=np.argsort(-rate, kind="stable"),
    )


def _starts(counts: list[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def _rates(costs: Floats, losses: Floats, start: Ints, stop: Ints) -> Floats:
    with np.errstate(over="ignore"):
        return (losses[start] - losses[stop]) / (costs[stop] - costs[start])


def _falling(rates: Floats, counts: list[int]) -> Floats:
    # rounding along an edge of the hull must not turn the order of a layer's own steps
    for offset, count in zip(_starts(counts), counts, strict=True):
        own = rates[offset : offset + count]
        np.minimum.accumulate(own, out=own)
    return rates
