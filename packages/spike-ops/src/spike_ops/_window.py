"""Where a neuron uses the gradient by its spikes: inside a window, if its surrogate has one.

Outside of the window the surrogate's derivative is zero, and what a product computed there would
be multiplied by it. So a product of a neuron's spikes need not compute it, as long as nobody but
the neuron sees its gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """What tells a window: a tensor that the neuron's backward pass keeps, and its bits from it."""

    kept: Tensor
    bits: Callable[[Tensor], Tensor]


def only_the_neuron_sees(spikes: Tensor | None, probe: torch.autograd.graph.Node | None) -> bool:
    """Say, in a backward pass, whether a gradient by spikes goes to what made them alone.

    Args:
        spikes: What was multiplied; None if it is gone, when hooks on it are not known.
        probe: The node of a leaf that nobody can ask for. It is part of a whole backward pass,
            not of one that only computes what it was asked for, which may be these spikes.
    """
    if spikes is None or spikes._backward_hooks or spikes.retains_grad or probe is None:
        return False
    executes = getattr(torch._C, "_will_engine_execute_node", None)
    return executes is not None and bool(executes(probe))
