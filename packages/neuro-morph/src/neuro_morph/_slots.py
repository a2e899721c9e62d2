"""Entries of parameters that an optimizer is to see otherwise than they are.

An optimizer works on whole tensors. Where some entries have to move at another pace, the table
below steps in around its step: before it, an entry ``p`` becomes ``q = p / value`` and its
gradient ``g / gradient``; after it, ``q`` becomes ``p`` again. With the factors of a split the
optimizer sees the network that was not split, whatever its rule: weight decay, epsilon and all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from neuro_morph._edits import TensorEdit
from neuro_morph._optimizer_state import STATE_POWERS
from neuro_morph._ramp import Ramp
from neuro_morph._undo import UndoLog


@dataclass
class Slot:
    """What an optimizer sees of one parameter.

    Attributes:
        value: what each entry is, over what the optimizer sees.
        gradient: what its gradient is, over what the optimizer sees.
        rate: what part of its step each entry makes.
        ramps: entries that come in slowly.
    """

    value: Tensor
    gradient: Tensor
    rate: Tensor
    ramps: list[Ramp] = field(default_factory=list)

    @classmethod
    def of(cls, parameter: Tensor) -> "Slot":
        """Returns a slot in which the optimizer sees the parameter as it is."""
        ones = torch.ones_like(parameter, dtype=torch.float64)
        return cls(ones, ones.clone(), ones.clone())

    def grown(self, edit: TensorEdit, *, exact: bool) -> "Slot":
        """Returns the slot of the parameter after an edit."""
        value, gradient = (_carried(edit, each) for each in (self.value, self.gradient))
        if exact:
            for axis in edit.axes:
                shape = [1] * value.dim()
                shape[axis.dim] = -1
                value *= axis.values.reshape(shape)
                gradient *= axis.gradients.reshape(shape)
        ramps = [ramp.grown(edit) for ramp in self.ramps]
        return Slot(value, gradient, _carried(edit, self.rate), ramps)

    def is_plain(self) -> bool:
        """Whether the optimizer sees the parameter as it is."""
        tables = (self.value, self.gradient, self.rate)
        return not self.ramps and all(bool((table == 1).all()) for table in tables)


class SlotTable:
    """The slots of a run's parameters, applied around every step of its optimizers.

    Args:
        optimizers: the optimizers.
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self.slots: dict[Tensor, Slot] = {}
        self._before: dict[Tensor, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._optimizers: list[Optimizer] = []
        for optimizer in optimizers:
            self.watch(optimizer)

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
            log.set_item(self.slots, parameter, slot)

    def set_rate(self, parameter: Tensor, entries: Tensor, dim: int, rate: float) -> None:
        """Lets entries along an axis make only a part of their steps.

        Raises:
            ValueError: if ``rate`` is negative or not finite.
        """
        if not 0.0 <= rate < float("inf"):
            raise ValueError(f"rate must be finite and at least 0, got {rate!r}")
        self._slot(parameter).rate.index_fill_(dim, entries, rate)

    def add_ramp(self, parameter: Tensor, ramp: Ramp, columns: Tensor, log: UndoLog) -> None:
        """Lets entries of a parameter come in slowly: zero at first, ``columns`` in the end."""
        old = self.slots.get(parameter)
        slot = Slot.of(parameter) if old is None else _copied(old)
        slot.ramps.append(ramp)
        log.set_item(self.slots, parameter, slot)
        with torch.no_grad():
            ramp.begin(parameter, columns)

    def release(self) -> None:
        """Lets every optimizer see all parameters as they are from now on.

        What the optimizers hold for copies was that of what they are copies of, and is given back
        in units of the copies' own gradients; what came in slowly is there in full.
        """
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

    def state_dict(self) -> dict[Tensor, Any]:
        """Returns the slots, for snapshots of a run in this process."""
        return {p: _copied(slot) for p, slot in self.slots.items()}

    def load_state_dict(self, state: dict[Tensor, Any]) -> None:
        """Puts slots back."""
        self.slots = {p: _copied(slot) for p, slot in state.items()}

    def _slot(self, parameter: Tensor) -> Slot:
        return self.slots.setdefault(parameter, Slot.of(parameter))

    @torch.no_grad()
    def _enter(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, slot in self._of(optimizer):
            for ramp in slot.ramps:
                ramp.lift(parameter)
            parameter.div_(slot.value.to(parameter))
            if parameter.grad is not None:
                parameter.grad.div_(slot.gradient.to(parameter))
            self._before[parameter] = parameter.detach().clone()

    @torch.no_grad()
    def _leave(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, slot in self._of(optimizer):
            before = self._before.pop(parameter)
            parameter.copy_(before + slot.rate.to(parameter) * (parameter - before))
            parameter.mul_(slot.value.to(parameter))
            for ramp in slot.ramps:
                ramp.lower(parameter)
            slot.ramps = [ramp for ramp in slot.ramps if not ramp.done]

    def _of(self, optimizer: Optimizer) -> list[tuple[Tensor, Slot]]:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        return [(p, self.slots[p]) for p in held if p in self.slots]


def _carried(edit: TensorEdit, table: Tensor) -> Tensor:
    return edit.carry(table, power=0.0, fresh=1.0)


def _scale_state(state: dict[str, Any], factor: Tensor) -> None:
    for key, held in state.items():
        if isinstance(held, Tensor) and held.shape == factor.shape and key in STATE_POWERS:
            held.mul_(factor.to(held) ** STATE_POWERS[key])


def _copied(slot: Slot) -> Slot:
    ramps = [ramp.copy() for ramp in slot.ramps]
    return Slot(slot.value.clone(), slot.gradient.clone(), slot.rate.clone(), ramps)
