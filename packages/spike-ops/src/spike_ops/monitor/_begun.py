"""From where a call of a neuron layer begins, and stepping it again without a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops.neuron import PSN, Neuron, SlidingPSN

States = tuple[Tensor, ...]
# what fires; of these only a `Neuron` has steps and a membrane
LAYERS = (Neuron, PSN, SlidingPSN)
_stepping_again: ContextVar[bool] = ContextVar("stepping again", default=False)


def is_again() -> bool:
    """Say whether what runs now is a repetition, of which nothing is to be counted.

    What runs inside a backward pass is: checkpoints run forward passes a second time there.
    """
    return _stepping_again.get() or torch._C._current_graph_task_id() != -1


@contextmanager
def again(neuron: nn.Module, device: torch.device) -> Iterator[None]:
    """Run neurons once more inside: statistics, states and random numbers come back after it."""
    before = [(each, dict(each.__dict__)) for each in neuron.modules()]
    token = _stepping_again.set(True)
    try:
        for module, kept in before:
            own: dict[str, Any] = {"_buffers": _cloned(kept["_buffers"])}
            if "_memories" in kept:
                own["_memories"] = dict(kept["_memories"])
            module.__dict__.update(own)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        _stepping_again.reset(token)
        for module, kept in before:
            module.__dict__.update(kept)


def _cloned(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if each is None else each.clone() for name, each in buffers.items()}


def beginning(
    neuron: Neuron, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, States]:
    """Return a call's dense currents and the state it begins from."""
    given = dict(zip(("currents", "state"), args, strict=False)) | kwargs
    currents = neuron._checked(given["currents"]).detach()
    state = given.get("state")
    if neuron._carried is not None:
        states, ended = neuron._carried
        state = states[len(ended)] if len(ended) < len(states) else None
    return currents, neuron._begin(currents, state)
