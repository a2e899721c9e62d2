"""What the sweep is doing, for hooks that fire meanwhile."""

from dataclasses import dataclass

import torch

from layer_importance._events import Phase


@dataclass(slots=True)
class Now:
    """The moment of a sweep.

    Attributes:
        phase: whose labels gradients are for.
        last: whether no other backward pass follows through this graph.
        quiet: whether hooks say nothing: a part of the model runs again, or for a check.
        apart: whether a module runs by itself, outside of the model's forward pass.
        samples: how many samples the batch holds.
        differentiates: whether there will be a backward pass at all.
    """

    phase: Phase = "data"
    last: bool = True
    quiet: bool = False
    apart: bool = False
    samples: int = 0
    differentiates: bool = False


def recomputing() -> bool:
    """Whether a backward pass runs: a forward in it is activation checkpointing's second."""
    return torch._C._current_graph_task_id() != -1
