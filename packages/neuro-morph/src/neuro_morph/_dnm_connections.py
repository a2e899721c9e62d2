"""Connections that grow between the layers of a network."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from neuro_morph._dnm_caches import LayerCaches
from neuro_morph._dnm_statistics import CachedPlaces
from neuro_morph._edge import fitted
from neuro_morph._edge_scores import EdgeScore
from neuro_morph._edit_connect import Connect
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._features import feature_axis
from neuro_morph._legal_edges import Flow
from neuro_morph._morpher import Morpher


@dataclass(frozen=True)
class ConnectionGrowthManager:
    """Chooses the connection that a network misses most, and grows it.

    Connections lead from cached layers to the layers with parameters that were cached with a
    gradient. With ``x`` what the source gives, ``G`` the negative gradient at the target's output
    and a connection ``A`` that begins at zero, the loss falls at first at the pace
    ``|E[G x']|^2`` of the steepest step of ``A``; it is taken over the connection's parameters.
    What a target reads anyway leads to it already.

    Args:
        adapter: see :class:`Connect`.
        gate: see :class:`Connect`.
    """

    adapter: str = "auto"
    gate: str | None = None

    def scores(self, morpher: Morpher, caches: LayerCaches) -> list[EdgeScore]:
        """Returns the legal connections, that with the largest gain per parameter first."""
        found = [
            _score(morpher, caches, source, target) for source, target in _legal(morpher, caches)
        ]
        return sorted(found, key=lambda each: each.gain_per_parameter, reverse=True)

    def edit(self, score: EdgeScore) -> Connect:
        """Returns the edit that grows a connection."""
        return Connect(score.source, score.target, adapter=self.adapter, gate=self.gate)

    def grow(
        self, morpher: Morpher, caches: LayerCaches, *, reason: str = "asked for"
    ) -> MorphogenesisEvent:
        """Grows the best connection that can be and returns what was measured.

        Raises:
            GrowthRefusedError: if there is none; nothing has changed then.
        """
        refusals: list[str] = []
        for score in self.scores(morpher, caches):
            try:
                return morpher.apply(self.edit(score), reason=reason)
            except GrowthRefusedError as refusal:
                refusals.append(str(refusal))
        raise GrowthRefusedError("; ".join(refusals) or "no two cached layers can be connected")


def _legal(morpher: Morpher, caches: LayerCaches) -> Iterator[tuple[str, str]]:
    model, sources = morpher.model, list(caches.activations)
    targets = [path for path in caches.gradients if _trained(model.get_submodule(path))]
    flow = Flow(model, morpher.inputs, list(dict.fromkeys([*sources, *targets])))
    places = CachedPlaces(model, morpher.graph, morpher.inputs, caches)
    for target in targets:
        for source in sources:
            try:
                flow.ends(source, target)
            except GrowthRefusedError:
                continue
            new = source != target and flow.nothing_new(source, target) is None
            if new and places.read_by(target) != source:
                yield source, target


def _trained(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _score(morpher: Morpher, caches: LayerCaches, source: str, target: str) -> EdgeScore:
    wanted = _last(morpher, target, -caches.gradients[target])
    x = fitted(_last(morpher, source, caches.activations[source]), wanted)
    x = x.expand(*wanted.shape[:-1], -1)
    flat = [each.reshape(-1, each.shape[-1]).double() for each in (x, wanted)]
    moment = flat[0].T @ flat[1]
    return EdgeScore(source, target, float(moment.square().sum()), moment.numel())


def _last(morpher: Morpher, path: str, value: Tensor) -> Tensor:
    """Returns a tensor with its features on the last axis."""
    axis = feature_axis(morpher.model, morpher.graph, path, value.shape)
    return value.movedim(axis, -1)
