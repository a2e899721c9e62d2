"""Arguments looked at once, at the door: numbers, tensors, modules, batches of loaders."""

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor, nn


def whole_number(name: str, value: Any, unit: str = "") -> int:
    """Return a number that is whole, as an int; floats without a fraction are.

    Raises:
        ValueError: It has a fraction, or is not finite.
        TypeError: It is no number.
    """
    rule = f"{name} must be a whole number{f' of {unit}' if unit else ''}, got {value!r}"
    try:
        return operator.index(value)
    except TypeError:
        pass
    if not hasattr(value, "is_integer"):
        raise TypeError(rule)
    if not value.is_integer():
        raise ValueError(rule)
    return int(value)


def counted(name: str, value: Any, least: int | None = 1, unit: str = "") -> int:
    """Return a whole number of something, at least so many, as an int.

    Raises:
        ValueError: It has a fraction, or is below that.
        TypeError: It is no number, or a bool.
    """
    if isinstance(value, bool):
        told = f"{name} must be a whole number{f' of {unit}' if unit else ''}"
        raise TypeError(f"{told}, got {value!r}")
    number = whole_number(name, value, unit)
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return number


def number(**values: Any) -> None:
    """Raise TypeError unless every value is a real number: no text, tensor or list."""
    for name, value in values.items():
        if not isinstance(value, Real):
            told = "a tensor; .item() makes one of it" if isinstance(value, Tensor) else repr(value)
            raise TypeError(f"{name} must be a number, got {told}")


def finite(**values: Any) -> None:
    """Raise unless every value is a finite number."""
    number(**values)
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


def positive(**values: Any) -> None:
    """Raise unless every value is a positive, finite number."""
    number(**values)
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def flag(**values: Any) -> None:
    """Raise TypeError unless every value is True or False."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def tensor(name: str, value: Any) -> Tensor:
    """Return a value that is a tensor.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, Tensor):
        made = "; torch.as_tensor makes one" if hasattr(value, "__len__") else ""
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}{made}")
    return value


def spreads(shape: Sequence[int], over: Sequence[int]) -> bool:
    """Say whether tensors of a shape spread over another by broadcasting."""
    pairs = zip(reversed(shape), reversed(over), strict=False)
    return len(shape) <= len(over) and all(one in {1, size} for one, size in pairs)


def module(name: str, value: Any) -> None:
    """Raise TypeError unless a value is a module, and not its class."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {value!r:.60}")


def input_of(batch: Any) -> Tensor:
    """Return the inputs of a batch as loaders give it: the tensor, or the first of (x, y, ...).

    Raises:
        TypeError: It is no such batch.
    """
    first = batch[0] if isinstance(batch, Sequence) and len(batch) else batch
    if not isinstance(first, Tensor):
        got = type(batch).__name__
        raise TypeError(f"batches must be tensors, or tuples of inputs and labels, got {got}")
    return first
