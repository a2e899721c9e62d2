"""The edit that gives a group more units."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from neuro_morph._attributes import AttributeEdit
from neuro_morph._edit import Performed, Site, Variant
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._initial import UnitInit, ZeroFanOut
from neuro_morph._masked_norm import masks_of
from neuro_morph._measuring import measure_new_channels
from neuro_morph._undo import UndoLog
from neuro_morph._valuing import CannotGrowError
from neuro_morph._widening import attempts, tensors_of, widen


@dataclass(frozen=True)
class Widen:
    """Gives a growth group more units, so that the network computes what it did.

    Args:
        group: the group's id (see :meth:`GrowthGraph.groups`).
        by: how many units are added.
        init: how they begin (:class:`ZeroFanOut` by default: random rows that nothing reads yet).

    Raises:
        ValueError: if ``by`` is below 1.

    Example:
        >>> import torch
        >>> from neuro_morph import Morpher, Widen
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        ... )
        >>> morpher = Morpher(model, example_inputs=torch.ones(1, 4))
        >>> morpher.apply(Widen("0", by=2)).parameters_added
        14
    """

    group: str
    by: int
    init: UnitInit = field(default_factory=ZeroFanOut)
    op: str = field(default="widen", init=False)

    def __post_init__(self) -> None:
        if isinstance(self.by, bool) or not isinstance(self.by, int) or self.by < 1:
            raise ValueError(f"by must be an integer of at least 1, got {self.by!r}")

    @property
    def target(self) -> str:
        """The group's id."""
        return self.group

    def detail(self) -> dict[str, Any]:
        """Returns the settings, as JSON can hold them."""
        return {"by": self.by, "init": self.init.describe()}

    def variants(self, site: Site) -> Iterator[Variant]:
        """Yields ways to carry it out: they differ in the numbers of modules that follow."""
        group = _growable(site, self.group)
        _check_kinds(site, group)
        way = self.init.way
        refusal = site.graph.refusal(group, way)
        if refusal is not None:
            raise GrowthRefusedError(
                f"{self.group!r} cannot be widened by {self.init.describe()}: {refusal}"
            )
        units = self.init.units(site, group, self.by)
        scored = bool(site.graph.needs(group, way).scored)
        for rescaled in (False, True) if scored else (False,):
            for extra in attempts(site.model, site.graph, group, units.size):
                yield partial(self._perform, site, group, units, extra, rescaled)

    def _perform(
        self,
        site: Site,
        group: Any,
        units: Any,
        extra: list[AttributeEdit],
        rescaled: bool,
        log: UndoLog,
    ) -> Performed:
        try:
            edits = widen(
                site.model, site.graph, group, units, self.init.way, log, site.generator, rescaled
            )
        except CannotGrowError as refusal:
            raise GrowthRefusedError(f"{self.group!r} cannot be widened: {refusal}") from None
        log.set_attributes(site.model, extra)
        measure_new_channels(site.model, site.inputs, edits)
        dims = {m.name: m.dim for m in group.members if "in" in m.kinds}
        late = [(name, dims[name], columns, units.steps) for name, columns in units.late.items()]
        recipe = masks_of(site.model, site.graph.needs(group, self.init.way))
        return Performed(
            edits, extra, recipe=recipe, ramps=late, inexact=self._inexact(site, group, units)
        )

    def _inexact(self, site: Site, group: Any, units: Any) -> str | None:
        """Returns why copies do not train as what they are copies of, None if they do.

        A norm over all units hands the mean of their gradients back to each of them: copies have
        their share of it only if all shares are the same.
        """
        counted = self.init.way == "equal" and site.graph.refusal(group, "copy") is not None
        if not counted or bool((units.shares == units.shares[0]).all()):
            return None
        return (
            f"{self.group!r} cannot be widened with dynamics='exact': its units are normalised "
            "together, so that copies train as what they are copies of only if all have the same "
            "share, as with Duplicate(share=0.5)"
        )


def _check_kinds(site: Site, group: Any) -> None:
    held = tensors_of(site.model)
    for name in sorted(group.parameters()):
        tensor = held[name]
        kinds = {
            "on the meta device": tensor.is_meta,
            "complex": tensor.is_complex(),
            "quantised": tensor.is_quantized,
            "sparse": tensor.layout != torch.strided,
        }
        found = [kind for kind, is_so in kinds.items() if is_so]
        if found:
            raise GrowthRefusedError(f"{group.id!r} cannot be widened: {name!r} is {found[0]}")
    given = tree_leaves((site.inputs.args, site.inputs.kwargs))
    if any(isinstance(leaf, Tensor) and leaf.numel() == 0 for leaf in given):
        raise GrowthRefusedError(
            f"{group.id!r} cannot be widened: example_inputs are empty, so nothing can be checked"
        )


def _growable(site: Site, name: str) -> Any:
    group = site.graph[name]
    if not group.growable:
        raise GrowthRefusedError(f"{name!r} cannot grow: {group.reason}")
    return group
