"""Backward passes that have no derivative of their own."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spike_ops._autograd import apply, differentiated_again

Gradients = tuple[Tensor | None, ...]


def once(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Return a backward pass whose result raises where it is differentiated in its turn.

    `torch.autograd.function.once_differentiable` lets a result pass as a constant where the
    gradients that come in are constants, as those of a sum are; it depends on the inputs even so.
    """

    @functools.wraps(backward)
    def call(ctx: Any, *gradients: Tensor) -> Gradients:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        return (
            _refusing(found, (*ctx.saved_tensors, *gradients)) if differentiated_again() else found
        )

    return call


def _refusing(found: Gradients, origins: tuple[Tensor, ...]) -> Gradients:
    values = [each.detach().requires_grad_() for each in found if each is not None]
    followed = [each for each in origins if each.requires_grad]
    held = iter(apply(_Refuse, len(values), *values, *followed))
    return tuple(None if each is None else next(held) for each in found)


class _Refuse(torch.autograd.Function):
    """The first of its tensors; it depends on all of them, in a way that it does not know."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> Gradients:
        del ctx
        return tuple(each.view_as(each) for each in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        raise RuntimeError(
            "the backward pass of fused neurons has no derivative: that of backend='reference' has"
        )
