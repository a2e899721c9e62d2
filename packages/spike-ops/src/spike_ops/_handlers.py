"""How an operator of torch is told what to do with spikes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from spike_ops._ops import packed_bits
from spike_ops._spike_tensor import SpikeTensor


def handles(*operators: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function as what operators do with spikes.

    A handler that returns NotImplemented leaves its case to the dense zeros and ones.
    """

    def enter(handler: Callable[..., Any]) -> Callable[..., Any]:
        SpikeTensor.handlers.update(dict.fromkeys(operators, handler))
        return handler

    return enter


def packed_again(spikes: SpikeTensor, fired: Tensor) -> SpikeTensor:
    """Return booleans as spikes of the same type."""
    return SpikeTensor(packed_bits(fired), fired.shape, spikes.dtype)
