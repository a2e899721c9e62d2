"""The edit that connects two layers of a network (synaptogenesis)."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuro_morph._arguments import check_kind, check_least
from neuro_morph._blocks import like_of
from neuro_morph._edge import ADAPTERS, EdgeShape, GrownEdge, install
from neuro_morph._edit import Performed, Site, Variant
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._features import feature_axis
from neuro_morph._grafts import holder_of, new_name
from neuro_morph._joined import check_joined
from neuro_morph._legal_edges import Flow
from neuro_morph._rehearsal import check_trains
from neuro_morph._undo import UndoLog
from neuro_morph._visits import module_at


@dataclass(frozen=True)
class Connect:
    """Adds what one layer gives to what a later one gives, through an adapter that begins at zero.

    ``y_b = f(...) + A(x_a)`` with ``A = 0``: its gradient ``dL/dA = E[G_b x_a^T]`` is not zero, so
    it learns from the first step. With ``gate="zero"`` the adapter is random or the identity and a
    number in front of it is zero: the gate learns from the first step, the adapter from the second.
    The new layer is registered under ``grown`` and joined in by hooks of its own, which are copied
    and saved with the model. The event has a ``note`` where the network can compute nothing new by
    it: a linear target that reads what the source gives, a second connection of the two.

    Args:
        source: the path of the module whose output is taken.
        target: the path of the module to whose output it is added; it has to end after the source.
        adapter: ``"auto"`` (a matrix on the features, a 1x1 convolution between maps),
            ``"low_rank"`` (a product of two, of rank ``rank``), ``"identity"`` (as many features on
            both sides, with a gate only).
        gate: ``"zero"`` for a gate, None for none.
        rank: of a low-rank adapter; with fewer features on a side, as many as there are there.

    Raises:
        TypeError: if ``source`` or ``target`` is no path or ``rank`` no integer.
        ValueError: for an unknown adapter or gate, a rank below 1, an identity without a gate, a
            module connected to itself.

    Example:
        >>> import torch
        >>> from neuro_morph import Connect, Morpher
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        ... )
        >>> event = Morpher(model, example_inputs=torch.ones(1, 4)).apply(Connect("0", "2"))
        >>> event.parameters_added, event.absolute_change
        (16, 0.0)
    """

    source: str
    target: str
    adapter: str = "auto"
    gate: str | None = None
    rank: int = 4
    op: str = field(default="connect", init=False)

    def __post_init__(self) -> None:
        check_kind(str, source=self.source, target=self.target)
        if self.adapter not in ADAPTERS:
            known = ", ".join(repr(each) for each in ADAPTERS)
            raise ValueError(f"adapter must be one of {known}, got {self.adapter!r}")
        if self.gate not in (None, "zero"):
            raise ValueError(f"gate must be 'zero' or None, got {self.gate!r}")
        check_least(1, whole=True, rank=self.rank)
        if self.adapter == "identity" and self.gate is None:
            raise ValueError("adapter must not be 'identity' without gate='zero'")
        if self.source == self.target:
            raise ValueError(f"target must be another module than source, got {self.target!r}")

    def detail(self) -> dict[str, Any]:
        """Returns the settings, as JSON can hold them."""
        return {name: getattr(self, name) for name in ("source", "adapter", "gate", "rank")}

    def variants(self, site: Site) -> Iterator[Variant]:
        """Yields the one way to carry it out."""
        module_at(site.model, self.source, "source")
        module_at(site.model, self.target, "target")
        flow = Flow(site.model, site.inputs, [self.source, self.target])
        shape = self._shape(site, flow)
        notes = [flow.nothing_new(self.source, self.target)]
        if shape.rank is not None and shape.rank < self.rank:
            notes.append(f"rank is {shape.rank}, as many features as there are on a side")
        note = "; ".join(each for each in notes if each) or None
        yield partial(self._perform, site, shape, note)

    def _shape(self, site: Site, flow: Flow) -> EdgeShape:
        x, y = flow.ends(self.source, self.target)
        axes = [feature_axis(site.model, site.graph, p, t.shape) for p, t in self._with(x, y)]
        features = x.shape[axes[0]], y.shape[axes[1]]
        if self.adapter == "identity" and features[0] != features[1]:
            raise GrowthRefusedError(
                f"an identity cannot connect {features[0]} features of {self.source!r} to "
                f"{features[1]} of {self.target!r}: adapter='auto' can"
            )
        rank = min(self.rank, *features) if self.adapter == "low_rank" else None
        return EdgeShape(
            self.source,
            self.target,
            self.adapter,
            self.gate is not None,
            features,
            (axes[0], axes[1]),
            (x.dim(), y.dim()),
            rank,
            flow.overwritten(self.source),
        )

    def _with(self, x: Tensor, y: Tensor) -> list[tuple[str, Tensor]]:
        return [(self.source, x), (self.target, y)]

    def _perform(self, site: Site, shape: EdgeShape, note: str | None, log: UndoLog) -> Performed:
        with torch.random.fork_rng(devices=()):
            edge = GrownEdge(shape, site.generator)
        target = site.model.get_submodule(self.target)
        edge.to(like_of(target, site.model)).train(target.training)
        name = new_name(site.model, holder_of(site.model, self.target), "edge")
        path = install(site.model, name, edge, log)
        added = dict(edge.named_parameters())
        check_joined(site.model, edge, site.inputs, added.values())
        check_trains(site.model, site.inputs)
        recipe = {"name": name, "shape": asdict(shape)}
        grown = {f"{path}.{key}": self.target for key in added}
        return Performed(added=grown, recipe=recipe, note=note)
