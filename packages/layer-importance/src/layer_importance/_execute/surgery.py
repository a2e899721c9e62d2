"""The three ways to take units out of a model, in place: compact, bypass, mask."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._entry_points import EXECUTORS as GROUP, loaded, no_function
from layer_importance._execute.configure import reconfigure, repeat_less
from layer_importance._execute.cut import Cut
from layer_importance._execute.renumber import renumber
from layer_importance._execute.stand_in import Refused, StandIn, facts
from layer_importance._structure import stream, with_stream
from layer_importance._units import Unit

Executor = Callable[[nn.Module, Cut], None]


def compact(model: nn.Module, cut: Cut) -> None:
    """Deletes units from the ``ModuleList`` or ``Sequential`` that holds them.

    Numbers in the blocks that stay and in configurations follow. A unit with a bridge keeps its
    place and holds the bridge. Of a module that runs several times, the number of its runs in the
    configuration goes down.

    Raises:
        Refused: if a unit is not an entry of such a container.
    """
    chains: dict[str, list[Unit]] = {}
    for unit in cut.units:
        if unit.call is None:
            chains.setdefault(unit.path.rpartition(".")[0], []).append(unit)
    for path in {unit.path: None for unit in cut.units if unit.call is not None}:
        _repeat(model, path, cut)
    _stand_in(model, [unit for unit in cut.units if unit.name in cut.bridges], cut)
    for container, units in chains.items():
        _shorten(model, container, [unit for unit in units if unit.name not in cut.bridges])


def _shorten(model: nn.Module, container: str, units: Sequence[Unit]) -> None:
    holder = model.get_submodule(container)
    if not units:
        return
    if not isinstance(holder, nn.ModuleList | nn.Sequential):
        kind = type(holder).__name__
        raise Refused(f"{units[0].name} is held by a {kind}, not by a ModuleList or Sequential")
    names, blocks = list(holder._modules), list(holder)
    if len({id(block) for block in blocks}) < len(blocks):
        raise Refused(f"{container or 'the model'} holds one module at several places")
    gone = {names.index(unit.path.rpartition(".")[2]) for unit in units}
    kept = [place for place in range(len(blocks)) if place not in gone]
    for place in sorted(gone, reverse=True):
        del holder[place]
    renumber(blocks, kept)
    reconfigure(model, container, len(blocks), kept)


def _repeat(model: nn.Module, path: str, cut: Cut) -> None:
    """A module that does the same each time: which of its runs goes does not matter."""
    units = [unit for unit in cut.units if unit.path == path]
    if any(unit.name in cut.bridges for unit in units):
        raise Refused(f"{path} runs several times: a bridge cannot take the place of one run")
    if not repeat_less(model, path, cut.calls[path], len(units)):
        raise Refused(f"{path} runs several times, and no configuration says how often")


def bypass(model: nn.Module, cut: Cut) -> None:
    """Puts a :class:`StandIn` in the place of every unit; its weights are gone.

    Raises:
        Refused: if a unit runs several times, or answers with what no file can describe.
    """
    _stand_in(model, cut.units, cut)


def close_ranks(model: nn.Module, cut: Cut) -> None:
    """As :func:`bypass`, with the numbers of those that stay put right, so that no cache has holes.

    Raises:
        Refused: as :func:`bypass`.
    """
    places: dict[str, set[int]] = {}
    for unit in cut.units:
        if (entry := _entry(model, unit.path)) is None:
            raise Refused(f"{unit.name} is in no ModuleList whose entries carry numbers")
        places.setdefault(entry[0], set()).add(entry[1])
    for container, gone in places.items():
        blocks = list(model.get_submodule(container).children())
        renumber(blocks, [place for place in range(len(blocks)) if place not in gone])
    _stand_in(model, cut.units, cut)


def _entry(model: nn.Module, path: str) -> tuple[str, int] | None:
    """The innermost list that holds what is at ``path``, and at which place."""
    parts = path.split(".")
    for end in range(len(parts) - 1, -1, -1):
        holder = model.get_submodule(".".join(parts[:end]))
        if isinstance(holder, nn.ModuleList | nn.Sequential):
            return ".".join(parts[:end]), list(holder._modules).index(parts[end])
    return None


def _stand_in(model: nn.Module, units: Sequence[Unit], cut: Cut) -> None:
    for unit in units:
        if unit.call is not None:
            raise Refused(f"{unit.path} runs several times, and only some of its runs are to go")
        if unit.name not in cut.recipes:
            raise Refused(f"{unit.name} {cut.reasons.get(unit.name, 'did not run')}")
        holder, _, name = unit.path.rpartition(".")
        old = model.get_submodule(unit.path)
        new = StandIn(
            cut.recipes[unit.name],
            zero=unit.removal == "zero",
            bridge=cut.bridges.get(unit.name),
            facts=facts(old),
        )
        model.get_submodule(holder)._modules[name] = new.train(old.training)


def mask(model: nn.Module, cut: Cut) -> None:
    """Lets every unit run and hands on its input, or zeros, instead of its stream: for analysis.

    Whatever else a unit does or hands on (its entry in a cache, a bias for the others) stays.
    """
    runs: dict[str, dict[int | None, Unit]] = {}
    for unit in cut.units:
        runs.setdefault(unit.path, {})[unit.call] = unit
    masks = [_Mask(path, units, cut.bridges) for path, units in runs.items()]
    for one in masks:
        module = model.get_submodule(one.path)
        for number, bridge in enumerate(one.bridges.values()):
            module.add_module(f"bridge_{number}", bridge)  # so that it moves and is saved with it
        module.register_forward_pre_hook(one.before, with_kwargs=True)
        module.register_forward_hook(one.after, with_kwargs=True)
    model.register_forward_pre_hook(_Restart(masks))


class _Mask:
    """Hooks of one module: counts its runs in a forward pass, and masks those of the units."""

    def __init__(
        self, path: str, units: Mapping[int | None, Unit], bridges: Mapping[str, nn.Module]
    ) -> None:
        self.path, self.units = path, units
        names = [unit.name for unit in units.values()]
        self.bridges = {name: bridges[name] for name in names if name in bridges}
        self.run = 0
        self.inputs: list[Tensor | None] = []

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        x = stream((args, kwargs))
        # the unit may write into its input
        self.inputs.append(None if x is None else x.clone())

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        x = self.inputs.pop()
        unit = self.units.get(None) or self.units.get(self.run)
        self.run += 1
        y = stream(output, like=x)
        if unit is None or x is None or y is None:
            return None
        if unit.name in self.bridges:
            return with_stream(output, y, self.bridges[unit.name](x))
        return with_stream(output, y, torch.zeros_like(y) if unit.removal == "zero" else x)


class _Restart:
    def __init__(self, masks: Sequence[_Mask]) -> None:
        self.masks = masks

    def __call__(self, module: nn.Module, args: Any) -> None:
        for one in self.masks:
            one.run = 0
            one.inputs.clear()  # a pass that broke off left its own


EXECUTORS: dict[str, Sequence[Executor]] = {
    "compact": (compact,),
    "bypass": (bypass, close_ranks),
    "mask": (mask,),
}
"""In the order in which they are tried; of those under one name, the first that holds."""


def ways_of(name: str) -> Sequence[Executor]:
    """Returns the executors called so, the package's own or another one's; none if nobody has one.

    Another package offers one by an entry point, group ``layer_importance.executors``.
    """
    if name in EXECUTORS:
        return EXECUTORS[name]
    found: Executor | None = loaded(GROUP, name, no_function)
    return () if found is None else (found,)
