"""From where a call of a neuron layer begins."""

from typing import Any

from torch import Tensor

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron import Neuron

States = tuple[Tensor, ...]


def beginning(
    neuron: Neuron, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, States | None]:
    """Return a call's dense currents and the state it begins from; None for the initial one."""
    given = dict(zip(("currents", "state"), args, strict=False)) | kwargs
    currents: Tensor = given["currents"]
    currents = currents.to_dense() if isinstance(currents, SpikeTensor) else currents.detach()
    state = given.get("state")
    if state is None and neuron.stateful and _goes_on(neuron, currents):
        state = neuron.state
    return currents, state


def _goes_on(neuron: Neuron, currents: Tensor) -> bool:
    """Say whether the next call goes on from the state of the last one."""
    fresh = neuron.initial(currents[0])
    kept = neuron.state or ()
    return [each.shape for each in kept] == [each.shape for each in fresh]
