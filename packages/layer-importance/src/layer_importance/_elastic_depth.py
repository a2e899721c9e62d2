"""One model at several depths: the first units of an order are passed by, and back, at once."""

import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from layer_importance._batch import Call, inputs, without_cache
from layer_importance._discover import discover
from layer_importance._execute.cut import cut
from layer_importance._execute.stand_in import StandIn, makes_more
from layer_importance._units import Unit, Units


class ElasticDepth:
    """Gates around units of a model: at level ``k`` the first ``k`` of an order are passed by.

    Level 0 is the model, bit for bit. Setting a level is one assignment, whatever the model's size;
    a forward pass reads it once, when it begins, so that another thread's change never meets a pass
    half-way. :meth:`at` holds a level for the passes of one thread, such as those of one sequence
    that is being written: a cache filled at one depth does not fit another.

    Args:
        model: gets the gates, its weights and their names stay; :meth:`close` takes them off.
        order: units or their names, the one to go first first.
        example: one batch in the form the task reads.
        bridges: modules that stand in for units while they are passed by, by name.
        units: the model's units, if known.
        call: what to call the model with, if not what ``example`` says.

    Attributes:
        order: names of the units, the one to go first first.

    Raises:
        ValueError: if a unit does not exist, cannot be removed, or hands on what only it can make.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        ...     def forward(self, x):
        ...         return x + self.down(torch.relu(self.up(x)))
        >>> net, x = nn.Sequential(*[Block() for _ in range(3)]), torch.randn(4, 8)
        >>> elastic = ElasticDepth(net, ["1", "0"], example=x)
        >>> elastic.set_level(1)
        >>> torch.equal(net(x), net[2](net[0](x)))
        True
        >>> elastic.close()
    """

    def __init__(
        self,
        model: nn.Module,
        order: Sequence[Unit | str],
        *,
        example: Any,
        bridges: Mapping[str, nn.Module] | None = None,
        units: Units | None = None,
        call: Call | None = None,
    ) -> None:
        self.model = model
        call = without_cache(model, inputs(example) if call is None else call)
        if units is None:
            units = discover(model, example, call=call)
        chosen = [_unit(one, units, bridges or {}) for one in order]
        self.order = tuple(unit.name for unit in chosen)
        if len(set(self.order)) < len(self.order):
            raise ValueError(f"order must name each unit once, got {list(self.order)}")
        self._level = 0
        self._pass = _Pass()
        gates = self._gates(chosen, call, bridges or {})
        # read before everything else: hooks that were there may run parts of the model
        self._handles = [model.register_forward_pre_hook(self._begin, prepend=True)]
        self._before = {path: model.get_submodule(path).__dict__.get("forward") for path in gates}
        for path, stand_ins in gates.items():
            module = model.get_submodule(path)
            module.__dict__["forward"] = self._gate(path, module.forward, stand_ins)

    @property
    def levels(self) -> int:
        """The deepest level: all of the order passed by."""
        return len(self.order)

    @property
    def level(self) -> int:
        """How many units the next pass goes by."""
        pinned = self._pass.pinned
        return self._level if pinned is None else pinned

    def set_level(self, level: int) -> None:
        """Sets how many units are passed by from the next pass on, in all threads.

        Raises:
            ValueError: if there are not so many.
        """
        self._level = self._checked(level)

    @contextmanager
    def at(self, level: int) -> Iterator[None]:
        """Holds a level for this thread inside, whatever :meth:`set_level` says meanwhile.

        Raises:
            ValueError: if there are not so many units.
        """
        outer, self._pass.pinned = self._pass.pinned, self._checked(level)
        try:
            yield
        finally:
            self._pass.pinned = outer

    def close(self) -> None:
        """Takes the gates off: the model is as it was."""
        for handle in self._handles:
            handle.remove()
        for path, forward in self._before.items():
            module = self.model.get_submodule(path)
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
        self._handles, self._before = [], {}

    def _checked(self, level: int) -> int:
        number = operator.index(level)
        if not 0 <= number <= self.levels:
            raise ValueError(f"level must be in 0..{self.levels}, got {level}")
        return number

    def _gates(
        self, chosen: Sequence[Unit], call: Call, bridges: Mapping[str, nn.Module]
    ) -> dict[str, dict[int | None, tuple[int, StandIn]]]:
        """By path and run: at which level a unit goes, and what stands in for it."""
        shown = cut(self.model, call, chosen, bridges)
        gates: dict[str, dict[int | None, tuple[int, StandIn]]] = {}
        for place, unit in enumerate(chosen):
            recipe = shown.recipes.get(unit.name)
            if recipe is None or makes_more(recipe):
                why = shown.reasons.get(unit.name, "hands on what only it can make")
                raise ValueError(f"{unit.name} cannot be passed by: it {why}")
            stand_in = StandIn(
                recipe, zero=unit.removal == "zero", bridge=bridges.get(unit.name)
            ).train(self.model.training)
            gates.setdefault(unit.path, {})[unit.call] = (place, stand_in)
        return gates

    def _gate(self, path: str, run: Any, stand_ins: dict[int | None, tuple[int, StandIn]]) -> Any:
        current = self._pass
        once = stand_ins.get(None)

        def forward(*args: Any, **kwargs: Any) -> Any:
            found = once
            if found is None:
                number = current.runs.get(path, 0)
                current.runs[path] = number + 1
                found = stand_ins.get(number)
            if found is not None and found[0] < current.level:
                return found[1](*args, **kwargs)
            return run(*args, **kwargs)

        return forward

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._pass.level = self.level
        self._pass.runs = {}


class _Pass(threading.local):
    """One thread's forward pass."""

    def __init__(self) -> None:
        self.level = 0
        self.pinned: int | None = None
        self.runs: dict[str, int] = {}


def _unit(one: Unit | str, units: Units, bridges: Mapping[str, nn.Module]) -> Unit:
    if isinstance(one, str) and one not in units.names:
        raise ValueError(f"order must name units of the model, got {one!r}; see {units.names[:6]}")
    unit = units[one] if isinstance(one, str) else one
    if not unit.removable and unit.name not in bridges:
        raise ValueError(f"{unit.name} cannot be passed by: it {unit.reason}")
    return unit
