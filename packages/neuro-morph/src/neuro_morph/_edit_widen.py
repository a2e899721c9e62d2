"""The edit that gives a group more units."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from neuro_morph._arguments import check_kind
from neuro_morph._attributes import AttributeEdit, epsilons
from neuro_morph._edit import Performed, Site, Variant
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._heads import head_numbers
from neuro_morph._initial import UnitInit, ZeroFanOut
from neuro_morph._masked_norm import masks_of
from neuro_morph._measuring import measure_new_channels
from neuro_morph._memory import bytes_of_growth, check_fits
from neuro_morph._plan_widen import Units
from neuro_morph._planned import check_sizes
from neuro_morph._report import INITS
from neuro_morph._undo import UndoLog
from neuro_morph._valuing import CannotGrowError, Needs
from neuro_morph._widen_checks import check_kinds, check_readers, why_still
from neuro_morph._widening import attempts, widen


@dataclass(frozen=True)
class Widen:
    """Gives a growth group more units, so that the network computes what it did.

    Units of a layer that is frozen stay frozen, and so do new ones: the event has a ``note`` of it.
    Where those that read them are frozen as well nothing could learn, and the edit is refused; so
    is one that the machine's memory cannot hold.

    Args:
        group: the group's id (see :meth:`GrowthGraph.groups`).
        by: how many units are added.
        init: how they begin (:class:`ZeroFanOut` by default: random rows that nothing reads yet).

    Raises:
        TypeError: if ``group`` is no id or ``init`` no way to begin.
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
        check_kind(str, group=self.group)
        check_kind(UnitInit, init=self.init)
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
        check_kinds(site, group)
        way = self.init.way
        refusal = site.graph.refusal(group, way)
        if refusal is not None:
            raise GrowthRefusedError(
                f"{self.group!r} cannot be widened by {self.init.describe()}: {refusal}"
                f"{_other_ways(site, group)}"
            )
        needed = bytes_of_growth(site.model, group, group.size + self.by, site.optimizers)
        check_fits(f"{self.group!r} with {self.by} more units", needed)
        units = self.init.units(site, group, self.by)
        needs = site.graph.needs(group, way)
        check_readers(site, group, needs, units)
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
        done.named, done.note = named, why_still(site, group)
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
