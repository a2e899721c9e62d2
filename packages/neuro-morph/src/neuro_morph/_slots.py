"""Entries of parameters that an optimizer is to see otherwise than they are.

An optimizer works on whole tensors. Where some entries have to move at another pace, the table
below steps in around its step: before it, an entry ``p`` becomes ``q = p / value`` and its
gradient ``g / gradient``; after it, ``q`` becomes ``p`` again. With the factors of a split the
optimizer sees the network that was not split, whatever its rule: weight decay, epsilon and all.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from neuro_morph._edits import TensorEdit
from neuro_morph._optimizer_state import STATE_POWERS
from neuro_morph._ramp import Ramp
from neuro_morph._slot import Slot
from neuro_morph._slot_steps import SlotStep, guard_step, with_closure_outside
from neuro_morph._undo import UndoLog


class SlotTable:
    """The slots of a run's parameters, applied around every step of its optimizers.

    Args:
        optimizers: the optimizers.
        model: whose parameters they hold.

    Attributes:
        slots: the slots by their parameters.
        model: the model.
    """

    def __init__(self, optimizers: Iterable[Optimizer], model: nn.Module) -> None:
        self.slots: dict[Tensor, Slot] = {}
        self.model = model
        self._steps: dict[Optimizer, SlotStep] = {}
        self._guards: dict[Optimizer, Callable[[], None]] = {}
        self._handles: list[RemovableHandle] = []
        self._optimizers: list[Optimizer] = []
        for optimizer in optimizers:
            self.watch(optimizer)

    @classmethod
    def of(cls, optimizers: Iterable[Optimizer], model: nn.Module) -> "SlotTable":
        """Returns the table that runs of a model share on these optimizers, a new one at first."""
        optimizers = list(optimizers)
        table = next(reversed(tables_of(model, optimizers)), None) or cls((), model)
        for optimizer in optimizers:
            if optimizer not in table._optimizers:
                table.watch(optimizer)
        return table

    def watch(self, optimizer: Optimizer) -> None:
        """Steps in around the steps of another optimizer as well."""
        self._optimizers.append(optimizer)
        self._handles += [
            optimizer.register_step_pre_hook(self._enter),
            optimizer.register_step_post_hook(self._leave),
        ]

    def grow(
        self, parameter: Tensor, old: Tensor, edit: TensorEdit, log: UndoLog, *, exact: bool
    ) -> None:
        """Lets the slot of a parameter follow an edit of it.

        Args:
            parameter: the parameter, grown.
            old: what it was.
            edit: how it grew.
            log: where the slot is written as it was.
            exact: whether the optimizer is to see copies as what they are copies of.
        """
        before = self.slots.get(parameter)
        if before is None and not exact:
            return
        slot = (before or Slot.of(old)).grown(edit, exact=exact)
        for ramp, past in zip(slot.ramps, before.ramps if before else [], strict=True):
            ramp.held = past.held_after(edit, old, parameter, ramp.entries)
        if before is not None or not slot.is_plain():  # one that is there has to fit
            self._guard()
            log.set_item(self.slots, parameter, slot)

    def set_rate(self, parameter: Tensor, entries: Tensor, dim: int, rate: float) -> None:
        """Lets entries along an axis make only a part of their steps.

        Raises:
            ValueError: if ``rate`` is negative or not finite.
        """
        if not 0.0 <= rate < float("inf"):
            raise ValueError(f"rate must be finite and at least 0, got {rate!r}")
        self._slot(parameter).rate.index_fill_(dim, entries.to(parameter.device), rate)

    def add_ramp(self, parameter: Tensor, ramp: Ramp, columns: Tensor, log: UndoLog) -> None:
        """Lets entries of a parameter come in slowly: zero at first, ``columns`` in the end."""
        old = self.slots.get(parameter)
        slot = Slot.of(parameter) if old is None else old.copy()
        slot.ramps.append(ramp)
        self._guard()
        log.set_item(self.slots, parameter, slot)
        with torch.no_grad():
            ramp.begin(parameter, columns)

    def release(self) -> None:
        """Lets every optimizer see all parameters as they are from now on.

        What the optimizers hold for copies was that of what they are copies of, and is given back
        in units of the copies' own gradients; what came in slowly is there in full.
        """
        self._put_back()
        for parameter, slot in self.slots.items():
            with torch.no_grad():
                for ramp in slot.ramps:
                    ramp.finish(parameter)
                for optimizer in self._optimizers:
                    _scale_state(optimizer.state.get(parameter, {}), slot.gradient)
        self.slots.clear()

    def close(self) -> None:
        """Takes the table off the optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        while self._guards:
            self._guards.popitem()[1]()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Returns the slots by the names of their parameters, as tensors, numbers and lists."""
        self._put_back()
        named = self.model.named_parameters()
        return {name: self.slots[p].state_dict() for name, p in named if p in self.slots}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Puts the slots of :meth:`state_dict` in the place of all that are there.

        Raises:
            ValueError: if one is of no parameter of the model, or of another shape; nothing has
                changed then.
        """
        named = dict(self.model.named_parameters())
        if unknown := [name for name in state if name not in named]:
            raise ValueError(f"slots must be of the model's parameters, got {unknown[0]!r}")
        slots: dict[Tensor, Slot] = {}
        slots |= {named[name]: Slot.from_state(held, named[name]) for name, held in state.items()}
        self._put_back()
        self.slots = slots
        self._guard()

    def _slot(self, parameter: Tensor) -> Slot:
        self._guard()
        return self.slots.setdefault(parameter, Slot.of(parameter))

    def _enter(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if (step := self._steps.get(optimizer)) is not None:  # a step that calls super().step()
            step.depth += 1
            return None
        held = self._of(optimizer)
        if not held:
            return None
        self._steps[optimizer] = step = SlotStep(held)
        step.enter()
        return with_closure_outside(step, args, kwargs)

    def _leave(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        step = self._steps.get(optimizer)
        if step is None:
            return
        step.depth -= 1
        if not step.depth:
            step.leave()
            del self._steps[optimizer]

    def _put_back(self) -> None:
        for step in self._steps.values():
            step.put_back()

    def _drop(self, optimizer: Optimizer) -> None:
        if (step := self._steps.pop(optimizer, None)) is not None:
            step.put_back()

    def _guard(self) -> None:
        """Hears of steps that begin and of those that fail from now on."""
        for optimizer in self._optimizers:
            if optimizer not in self._guards:
                self._guards[optimizer] = guard_step(optimizer, self._drop)

    def _of(self, optimizer: Optimizer) -> list[tuple[Tensor, Slot]]:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        return [(p, self.slots[p]) for p in held if p in self.slots]


def tables_of(model: nn.Module, optimizers: Iterable[Optimizer]) -> list[SlotTable]:
    """Returns what steps in around the steps of optimizers of a model, the latest last."""
    hooks = [hook for o in optimizers for hook in o._optimizer_step_pre_hooks.values()]
    owners = [getattr(hook, "__self__", None) for hook in hooks]
    found = {id(t): t for t in owners if isinstance(t, SlotTable) and t.model is model}
    return list(found.values())


def _scale_state(state: dict[str, Any], factor: Tensor) -> None:
    for key, held in state.items():
        if isinstance(held, Tensor) and held.shape == factor.shape and key in STATE_POWERS:
            held.mul_(factor.to(held) ** STATE_POWERS[key])
