"""Which modules own the parameters of which units, and how their gradients are found."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from layer_importance._opened import projection_of
from layer_importance._per_sample import formula_of
from layer_importance._units import Unit

Way = Literal["formula", "vmap", "alone", "loop"]
ORDER: tuple[Way, ...] = ("formula", "vmap", "alone", "loop")
"""From the cheapest to the one that is always right."""


@dataclass(slots=True)
class Owner:
    """A module with parameters of its own that belong to units.

    Attributes:
        path: where it is.
        place: whose layout it has: its own, or that of the attention module that it is a part of.
        module: the module.
        names: its own parameters that require gradients.
        units: the units it is in, by name: units that are all calls of a module.
        calls_of: paths of the units it is in that are one of several calls of a module.
        shared: whether one of its parameters is used outside of these units, too.
        way: how its gradients are found.
        why: why not in a cheaper way.
        axes: the dimension of each tensor it is called with that holds samples.
        gives_sum: whether the sum of gradients over samples is cheaper by the formula.
        altered: whether what comes out of it may not be what its type computes.
    """

    path: str
    place: str
    module: nn.Module
    names: tuple[str, ...]
    units: tuple[str, ...]
    calls_of: tuple[str, ...]
    shared: bool
    way: Way
    why: str = ""
    axes: tuple[int, ...] | None = None
    gives_sum: bool = False
    altered: bool = False

    @property
    def parameters(self) -> list[Tensor]:
        """Its own parameters that require gradients."""
        return [getattr(self.module, name) for name in self.names]

    def next_way(self, why: str) -> None:
        """Goes on to the next costlier way."""
        self.way, self.why = ORDER[ORDER.index(self.way) + 1], why

    @property
    def sums(self) -> bool:
        """Whether the sum of its gradients over samples is to come from its formula.

        Not where its parameters have gradients through others, too.
        """
        return self.gives_sum and self.way == "formula" and bool(self.units) and not self.shared

    @property
    def refusal(self) -> str:
        """Why its gradients cannot be told from others'; empty if they can."""
        if self.way == "loop" and (self.shared or self.calls_of):
            return f"parameters of {self.path} are used elsewhere, too, and have no formula"
        return ""


def owners(model: nn.Module, units: Iterable[Unit]) -> dict[str, Owner]:
    """Returns the owners of all units' parameters that require gradients, by path.

    A parameter that several modules of the same units hold belongs to the first of them.
    """
    around = _around(model, list(units))
    parents = _attention(model)
    holders = _holders(model)
    found: dict[str, Owner] = {}
    for path, module in model.named_modules():
        mine, names, shared, tied = around[module], [], False, False
        for name, parameter in _own(module):
            inside = [m for m in holders[id(parameter)] if around[m] == mine]
            outside = len(inside) < len(holders[id(parameter)])
            if parameter.requires_grad and mine and inside[0] is module:
                names.append(name)
                shared, tied = shared or outside, tied or (outside and len(inside) > 1)
        if not names:
            continue
        place = parents.get(module, path)
        # the packed weights of attention are those of a linear layer
        if (projection := projection_of(module)) is not None:
            module, names = projection, [name.removeprefix("in_proj_") for name in names]
        way: Way = "formula" if formula_of(module) is not None else "vmap"
        whole = tuple(u.name for u in mine if u.call is None)
        called = () if whole else tuple(dict.fromkeys(u.path for u in mine))
        way = "loop" if tied else way
        found[path] = Owner(path, place, module, tuple(names), whole, called, shared, way)
        found[path].altered = bool(module._forward_hooks) or "forward" in vars(module)
    return found


def _attention(model: nn.Module) -> dict[nn.Module, str]:
    """Output projections of opened attention modules, and where those are."""
    return {
        module.get_submodule("out_proj"): path
        for path, module in model.named_modules()
        if projection_of(module) is not None
    }


def _around(model: nn.Module, units: list[Unit]) -> dict[nn.Module, list[Unit]]:
    """The units that each module is in."""
    found: dict[nn.Module, list[Unit]] = {module: [] for module in model.modules()}
    for unit in units:
        for module in model.get_submodule(unit.path).modules():
            found[module].append(unit)
    return found


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(n, p) for n, p in module._parameters.items() if p is not None]


def _holders(model: nn.Module) -> dict[int, list[nn.Module]]:
    """The modules that hold each parameter."""
    found: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for _, parameter in _own(module):
            found.setdefault(id(parameter), []).append(module)
    return found


def summary(found: Iterable[Owner]) -> tuple[str, ...]:
    """Returns in words which modules took which way, for the report."""
    lines = []
    for way in ORDER:
        taken = [owner for owner in found if owner.way == way]
        kinds = Counter(type(owner.module).__name__ for owner in taken)
        if taken:
            what = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            why = {owner.why for owner in taken if owner.why}
            because = f" ({'; '.join(sorted(why)[:3])})" if why else ""
            lines.append(f"per-sample gradients by {way}: {what}{because}")
    return tuple(lines)
