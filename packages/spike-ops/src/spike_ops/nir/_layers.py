"""Layers that nodes without a membrane stand for."""

from typing import Any

from torch import Tensor, nn

from spike_ops.neuron import Delay
from spike_ops.neuron._base import State
from spike_ops.nir._cells import put
from spike_ops.nir._numbers import Number
from spike_ops.surrogate import ATan, Surrogate


class Fire(nn.Module):
    """Return 1 where the input is above θ and 0 elsewhere, without a state: NIR's `Threshold`.

    Args:
        threshold: θ, one number or a tensor of the shape of a sample.
        surrogate: Gradient in place of the step's.

    Example:
        >>> import torch
        >>> Fire(1.0)(torch.tensor([0.5, 1.0, 1.5]))
        tensor([0., 0., 1.])
    """

    threshold: Number

    def __init__(self, threshold: Number, *, surrogate: Surrogate | None = None) -> None:
        super().__init__()
        self.surrogate = ATan() if surrogate is None else surrogate
        put(self, threshold=threshold)

    def forward(self, input: Tensor) -> Tensor:
        """Return the spikes of an input [..., *sample]."""
        return self.surrogate.dense(input - self.threshold, strict=True)


class Scale(nn.Module):
    """Return the input times a learned tensor of the shape of a sample: NIR's `Scale`.

    Args:
        weight: The factors.

    Example:
        >>> import torch
        >>> Scale(torch.tensor([1.0, 2.0]))(torch.ones(3, 1, 2)).sum().item()
        9.0
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return input ⊙ weight."""
        return input * self.weight


class DelayEach(Delay):
    """Return spikes [T, B, ...] later, each neuron of a sample by its own steps: NIR's `Delay`.

    Args:
        delays: Whole numbers of the shape of a sample.
        options: `steps`, `stateful` of `Neuron`.

    Example:
        >>> import torch
        >>> DelayEach(torch.tensor([[0], [1]]))(torch.ones(2, 1, 2, 1)).flatten(1).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """

    def __init__(self, delays: Tensor, **options: Any) -> None:
        self.sample = tuple(delays.shape)
        super().__init__(delays.flatten(), **options)

    def _over_time(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        flat, held = currents.flatten(2), state[0].flatten(2)
        out, (after,) = super()._over_time(flat, (held,))
        shape = currents.shape[1:]
        return out.unflatten(2, currents.shape[2:]), (after.reshape(len(after), *shape),)
