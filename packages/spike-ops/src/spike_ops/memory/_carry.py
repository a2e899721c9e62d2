"""Running a network over a part of the time, states in and states out."""

from collections.abc import Sequence

from torch import Tensor, nn

from spike_ops.neuron import PSN, BaseNode, Neuron, SlidingPSN
from spike_ops.neuron._base import State
from spike_ops.nn import TemporalEffectiveBatchNorm

# of each call of a neuron, in their order
States = list[State]
# why a part of the time is not enough, of neurons and norms
WHOLE: dict[type[nn.Module], str] = {
    PSN: "weighs all steps at once",
    SlidingPSN: "weighs the steps before a part",
    TemporalEffectiveBatchNorm: "weighs each step by its place",
    BaseNode: "is called step by step and remembers by itself",
}


def neurons_of(module: nn.Module) -> list[Neuron]:
    """Return the neurons that run over time themselves: not those inside another neuron.

    Raises:
        ValueError: One of them cannot run over a part of the time.
    """
    for kind, reason in WHOLE.items():
        if isinstance(module, kind):
            raise ValueError(f"{type(module).__name__} {reason}: its time cannot be cut")
    found: list[Neuron] = []
    if isinstance(module, Neuron):
        return [module]
    for child in module.children():
        found += neurons_of(child)
    return list(dict.fromkeys(found))


def run_with(
    module: nn.Module, neurons: Sequence[Neuron], x: Tensor, states: Sequence[States]
) -> tuple[Tensor, list[States]]:
    """Return the output for a part of the time from given states, and the states after it.

    States are those of every call of a neuron, in their order; none begins anew. Gradients go
    through the states. What the neurons keep themselves is as before.

    Raises:
        ValueError: A neuron did not run, or a stateful one ran twice: it goes on from call to call.
    """
    before = [(each.stateful, each._state, each._carried) for each in neurons]
    try:
        for neuron, given in zip(neurons, states, strict=True):
            neuron._carried = (given, [])
        out = module(x)
        after = [_carried(each) for each in neurons]
    finally:
        for neuron, (stateful, kept, carried) in zip(neurons, before, strict=True):
            neuron.stateful, neuron._state, neuron._carried = stateful, kept, carried
    return out, after


def _carried(neuron: Neuron) -> States:
    assert neuron._carried is not None
    states, kind = neuron._carried[1], type(neuron).__name__
    if not states:
        raise ValueError(f"{kind} did not run: its time cannot be cut")
    if neuron.stateful and len(states) > 1:
        raise ValueError(f"{kind} is stateful and ran {len(states)} times: its time cannot be cut")
    return states
