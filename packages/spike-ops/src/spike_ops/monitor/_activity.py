"""How often each neuron of a layer fired: counts that grow with the neurons, not with time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops._spike_tensor import SpikeTensor

# the largest count that float32 sums exactly
EXACT = 2**24


@dataclass(frozen=True)
class Activity:
    """What a layer of neurons did while it was watched.

    Attributes:
        counts: Spikes of each neuron, over time and batch: [...] of int64.
        observed: Steps in which each neuron could have fired: the sum of T B over the calls.
        calls: How many calls were watched.

    Example:
        >>> seen = Activity(torch.tensor([0, 5, 10]), observed=10, calls=1)
        >>> seen.rate, seen.silent, seen.saturated()
        (0.5, tensor([ True, False, False]), tensor([False, False,  True]))
    """

    counts: Tensor
    observed: int
    calls: int

    @property
    def rates(self) -> Tensor:
        """Share of steps with a spike of each neuron: [...] of float64."""
        return self.counts.double() / self.observed

    @property
    def rate(self) -> float:
        """Share of steps with a spike, over all neurons."""
        return int(self.counts.sum()) / (self.observed * max(self.counts.numel(), 1))

    @property
    def silent(self) -> Tensor:
        """Which neurons never fired: [...] of bool."""
        return self.counts == 0

    def saturated(self, rate: float = 1.0) -> Tensor:
        """Return which neurons fired in at least that share of the steps: [...] of bool."""
        return self.rates >= rate

    def plus(self, spikes: Tensor) -> "Activity":
        """Return the activity with the spikes [T, B, ...] of one more call.

        Raises:
            ValueError: The neurons are others than before.
        """
        if tuple(spikes.shape[2:]) != tuple(self.counts.shape):
            got = f"{tuple(spikes.shape[2:])} after {tuple(self.counts.shape)}"
            raise ValueError(
                f"a watched layer must keep its neurons, got {got}; reset() begins anew"
            )
        counts = self.counts + count_spikes(spikes).to(self.counts.device)
        return Activity(counts, self.observed + spikes.shape[:2].numel(), self.calls + 1)


def nothing_yet(spikes: Tensor, device: torch.device | str | None) -> Activity:
    """Return the activity before the first call, of the neurons of spikes [T, B, ...]."""
    counts = torch.zeros(spikes.shape[2:], dtype=torch.int64, device=device or spikes.device)
    return Activity(counts, 0, 0)


def count_spikes(spikes: Tensor) -> Tensor:
    """Return the spikes of each neuron over time and batch: [...] of int64 of [T, B, ...]."""
    shape, steps = spikes.shape[2:], spikes.shape[:2].numel()
    if isinstance(spikes, SpikeTensor) and spikes.ndim > 2 and shape.numel():
        place = spikes.index.positions % shape.numel()
        return torch.bincount(place, minlength=shape.numel()).reshape(shape)
    dense = spikes.to_dense() if isinstance(spikes, SpikeTensor) else spikes
    kind = torch.float32 if steps <= EXACT else torch.float64
    return (dense.detach() != 0).to(kind).sum((0, 1)).long()
