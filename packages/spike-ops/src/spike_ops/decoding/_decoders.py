"""Decoders: what spikes and membranes over time say."""

from typing import Any

import torch
from torch import Tensor

from spike_ops._checked import tensor
from spike_ops.encoding._base import check_whole, dense_spikes, first_times, summed, wide


def count(spikes: Tensor) -> Tensor:
    """Return how many spikes each neuron fired: [B, ...] of spikes [T, B, ...].

    In float32 for spikes in half precision, which has no number for most counts beyond 256. What is
    not 0 or 1, as of `ILIF`, is summed as it is.

    Raises:
        ValueError: There is no step.

    Example:
        >>> count(torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]))
        tensor([[2., 1.]])
    """
    return summed(dense_spikes(spikes))


def rate(spikes: Tensor) -> Tensor:
    """Return in what share of the steps each neuron fired: [B, ...] of spikes [T, B, ...].

    The mean over the steps; that of what is not 0 or 1 likewise.

    Raises:
        ValueError: There is no step.

    Example:
        >>> rate(torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]))
        tensor([[1.0000, 0.5000]])
    """
    return dense_spikes(spikes).mean(0)


def first_spike(spikes: Tensor) -> Tensor:
    """Return the step of each neuron's first spike: [B, ...] of spikes [T, B, ...].

    A spike is what is not zero. A neuron that stays silent has T. `argmin` over the neurons names
    the first to fire. Times are in float32 for spikes in half precision.

    The gradient is that of moving the spike: -1 at the step of the first spike (more there means
    earlier), and at the last step of a silent neuron; 0 at all others.

    Raises:
        ValueError: There is no step.

    Example:
        >>> first_spike(torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]]))
        tensor([[1., 2.]])
    """
    times: Tensor = _FirstSpike.apply(dense_spikes(spikes))  # type: ignore[no-untyped-call,unused-ignore]
    return times


def max_membrane(membranes: Tensor) -> Tensor:
    """Return the largest potential of each neuron: [B, ...] of potentials [T, B, ...].

    The gradient reaches the first step with that potential.

    Raises:
        ValueError: There is no step.

    Example:
        >>> max_membrane(torch.tensor([[[0.5]], [[0.9]], [[0.2]]]))
        tensor([[0.9000]])
    """
    return dense_spikes(membranes).max(0).values


def last_membrane(membranes: Tensor) -> Tensor:
    """Return the potential of each neuron after the last step: [B, ...] of [T, B, ...].

    Raises:
        ValueError: There is no step.

    Example:
        >>> last_membrane(torch.tensor([[[0.5]], [[0.9]], [[0.2]]]))
        tensor([[0.2000]])
    """
    return dense_spikes(membranes)[-1]


def pool(values: Tensor, classes: int) -> Tensor:
    """Return the sums over the neurons of each class: [B, classes] of [B, classes k].

    Neurons i k .. (i + 1) k - 1 vote for class i. In float32 for values in half precision.

    Raises:
        ValueError: The neurons do not divide into the classes.

    Example:
        >>> pool(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 2)
        tensor([[3., 7.]])
    """
    check_whole(classes=classes)
    if classes < 1 or tensor("values", values).ndim < 1 or values.shape[-1] % classes:
        got = f"{tuple(values.shape)} for {classes} classes"
        raise ValueError(f"values must be [..., classes k], got {got}")
    return summed(values.unflatten(-1, (classes, -1)), -1)


class _FirstSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: Tensor) -> Tensor:
        times = first_times(spikes)
        ctx.save_for_backward(times)
        ctx.steps, ctx.dtype = len(spikes), spikes.dtype
        return times.to(wide(spikes[:0]).dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (times,) = ctx.saved_tensors
        step = times.clamp(max=ctx.steps - 1).unsqueeze(0)
        back = gradients[0].to(ctx.dtype)
        return back.new_zeros(ctx.steps, *times.shape).scatter(0, step, -back.unsqueeze(0))
