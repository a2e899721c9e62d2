"""Compiled time loops: built when asked for, used by `auto` once they are there."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from spike_ops.neuron._lif_loops import Backward, Forward, backward_loop, forward_loop
from spike_ops.neuron._lif_rule import LifRule

_built: set[Any] = set()


@lru_cache(maxsize=256)
def loops(rule: LifRule, kept: str, compiled: bool) -> tuple[Forward, Backward]:
    """Return the forward and the backward loop of a rule, as they are or to be compiled."""
    forward, backward = forward_loop(rule, kept), backward_loop(rule, kept)
    if not compiled:
        return forward, backward
    # the number of neurons may differ from call to call, the number of steps is unrolled
    return (
        torch.compile(forward, dynamic=None, fullgraph=True),
        torch.compile(backward, dynamic=None, fullgraph=True),
    )


def remember_built(rule: LifRule, x: Tensor) -> None:
    """Enter that the loops of a rule are compiled for such currents."""
    _built.add((rule, x.shape[0], x.dtype, x.device.type))


def is_built(rule: LifRule, x: Tensor) -> bool:
    """Say whether the loops of a rule were compiled for such currents."""
    return (rule, x.shape[0], x.dtype, x.device.type) in _built
