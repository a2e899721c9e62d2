"""What an optimizer sees of one parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neuro_morph._edits import TensorEdit
from neuro_morph._ramp import Ramp

_TABLES = ("value", "gradient", "rate")


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
                value *= axis.values.reshape(shape).to(value.device)
                gradient *= axis.gradients.reshape(shape).to(gradient.device)
        ramps = [ramp.grown(edit) for ramp in self.ramps]
        return Slot(value, gradient, _carried(edit, self.rate), ramps)

    def copy(self) -> "Slot":
        """Returns a copy that shares nothing."""
        ramps = [ramp.copy() for ramp in self.ramps]
        return Slot(self.value.clone(), self.gradient.clone(), self.rate.clone(), ramps)

    def state_dict(self) -> dict[str, Any]:
        """Returns the slot as tensors, numbers and lists that share nothing with it."""
        tables = {name: getattr(self, name).clone() for name in _TABLES}
        return {**tables, "ramps": [vars(ramp.copy()) for ramp in self.ramps]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], parameter: Tensor) -> "Slot":
        """Returns the slot of :meth:`state_dict` for a parameter.

        Raises:
            ValueError: if it was that of a parameter of another shape.
        """
        tables = {k: state[k].to(parameter.device, torch.float64).clone() for k in _TABLES}
        if shapes := [t.shape for t in tables.values() if t.shape != parameter.shape]:
            raise ValueError(
                f"a slot must have the shape of its parameter, {tuple(parameter.shape)}, got "
                f"{tuple(shapes[0])}"
            )
        return cls(**tables, ramps=[Ramp(**ramp).to(parameter) for ramp in state["ramps"]])

    def is_plain(self) -> bool:
        """Whether the optimizer sees the parameter as it is."""
        tables = (self.value, self.gradient, self.rate)
        return not self.ramps and all(bool((table == 1).all()) for table in tables)


def _carried(edit: TensorEdit, table: Tensor) -> Tensor:
    return edit.carry(table, power=0.0, fresh=1.0)
