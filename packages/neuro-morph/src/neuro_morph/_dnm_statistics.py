"""Moments of groups' units from the activations and gradients that a training loop has kept."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuro_morph._dnm_caches import LayerCaches
from neuro_morph._entries import entries_of
from neuro_morph._features import feature_axis
from neuro_morph._graph import GrowthGraph
from neuro_morph._group_statistics import GroupStatistics, Statistics
from neuro_morph._groups import GrowthGroup
from neuro_morph._inputs import ExampleInputs
from neuro_morph._legal_edges import _samples_in
from neuro_morph._program import Ref
from neuro_morph._statistics import _encoded
from neuro_morph._trunk import _MOVES, Trace


def statistics_of_caches(
    model: nn.Module, graph: GrowthGraph, inputs: ExampleInputs, caches: LayerCaches
) -> Statistics:
    """Returns what the caches show of every group that can grow.

    A group's units are looked at in the last layer that gives them and was cached, one with a
    gradient before others; the gradient of its rows is taken as that of a shift of its units.

    Args:
        model: the model.
        graph: its growth graph.
        inputs: the example inputs the graph was found with.
        caches: what was handed over.
    """
    places = CachedPlaces(model, graph, inputs, caches)
    groups, skipped = {}, {}
    for group in graph:
        if group.growable:
            seen = places.of(group)
            if seen is None:
                skipped[group.id] = "no layer that gives its units is in the caches"
            else:
                groups[group.id] = _measured(group, seen, places, caches)
    return Statistics(groups, skipped, caches.examples)


@dataclass(frozen=True)
class _Seen:
    """Where a group's units are: the layer, the axis of its output, the entries of each unit."""

    path: str
    dim: int
    places: Tensor

    def rows(self, value: Tensor) -> Tensor:
        """Returns ``[examples, positions, C]``."""
        last = value.detach().double().movedim(self.dim, -1)
        held = last.reshape(len(last), -1, last.shape[-1])[..., self.places.to(last.device)]
        return held.transpose(2, 3).flatten(1, 2)


class CachedPlaces:
    """Which cached layers give what."""

    def __init__(
        self, model: nn.Module, graph: GrowthGraph, inputs: ExampleInputs, caches: LayerCaches
    ) -> None:
        self.model, self.graph, self.caches = model, graph, caches
        self.trace = Trace(graph.program)
        self.refs: dict[str, Ref] = {}
        rows = _samples_in(inputs)
        for path, value in caches.activations.items():
            if len(value) == caches.examples and rows is not None:
                ref = self.trace.output_of(path, (rows, *value.shape[1:]))
                if ref is not None:
                    self.refs[path] = ref

    def of(self, group: GrowthGroup) -> _Seen | None:
        """Returns where the group's units are, None if they are nowhere."""
        found = [(self._rank(path), path) for path in self.refs if self._seen(path, group)]
        return self._seen(max(found)[1], group) if found else None

    def read_by(self, path: str) -> str | None:
        """Returns the cached layer whose output a layer reads, None if that is unknown."""
        held = {ref.index: name for name, ref in self.refs.items()}
        ref = self._given(self.refs.get(path))
        while ref is not None and ref.index not in held:
            call = self.trace.maker(ref)
            ref = next(call.inputs()) if call is not None and call.op in _MOVES else None
        return None if ref is None else held[ref.index]

    def before(self, group: GrowthGroup) -> Tensor | None:
        """Returns what the layer that makes the units was given, ``[n, I]``, None if unknown."""
        maker = group.producers[0].rpartition(".")[0] if group.producers else ""
        path = self.read_by(maker)
        if path is None:
            return None
        value = self.caches.activations[path]
        axis = feature_axis(self.model, self.graph, path, self.graph.program.shape(self.refs[path]))
        return value.double().movedim(axis, -1).reshape(len(value), -1, value.shape[axis]).mean(1)

    def _given(self, ref: Ref | None) -> Ref | None:
        """Returns what goes into the operation that gives a tensor, parameters aside."""
        call = None if ref is None else self.trace.maker(ref)
        inputs = [] if call is None else list(call.inputs())
        return next((each for each in inputs if self.trace.parameter(each) is None), None)

    def _rank(self, path: str) -> tuple[bool, int]:
        return path in self.caches.gradients, self.refs[path].index

    def _seen(self, path: str, group: GrowthGroup) -> _Seen | None:
        for dim, axis in enumerate(self.graph.axes(self.refs[path])):
            units = torch.from_numpy(entries_of(axis, group.atom, group.size)[1])
            if dim > 0 and bool((units >= 0).any()):
                rows = [(units == u).nonzero().flatten() for u in range(group.size)]
                return _Seen(path, dim, torch.stack(rows))
        return None


def _measured(
    group: GrowthGroup, seen: _Seen, places: CachedPlaces, caches: LayerCaches
) -> GroupStatistics:
    units, n = seen.rows(caches.activations[seen.path]), caches.examples
    flat = units.flatten(0, 1)
    given = caches.gradients.get(seen.path)
    grads = None if given is None else seen.rows(given) * caches.batch
    each = None if grads is None else grads.sum(1)
    taylor = units.new_full((group.size,), float("nan"))
    return GroupStatistics(
        id=group.id,
        size=group.size,
        unit_cost=group.unit_cost,
        examples=n,
        maker=None,
        readers=[],
        x_x=None,
        unit_mean=flat.mean(0),
        unit_second=flat.T @ flat / len(flat),
        gradient_mean=None if each is None else each.mean(0)[:, None],
        gradient_second=None if each is None else each.square().mean(0)[:, None],
        taylor=taylor if grads is None else (units * grads).sum(1).square().mean(0),
        samples=units.mean(1),
        inputs=places.before(group),
        targets=None if caches.targets is None else _encoded(caches.targets),
        why_no_maker="only activations and gradients are known",
    )
