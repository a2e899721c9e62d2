"""Second moments that an optimizer holds as two factors, grown with their parameter."""

from typing import Any

from torch import Tensor

from neuro_morph._edits import TensorEdit

ROWS, COLUMNS = "row_var", "col_var"  # of torch.optim.Adafactor


def factors_grown(state: dict[str, Any], parameter: Tensor, edit: TensorEdit) -> dict[str, Tensor]:
    """Returns the factors of the mean squares of a parameter's gradients, grown; none without them.

    Adafactor holds ``R``, the mean over the last axis, and ``C``, that over the one before, for
    ``V = R C / mean(R)``. An axis that a factor has grows as the squares themselves do; one that
    it is the mean over changes it by how much that mean of ``V`` changes, which the other factor
    says.

    Args:
        state: what the optimizer holds for the parameter.
        parameter: the parameter, grown.
        edit: how it grew.
    """
    rows, columns = state.get(ROWS), state.get(COLUMNS)
    if not isinstance(rows, Tensor) or not isinstance(columns, Tensor):
        return {}
    last = parameter.dim() - 1
    wide, high = _kept(rows, edit, last), _kept(columns, edit, last - 1)
    return {
        ROWS: wide * _change(columns, high, last),
        COLUMNS: high * _change(rows, wide, last - 1),
    }


def _kept(factor: Tensor, edit: TensorEdit, reduced: int) -> Tensor:
    """Returns a factor grown along the axes that it has."""
    axes = [axis for axis in edit.axes if axis.dim != reduced]
    return TensorEdit(edit.name, axes).carry(factor, 2.0, float(factor.median()))


def _change(before: Tensor, after: Tensor, dim: int) -> Tensor:
    """Returns by how much the mean along an axis changes: one number for the whole tensor."""
    if before.shape[dim] == after.shape[dim]:
        return before.new_ones(())
    old, new = before.mean(), after.mean()
    return (new / old).where(old > 0, old.new_ones(()))
