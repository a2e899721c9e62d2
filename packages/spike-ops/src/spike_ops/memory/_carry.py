"""Running a network over a part of the time, states in and states out."""

from collections.abc import Sequence

from torch import Tensor, nn

from spike_ops.neuron import Neuron
from spike_ops.neuron._base import State


def neurons_of(module: nn.Module) -> list[Neuron]:
    """Return the neurons that run over time themselves: not those inside another neuron."""
    found: list[Neuron] = []
    if isinstance(module, Neuron):
        return [module]
    for child in module.children():
        found += neurons_of(child)
    return list(dict.fromkeys(found))


def run_with(
    module: nn.Module, neurons: Sequence[Neuron], x: Tensor, states: Sequence[State | None]
) -> tuple[Tensor, list[State]]:
    """Return the output for a part of the time from given states, and the states after it.

    Gradients go through the states. What the neurons keep themselves is as before.
    """
    before = [(each.stateful, each._state, each._carried) for each in neurons]
    try:
        for neuron, state in zip(neurons, states, strict=True):
            neuron._carried = [state]
        out = module(x)
        after = [_carried(each) for each in neurons]
    finally:
        for neuron, (stateful, kept, carried) in zip(neurons, before, strict=True):
            neuron.stateful, neuron._state, neuron._carried = stateful, kept, carried
    return out, after


def _carried(neuron: Neuron) -> State:
    assert neuron._carried is not None
    state = neuron._carried[0]
    if state is None:
        raise ValueError(f"{type(neuron).__name__} did not run: its time cannot be cut")
    return state
