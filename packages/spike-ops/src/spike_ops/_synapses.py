"""Products with a weight most of whose synapses do not exist: only those that do are added."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spike_ops._autograd import differentiated_again, without_autocast
from spike_ops._calibration import calibration
from spike_ops._spike_tensor import SpikeTensor, dense_of


class Synapses(NamedTuple):
    """The synapses that exist, those of one input after the other."""

    targets: Tensor  # [count] of int64: the output of each
    sources: Tensor  # [count] of int64: its input
    starts: Tensor  # [in + 1] of int64: where an input's begin

    @classmethod
    def of(cls, mask: Tensor) -> "Synapses":
        """Return the synapses of a mask [out, in]."""
        sources, targets = mask.t().nonzero(as_tuple=True)
        fan_out = torch.bincount(sources, minlength=mask.shape[1])
        return cls(targets, sources, torch.nn.functional.pad(fan_out.cumsum(0), (1, 0)))

    def only(self, matrix: Tensor) -> Tensor:
        """Return a matrix [out, in], zero where there is no synapse."""
        places = (self.targets, self.sources)
        return torch.zeros_like(matrix).index_put(places, matrix[places])


def synapse_seconds(spikes: SpikeTensor, synapses: Synapses) -> float:
    """Return the seconds expected of adding the existing synapses of these spikes."""
    columns = len(synapses.starts) - 1
    each = len(synapses.targets) / max(columns, 1)
    costs, count = calibration(), spikes.count
    found = costs.byte * spikes.numel() / 8 + costs.spike * count
    return (2 * costs.event_call + found + costs.synapse * each * count) * 1e-9


class SynapseSums(torch.autograd.Function):
    """S @ Wᵀ for W [out, in] with few synapses: one addition for each that a spike reaches."""

    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor, weight: Tensor, synapses: Synapses) -> Tensor:
        ctx.save_for_backward(spikes, weight)
        ctx.synapses = synapses
        reached, places = _reached(spikes, synapses, len(weight))
        values = _wide(weight[synapses.targets, synapses.sources])
        sums = values.new_zeros(spikes.shape[0] * len(weight))
        sums.index_add_(0, places, values[reached])
        return sums.view(spikes.shape[0], len(weight)).to(weight.dtype)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        spikes, weight = ctx.saved_tensors
        synapses: Synapses = ctx.synapses
        to_weight = None
        if ctx.needs_input_grad[1]:
            if differentiated_again():
                to_weight = synapses.only(gradient.t() @ spikes.to_dense())
            else:
                to_weight = _collected(spikes, synapses, gradient)
        to_spikes = gradient @ synapses.only(weight) if ctx.needs_input_grad[0] else None
        return to_spikes, to_weight, None


def _collected(spikes: SpikeTensor, synapses: Synapses, gradient: Tensor) -> Tensor:
    """Return Gᵀ @ S where there is a synapse: what its spikes received."""
    reached, places = _reached(spikes, synapses, gradient.shape[1])
    received = _wide(gradient.reshape(-1)[places])
    values = received.new_zeros(len(synapses.targets)).index_add_(0, reached, received)
    whole = gradient.new_zeros(gradient.shape[1], spikes.shape[1])
    whole[synapses.targets, synapses.sources] = values.to(gradient.dtype)
    return whole


def _wide(values: Tensor) -> Tensor:
    """Return values in a type in which many can be added."""
    return values.float() if values.itemsize < 4 else values


def _reached(spikes: SpikeTensor, synapses: Synapses, width: int) -> tuple[Tensor, Tensor]:
    """Return for each synapse that a spike reaches its number and its place in the result."""
    columns, starts = spikes.shape[1], synapses.starts.numpy()
    if not spikes.numel():
        none = torch.zeros(0, dtype=torch.int64, device="cpu")
        return none, none
    entries, borders = (each.numpy() for each in spikes.index.by_row(columns))
    rows = np.repeat(np.arange(len(borders) - 1), np.diff(borders))
    fan_out = starts[entries + 1] - starts[entries]
    before = np.cumsum(fan_out) - fan_out
    reached = np.arange(fan_out.sum()) + np.repeat(starts[entries] - before, fan_out)
    places = np.repeat(rows * width, fan_out) + synapses.targets.numpy()[reached]
    return torch.from_numpy(reached), torch.from_numpy(places)


def synapse_reference(spikes: SpikeTensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Return S @ (W ∘ mask)ᵀ by the definition: the specification."""
    return dense_of(spikes) @ (weight * mask).t()
