"""The state dict of an optimizer as JSON and tensors, and back."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """Returns the numbers of an optimizer, as JSON can hold them.

    Raises:
        TypeError: if a parameter group holds a tensor of several numbers.
    """
    held = optimizer.state_dict()
    state = {
        str(index): {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        for index, values in held["state"].items()
    }
    groups = [{k: _plain(k, v) for k, v in group.items()} for group in held["param_groups"]]
    return {"state": state, "param_groups": groups}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"{name!r} of an optimizer must be a number, got a tensor")
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def tensors_of_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns the tensors of an optimizer's state, by the number of the parameter and their key."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def joined_state(settings: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Returns the state dict of an optimizer, made of both."""
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in settings["state"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": settings["param_groups"]}
