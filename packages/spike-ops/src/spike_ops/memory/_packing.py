"""Saving bits in place of the dense spikes that layers of torch keep for their backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from spike_ops._produced import Packed, note, watching
from spike_ops._spike_tensor import check_binary


@contextmanager
def packed_saved_tensors() -> Iterator[None]:
    """Have layers of torch save spikes as bits: one bit for each instead of a float.

    What a spiking neuron produced inside the block is known to be zeros and ones. Where
    `torch.nn.Linear`, `torch.nn.Conv2d` or another operation saves it (or a view of it) for the
    backward pass, its bits are saved, once for all that save it, and unpacked again when the
    gradients are computed. Gradients are the same to the last bit. No value is looked at: what
    came from elsewhere is saved as it is, unless `mark_spikes` says that it is spikes.

    The dense tensor is freed when nothing else holds it, so keep no reference to it. Not for use
    inside `torch.compile`; neurons with `spike_out=True` and their products need no such block.

    Example:
        >>> from spike_ops.neuron import LIF
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), LIF(), torch.nn.Linear(16, 4))
        >>> with packed_saved_tensors():
        ...     out = net(torch.randn(5, 2, 8))
        >>> out.sum().backward()
    """
    with watching() as produced:

        def pack(tensor: Tensor) -> Any:
            entry = produced.find(tensor)
            return tensor if entry is None else Packed(entry, tensor)

        def unpack(saved: Any) -> Tensor:
            return saved.dense() if isinstance(saved, Packed) else saved

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield


def mark_spikes(spikes: Tensor) -> Tensor:
    """Return a tensor unchanged, known from now on to be spikes by `packed_saved_tensors`.

    For what no neuron of this package produced: encoded inputs, pooled spikes. Looks at every
    value once; outside of such a block it does nothing else.

    Raises:
        ValueError: It holds something else than 0 and 1.

    Example:
        >>> mark_spikes(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    check_binary(spikes)
    note(spikes)
    return spikes
