"""What a trigger is: a pure function of the traces of a run."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass
class Traces:
    """What was seen of a run, one number after another.

    Attributes:
        loss: the training loss of every step.
        gradient_norm: the norm of the gradient of every step.
        validation: the held-out loss each time it was measured.
        training: the training loss at those times.
        used_rank: the effective rank of the units over their number, each time it was measured:
            the largest over the groups.
        saturated: the part of the units that are dead or saturated, each time.
        spread: how far units are from their nearest relative (see :func:`connection_lengths`).
    """

    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    used_rank: list[float] = field(default_factory=list)
    saturated: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Vote:
    """What one trigger says.

    Attributes:
        name: the trigger.
        grow: whether it asks for growth.
        veto: whether it forbids growth.
        reason: why.
    """

    name: str
    grow: bool
    reason: str
    veto: bool = False


@runtime_checkable
class Trigger(Protocol):
    """Says from the traces of a run whether it is time to grow."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def vote(self, traces: Traces) -> Vote:
        """Returns what it says; it changes nothing and remembers nothing."""
        ...
