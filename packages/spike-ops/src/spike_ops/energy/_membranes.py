"""Changes of membranes."""

import torch
from torch import Tensor

from spike_ops.monitor._begun import States, again
from spike_ops.neuron import Neuron


def count_membrane_updates(neuron: Neuron, currents: Tensor, state: States | None = None) -> int:
    """Return how often a membrane changes: each in the first step, then those that differ.

    NeuroBench's definition: the first step counts every neuron, a later one those whose potential
    after it is not what it was before.

    Args:
        neuron: The neurons.
        currents: [T, B, ...].
        state: Where they begin; the initial state without one.

    Raises:
        ValueError: The currents have no step.
        TypeError: `neuron` is no `Neuron`.

    Example:
        >>> from spike_ops.neuron import IF
        >>> currents = torch.tensor([0.0, 0.0, 0.5]).reshape(3, 1, 1)
        >>> count_membrane_updates(IF(), currents)
        2
    """
    if not isinstance(neuron, Neuron):
        raise TypeError(f"neuron must be a Neuron, got {type(neuron).__name__}")
    if currents.ndim < 2 or not len(currents):
        raise ValueError(f"currents must be [T, B, ...], got {tuple(currents.shape)}")
    with torch.no_grad(), again(neuron, currents.device):
        at = neuron.initial(currents[0]) if state is None else state
        before = neuron.membrane(at)
        changed = before.numel()
        for step, current in enumerate(currents):
            _, at = neuron.step(current, at)
            after = neuron.membrane(at)
            changed += int((after != before).sum()) if step else 0
            before = after
    return changed
