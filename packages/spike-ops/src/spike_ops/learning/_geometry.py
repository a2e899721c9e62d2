"""Which neurons a weight connects: how activity before and after it meets in its shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spike_ops.learning._spikes import Spikes, sums_over_spikes, values_of

Activity = Tensor | Spikes


class Geometry(Protocol):
    """How the activity on both sides of a weight meets in it."""

    def correlate(self, post: Activity, pre: Activity, weight: Tensor) -> Tensor:
        """Return, in a tensor of its own, Σ post · pre over steps, batch and places."""
        ...

    def check(self, pre: Tensor, post: Tensor, weight: Tensor) -> None:
        """Raise ValueError unless the activities fit the weight."""
        ...


@dataclass(frozen=True)
class LinearGeometry:
    """A weight [N_out, N_in] between activities [T, B, N_in] and [T, B, N_out]."""

    def correlate(self, post: Activity, pre: Activity, weight: Tensor) -> Tensor:
        """Return Σ_{t,b} post[t,b,j] pre[t,b,i]; by additions where one side is spikes."""
        del weight
        if isinstance(post, Spikes):
            return sums_over_spikes(post, values_of(pre))
        if isinstance(pre, Spikes):
            return sums_over_spikes(pre, post).t().contiguous()
        return post.flatten(0, 1).t() @ pre.flatten(0, 1)

    def check(self, pre: Tensor, post: Tensor, weight: Tensor) -> None:
        """Raise ValueError unless pre and post are [T, B, N_in] and [T, B, N_out]."""
        needed = (*pre.shape[:2], weight.shape[0]), (*pre.shape[:2], weight.shape[-1])
        _compare(post, needed[0], "post", weight)
        _compare(pre, needed[1], "pre", weight)


@dataclass(frozen=True)
class ConvGeometry:
    """A kernel [C_out, C_in / groups, ...] between [T, B, C_in, ...] and [T, B, C_out, ...].

    Every place of the output counts, as in the gradient of a convolution by its kernel.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def correlate(self, post: Activity, pre: Activity, weight: Tensor) -> Tensor:
        """Return Σ_{t,b,y,x} post[t,b,o,y,x] pre[t,b,c,sy+dk,sx+dl]: of the weight's shape."""
        y, x = values_of(post).flatten(0, 1), values_of(pre).flatten(0, 1)
        outputs: Tensor = torch.ops.aten.convolution_backward(
            y, x, weight, None, self.stride, self.padding, self.dilation,
            False, [0] * len(self.stride), self.groups, [False, True, False],
        )[1]  # fmt: skip
        return outputs

    def correlate_reference(self, post: Tensor, pre: Tensor, weight: Tensor) -> Tensor:
        """Return the same, one entry of the kernel's window after the other."""
        y, x = post.flatten(0, 1), pre.flatten(0, 1)
        x = F.pad(x, [side for pad in reversed(self.padding) for side in (pad, pad)])
        y, x = (each.unflatten(1, (self.groups, -1)) for each in (y, x))
        result = torch.zeros_like(weight).unflatten(0, (self.groups, -1))
        for place in product(*(range(size) for size in weight.shape[2:])):
            taken = x
            for axis, offset in enumerate(place):
                steps = torch.arange(y.shape[3 + axis]) * self.stride[axis]
                taken = taken.index_select(3 + axis, steps + offset * self.dilation[axis])
            both = torch.einsum("ngo...,ngc...->goc...", y, taken)
            result[(..., *place)] = both.flatten(3).sum(3) if both.ndim > 3 else both
        return result.flatten(0, 1)

    def check(self, pre: Tensor, post: Tensor, weight: Tensor) -> None:
        """Raise ValueError unless post is what a convolution of pre with the weight has."""
        places = weight.ndim - 2
        if pre.ndim != places + 3 or pre.shape[2] != weight.shape[1] * self.groups:
            channels = weight.shape[1] * self.groups
            needs = f"[T, B, {channels}, ...] with {places} axes of places"
            raise ValueError(f"pre must be {needs}, got {tuple(pre.shape)}")
        sizes = [
            (size + 2 * pad - wide * (kernel - 1) - 1) // step + 1
            for size, pad, wide, kernel, step in zip(
                pre.shape[3:], self.padding, self.dilation, weight.shape[2:], self.stride,
                strict=True,
            )
        ]  # fmt: skip
        _compare(post, (*pre.shape[:2], weight.shape[0], *sizes), "post", weight)


def geometry_of(connection: nn.Module) -> Geometry:
    """Return how a layer connects: convolutions by their settings, a weight [out, in] by rows.

    Raises:
        TypeError: The layer is neither.
    """
    if isinstance(connection, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if isinstance(connection.padding, str) or connection.padding_mode != "zeros":
            raise TypeError("a convolution must have zeros as padding, given as numbers")
        return ConvGeometry(
            connection.stride, connection.padding, connection.dilation, connection.groups
        )
    weight = getattr(connection, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        got = type(connection).__name__
        raise TypeError(f"connection must have a weight [out, in] or be a convolution, got {got}")
    return LinearGeometry()


def _compare(activity: Tensor, needed: Sequence[int], name: str, weight: Tensor) -> None:
    if tuple(activity.shape) != tuple(needed):
        told = f"{tuple(needed)} for a weight {tuple(weight.shape)}"
        raise ValueError(f"{name} must be {told}, got {tuple(activity.shape)}")
