"""One model at several depths: the first units of an order are passed by, and back, at once."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import nn

from layer_importance._batch import Call
from layer_importance._depth_gate import Gate, Pass, check_ungated, refuse_copy
from layer_importance._discover import discover
from layer_importance._example import called
from layer_importance._execute.cut import cut
from layer_importance._execute.stand_in import StandIn, makes_more
from layer_importance._task import Task
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
        task: the task or its name, where it calls the model in its own way, as ``translation``
            hands labels to an encoder-decoder; the usual forms if not given.
        call: what to call the model with, if not what ``example`` says.

    Attributes:
        order: names of the units, the one to go first first.

    Raises:
        ValueError: if a unit does not exist, cannot be removed, or hands on what only it can make,
            or the model has gates already.

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
        task: str | Task | None = None,
        call: Call | None = None,
    ) -> None:
        check_ungated(model)
        if isinstance(order, str):
            raise ValueError(f"order must be a list of units or names, got {order!r}")
        self.model = model
        call = called(model, example, task, call)
        if units is None:
            units = discover(model, example, call=call)
        chosen = [_unit(one, units, bridges or {}) for one in order]
        self.order = tuple(unit.name for unit in chosen)
        if len(set(self.order)) < len(self.order):
            raise ValueError(f"order must name each unit once, got {list(self.order)}")
        self._level = 0
        self._pass = Pass()
        gates = self._gates(chosen, call, bridges or {})
        # read before everything else: hooks that were there may run parts of the model
        self._handles = [model.register_forward_pre_hook(self._begin, prepend=True)]
        self._gated: list[tuple[nn.Module, Gate, Any]] = []
        for path, stand_ins in gates.items():
            module = model.get_submodule(path)
            gate = Gate(path, module.forward, stand_ins, self._pass)
            self._gated.append((module, gate, module.__dict__.get("forward")))
            module.__dict__["forward"] = gate

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
        """Takes the gates off: the model is as it was. There are no levels any more."""
        for handle in self._handles:
            handle.remove()
        for module, gate, before in self._gated:
            gate.closed = True
            if module.__dict__.get("forward") is gate:
                del module.__dict__["forward"]
                if before is not None:
                    module.__dict__["forward"] = before
        self._handles, self._gated = [], []

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse_copy(", ".join(self.order))

    def _checked(self, level: int) -> int:
        if not self._handles:
            raise ValueError(f"ElasticDepth must be open to have levels, got {level} after close()")
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

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._pass.level = self.level
        self._pass.runs = {}


def _unit(one: Unit | str, units: Units, bridges: Mapping[str, nn.Module]) -> Unit:
    if isinstance(one, str) and one not in units.names:
        raise ValueError(f"order must name units of the model, got {one!r}; see {units.names[:6]}")
    unit = units[one] if isinstance(one, str) else one
    if not unit.removable and unit.name not in bridges:
        raise ValueError(f"{unit.name} cannot be passed by: it {unit.reason}")
    return unit
