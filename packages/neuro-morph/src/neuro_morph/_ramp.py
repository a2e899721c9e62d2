"""New units that come in slowly: what reads them grows from nothing over some steps."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuro_morph._edits import TensorEdit


@dataclass
class Ramp:
    """Columns of a parameter that are multiplied by ``alpha``, from 0 to 1 over some steps.

    The optimizer trains the columns themselves; the parameter holds ``alpha`` times them. At
    ``alpha = 0`` the network computes what it did, whatever the new units are.

    Attributes:
        dim: the axis of the columns.
        entries: the columns.
        steps: over how many optimizer steps they come in.
        taken: steps taken.
        held: the columns themselves.

    Source: Yao et al., masked structural growth (arXiv:2305.02869).
    """

    dim: int
    entries: Tensor
    steps: int
    taken: int = 0
    held: Tensor | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    @property
    def alpha(self) -> float:
        """The part of the columns that is there."""
        return min(self.taken / self.steps, 1.0)

    @property
    def done(self) -> bool:
        """Whether the columns are there in full."""
        return self.taken >= self.steps

    def begin(self, parameter: Tensor, columns: Tensor) -> None:
        """Takes columns to bring in, and leaves ``alpha`` times them in a parameter."""
        self.held = columns.to(parameter).clone()
        self.entries = self.entries.to(parameter.device)
        self._write(parameter, self.held * self.alpha)

    def hold(self, parameter: Tensor) -> None:
        """Takes the columns out of a parameter and leaves ``alpha`` times them."""
        self.held = parameter.index_select(self.dim, self.entries).clone()
        self._write(parameter, self.held * self.alpha)

    @property
    def share(self) -> float:
        """What the gradient of the columns themselves is, over that of what is there.

        At ``alpha = 0`` no gradient comes through: the columns are given that of the first part.
        """
        return max(self.alpha, 1.0 / self.steps)

    def lift(self, parameter: Tensor) -> None:
        """Puts the columns themselves into a parameter."""
        assert self.held is not None
        self._write(parameter, self.held)

    def lower(self, parameter: Tensor, *, counted: bool = True) -> None:
        """Leaves ``alpha`` times the columns in a parameter, after a step if one is counted."""
        self.taken += counted
        self.hold(parameter)

    def finish(self, parameter: Tensor) -> None:
        """Puts the columns in full."""
        assert self.held is not None
        self._write(parameter, self.held)
        self.taken = self.steps

    def grown(self, edit: TensorEdit) -> "Ramp":
        """Returns the ramp after an edit of its parameter."""
        for axis in edit.axes:
            if axis.dim == self.dim:
                places = (
                    torch.isin(axis.take, self.entries.to(axis.take.device)).nonzero().flatten()
                )
                return replace(self, entries=places.to(self.entries.device), held=None)
        return replace(self, held=None)

    def held_after(
        self, edit: TensorEdit, old: Tensor, new: Tensor, entries: Tensor
    ) -> Tensor | None:
        """Returns the columns themselves after an edit of their parameter."""
        if self.held is None:
            return None
        full = old.index_copy(self.dim, self.entries, self.held.to(old))
        grown = torch.where(edit.fresh(new), new.detach(), edit.apply(full))
        return grown.index_select(self.dim, entries).clone()

    def copy(self) -> "Ramp":
        """Returns a copy that shares nothing."""
        held = None if self.held is None else self.held.clone()
        return replace(self, entries=self.entries.clone(), held=held)

    def to(self, parameter: Tensor) -> "Ramp":
        """Returns a copy for a parameter, where it is and of its numbers."""
        held = None if self.held is None else self.held.to(parameter, copy=True)
        return replace(self, entries=self.entries.to(parameter.device, copy=True), held=held)

    def _write(self, parameter: Tensor, columns: Tensor) -> None:
        parameter.index_copy_(self.dim, self.entries, columns.to(parameter))


def new_entries(edit: TensorEdit, dim: int) -> Tensor:
    """Returns the entries of an axis that an edit has added."""
    takes = [axis.take for axis in edit.axes if axis.dim == dim]
    return (takes[0] < 0).nonzero().flatten() if takes else torch.empty(0, dtype=torch.long)
