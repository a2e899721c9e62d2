"""What comes out of neurons: dense spikes or packed ones, by knowing or looking."""

from typing import Any

import torch
from torch import Tensor

from spike_ops._ops import packed_bits
from spike_ops._produced import note
from spike_ops._spike_tensor import SpikeTensor, check_binary


def as_asked(spikes: Tensor, *, binary: bool, spike_out: bool) -> Tensor:
    """Return spikes dense or packed; `binary` says that they are sure to be zeros and ones.

    Raises:
        ValueError: They are to be packed and hold something else.
    """
    if binary:
        note(spikes)
    if spike_out == isinstance(spikes, SpikeTensor):
        return spikes
    if not spike_out:
        return spikes.to_dense()
    if not binary:
        check_binary(spikes)
    packed: Tensor = _Pack.apply(spikes)  # type: ignore[no-untyped-call,unused-ignore]
    return packed


class _Pack(torch.autograd.Function):
    """Dense spikes known to be zeros and ones, packed."""

    @staticmethod
    def forward(ctx: Any, spikes: Tensor) -> SpikeTensor:
        del ctx
        return SpikeTensor(packed_bits(spikes), spikes.shape, spikes.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0]
