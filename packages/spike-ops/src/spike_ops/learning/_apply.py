"""Changes carried out: in place, or by an optimiser."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spike_ops._checked import finite, number, tensor

Bounds = tuple[float | None, float | None]


@torch.no_grad()
def apply_(connection: nn.Module, dw: Tensor, *, bounds: Bounds = (None, None)) -> None:
    """Add a change to a layer's weight in place and clip it; a mask and signs are kept.

    A buffer `mask` of the layer keeps its zeros; a parametrised weight (`structure.dale_`) is
    assigned, so that its parametrisation decides what becomes of the sum.

    Args:
        connection: A layer with a parameter `weight`.
        dw: The change, of the weight's shape.
        bounds: The least and the greatest weight; None leaves a side open.

    Raises:
        ValueError: `dw` has another shape, or the bounds are in the wrong order.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> apply_(layer, torch.tensor([[5.0, -5.0]]), bounds=(0.0, 1.0))
        >>> layer.weight.data
        tensor([[1., 0.]])
    """
    weight: Any = connection.weight
    low, high = checked_bounds(bounds)
    if tuple(tensor("dw", dw).shape) != tuple(weight.shape):
        raise ValueError(f"dw must be {tuple(weight.shape)}, got {tuple(dw.shape)}")
    changed = weight + dw.to(weight.dtype)
    if low is not None or high is not None:
        changed.clamp_(low, high)
    mask = getattr(connection, "mask", None)
    if isinstance(mask, Tensor):
        changed.mul_(mask)
    if parametrize.is_parametrized(connection, "weight"):
        connection.weight = changed
    else:
        weight.copy_(changed)


def checked_bounds(bounds: Bounds) -> Bounds:
    """Return the least and the greatest weight; raise unless they are in that order."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"bounds must be (least, greatest), got {bounds!r}")
    low, high = bounds
    number(**{"bounds[0]": 0 if low is None else low, "bounds[1]": 0 if high is None else high})
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"bounds must be (least, greatest), got {bounds}")
    return low, high


def check_rate(lr: float) -> None:
    """Raise unless a learning rate is a finite number and not negative."""
    finite(lr=lr)
    if lr < 0:
        raise ValueError(f"lr must be at least 0, got {lr}")


@torch.no_grad()
def as_gradient_(parameter: Tensor, dw: Tensor) -> None:
    """Add -dw to a parameter's gradient, so that any optimiser of torch carries the change out.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1, 2))
        >>> as_gradient_(weight, torch.tensor([[1.0, 2.0]]))
        >>> torch.optim.SGD([weight], lr=0.5).step()
        >>> weight.data
        tensor([[0.5000, 1.0000]])
    """
    if parameter.shape != dw.shape:
        raise ValueError(f"dw must be {tuple(parameter.shape)}, got {tuple(dw.shape)}")
    parameter.grad = -dw if parameter.grad is None else parameter.grad - dw
