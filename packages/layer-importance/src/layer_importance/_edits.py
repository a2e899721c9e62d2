"""What can be done to a unit while the model runs, and to its branch, sample by sample."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from layer_importance._units import Unit


@dataclass(frozen=True, slots=True)
class Edit:
    """What a unit hands on instead of its output.

    Attributes:
        change: makes the new output stream of the input ``x`` and the output ``y``.
        runs: whether the unit has to run for it; if not, ``y`` is the one of the unchanged run.
        enter: makes what the unit reads of what comes in, where it runs; ``x`` is then that.
        around: made anew for each run of the unit, which happens inside it.
    """

    change: Callable[[Tensor, Tensor], Tensor]
    runs: bool = False
    enter: Callable[[Tensor], Tensor] | None = None
    around: Callable[[], AbstractContextManager[None]] = nullcontext


def removal(unit: Unit) -> Edit:
    """Returns the edit that takes a unit out: its input, or nothing for a branch."""
    if unit.removal == "zero":
        return Edit(lambda x, y: torch.zeros_like(y))
    return Edit(lambda x, y: x)


def branch(unit: Unit, x: Tensor, y: Tensor) -> Tensor:
    """Returns what a unit adds to its stream: ``y - x``, or ``y`` where no input passes by.

    The input passes by where it can stand in for the output. What the parent adds to the stream
    (``removal="zero"``) and what changes the shape is all branch.
    """
    return y - x if passes_on(unit) else y


def with_branch(unit: Unit, x: Tensor, added: Tensor) -> Tensor:
    """Returns the output of a unit whose branch is ``added``."""
    return x + added if passes_on(unit) else added


def passes_on(unit: Unit) -> bool:
    """Whether a unit's input is part of its output."""
    return unit.removable and unit.removal == "identity"


def adds(unit: Unit, added: Callable[[Tensor, Tensor], Tensor], *, runs: bool = False) -> Edit:
    """Returns the edit that makes a unit's branch ``added(x, branch)``."""
    return Edit(lambda x, y: with_branch(unit, x, added(x, branch(unit, x, y))), runs)
