"""How an autograd function is called, in one place: torch leaves it without a type."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

P = ParamSpec("P")
R = TypeVar("R")


def apply(function: type[Function], *args: Any) -> Any:
    """Return `function.apply(*args)`."""
    return function.apply(*args)  # type: ignore[no-untyped-call,unused-ignore]


def differentiated_again() -> bool:
    """Say, in a backward pass, whether what it returns may be differentiated in its turn.

    Inside `torch.compile` never: what is compiled has no second derivative.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def in_autocast_type(beside: Tensor, *tensors: Any) -> tuple[Any, ...]:
    """Return tensors in the type that autocast asks of a product with a tensor, where it is on.

    As of torch's own products: float64 stays, and so does None.
    """
    device = beside.device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(_cast(each, dtype) for each in tensors)


def _cast(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if value is None or not value.is_floating_point() or value.dtype == torch.float64:
        return value
    return value.to(dtype)


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that computes in the types it is given, whatever autocast asks for."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(each.device.type for each in args if isinstance(each, Tensor))
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return call
