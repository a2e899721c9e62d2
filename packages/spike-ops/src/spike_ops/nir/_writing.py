"""What an export decides, and the nodes that a module becomes."""

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from spike_ops.nir._errors import NirError
from spike_ops.nir._numbers import below

SoftReset = Literal["subgraph", "metadata", "hard", "error"]
Ties = Literal["exact", "keep", "error"]
Shape = tuple[int, ...]


@dataclass
class Piece:
    """Nodes of a module, edges among them, where it is entered and left."""

    nodes: dict[str, Any]
    enter: str
    leave: str
    edges: list[tuple[str, str]] = field(default_factory=list)

    def then(self, other: "Piece") -> "Piece":
        """Return this piece with another behind it."""
        edges = [*self.edges, (self.leave, other.enter), *other.edges]
        return Piece(self.nodes | other.nodes, self.enter, other.leave, edges)


@dataclass(frozen=True)
class Writing:
    """How networks become graphs."""

    dt: float
    soft_reset: SoftReset
    ties: Ties
    dtype: torch.dtype

    def threshold(self, name: str, theta: float, strict: bool) -> float:
        """Return θ for a reader that fires above it only."""
        if strict:
            return theta
        rule = f"neurons of NIR fire above their threshold, these at {theta} as well"
        if self.ties == "error":
            raise NirError(name, f"{rule}; ties='exact' exports the next smaller number")
        if self.ties == "keep":
            warnings.warn(f"{name}: {rule}: that is lost", stacklevel=2)
            return theta
        return below(theta, self.dtype)


def one(name: str, node: Any) -> Piece:
    """Return the piece of a single node."""
    return Piece({name: node}, name, name)
