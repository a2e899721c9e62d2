"""The edit that gives a group more units."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from neuro_morph._attributes import AttributeEdit, epsilons
from neuro_morph._edit import Performed, Site, Variant
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._heads import head_numbers
from neuro_morph._initial import UnitInit, ZeroFanOut
from neuro_morph._masked_norm import masks_of
from neuro_morph._measuring import measure_new_channels
from neuro_morph._plan_widen import Units, fill_of
from neuro_morph._planned import check_sizes
from neuro_morph._report import INITS
from neuro_morph._undo import UndoLog
from neuro_morph._valuing import CannotGrowError, Needs
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
                f"{_other_ways(site, group)}"
            )
        units = self.init.units(site, group, self.by)
        needs = site.graph.needs(group, way)
        _check_readers(site, group, needs, units)
        for rescaled in (False, True) if needs.scored else (False,):
            for small in _epsilons(site, group, needs, units):
                for extra in attempts(site.model, site.graph, group, units.size):
                    numbers = [*extra, *small]
                    yield partial(self._perform, site, group, units, numbers, rescaled)

    def _perform(
        self,
        site: Site,
        group: Any,
        units: Any,
        extra: list[AttributeEdit],
        rescaled: bool,
        log: UndoLog,
    ) -> Performed:
        named = head_numbers(site.model, site.graph, group, units.size)
        try:
            edits = widen(
                site.model, site.graph, group, units, self.init.way, log, site.generator, rescaled
            )
        except CannotGrowError as refusal:
            raise GrowthRefusedError(f"{self.group!r} cannot be widened: {refusal}") from None
        log.set_attributes(site.model, extra)
        measure_new_channels(site.model, site.inputs, edits)
        dims = {m.name: m.dim for m in group.members if "in" in m.kinds}
        check = partial(self._check, site, group, units)
        check()
        late = [(name, dims[name], columns, units.steps) for name, columns in units.late.items()]
        recipe = masks_of(site.model, site.graph.needs(group, self.init.way))
        inexact = self._inexact(site, group, units)
        done = Performed(edits, extra, recipe=recipe, ramps=late, check=check, inexact=inexact)
        done.named = named
        return done

    def _check(self, site: Site, group: Any, units: Any) -> None:
        """Raises NotPlannedError if the model does not make the tensors that were planned."""
        if self.init.way != "masked":  # which runs other operations
            check_sizes(site.model, site.inputs, site.graph, group, units.size)

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


def _check_readers(site: Site, group: Any, needs: Needs, units: Units) -> None:
    """New units with columns of zeros learn only if a layer that reads them is trained."""
    held = tensors_of(site.model)
    readers = [m for m in group.members if "in" in m.kinds]
    if units.columns or units.late or bool((units.parents >= 0).all()):
        return
    frozen = bool(readers) and not any(held[m.name].requires_grad for m in readers)
    random = any(fill_of(member, needs) == "random" for member in readers)
    if frozen and not random and any(p.requires_grad for p in site.model.parameters()):
        raise GrowthRefusedError(
            f"{group.id!r} cannot be widened by units that nothing reads yet: {readers[0].name!r} "
            "is frozen, and so is all that could learn to read them"
        )


def _epsilons(site: Site, group: Any, needs: Needs, units: Units) -> list[list[AttributeEdit]]:
    try:
        return epsilons(site.model, needs, group.size / units.size)
    except CannotGrowError as refusal:
        raise GrowthRefusedError(f"{group.id!r} cannot be widened: {refusal}") from None


def _other_ways(site: Site, group: Any) -> str:
    found = [f"init={INITS[way]}" for way in site.graph.ways(group)]
    return f"; {' or '.join(found)} can do it" if found else ""


def _growable(site: Site, name: str) -> Any:
    group = site.graph[name]
    if not group.growable:
        raise GrowthRefusedError(f"{name!r} cannot grow: {group.reason}")
    return group
