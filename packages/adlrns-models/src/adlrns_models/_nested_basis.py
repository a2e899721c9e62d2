"""The order of directions: every prefix the best of its rank for the inputs a sketch has seen."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fd_sketch import CovarianceSketch


@dataclass(frozen=True)
class OutputMoment:
    """Second moments of a weight's outputs, ``[K, K]`` each, K = the weight's smaller side.

    Attributes:
        proven: ``Q C0 Q'``, with ``C0 <= C`` what the sketch proves of the inputs.
        likely: ``Q C1 Q'``, ``C1`` the same with the exact diagonal of ``C``.
        weight: ``Q Q'``, as if inputs were white.
        trusted: how many directions ``proven`` alone can order.
        rounding: what rounding may have done to ``C0``, in norm.
    """

    proven: Tensor
    likely: Tensor
    weight: Tensor
    trusted: int
    rounding: float

    def loss_curves(self, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (lower, estimate) at rank ``0..K``: the energy along the columns left out."""
        proven = (basis * (self.proven @ basis)).sum(0).clamp(min=0.0)
        likely = (basis * (self.likely @ basis)).sum(0).clamp(min=0.0)
        return suffix_sums(proven), suffix_sums(torch.maximum(proven, likely))


def project(sketch: CovarianceSketch | None, q: Tensor) -> OutputMoment:
    """Returns what ``sketch`` knows of ``q @ x``; without a sketch, inputs are white.

    Args:
        sketch: of the inputs, or None.
        q: ``[K, n]`` float64.
    """
    weight = q @ q.T
    if sketch is None:
        return OutputMoment(weight, weight, weight, q.shape[0], 0.0)
    at_home = _at_home_of(sketch, q)
    proven = torch.as_tensor(sketch.quadratic_form(at_home)).to(q)
    exact = sketch.error_bound() == 0.0
    likely = (
        proven if exact else torch.as_tensor(sketch.quadratic_form(at_home, compensate=True)).to(q)
    )
    # the last directions of a sketch are shrunk most: it orders half as many as it has rows
    trusted = q.shape[0] if exact else max(1, sketch.sketch().shape[0] // 2)
    eps = torch.finfo(torch.float32).eps
    return OutputMoment(proven, likely, weight, trusted, 16 * eps * sketch.total_mass())


def _at_home_of(sketch: CovarianceSketch, q: Tensor) -> Any:
    """Returns ``q`` in the library and on the device of what the sketch was fed."""
    mean = sketch.mean
    return q.to(mean.device) if isinstance(mean, Tensor) else q.numpy(force=True)


def nested_basis(moment: OutputMoment) -> Tensor:
    """Returns orthonormal columns ``[K, K]``, every prefix optimal for its rank.

    Directions come from the sketch while it can be trusted, then from the sketch with the exact
    diagonal, then - where the data never went - from the weight itself, then from nowhere.
    """
    size = moment.weight.shape[0]
    basis = moment.weight.new_zeros(size, 0)
    white = torch.eye(size, dtype=basis.dtype, device=basis.device)
    stages = ((moment.proven, moment.trusted), (moment.likely, size), (moment.weight, size))
    for matrix, limit in (*stages, (white, size)):
        if basis.shape[1] < limit:
            basis = _extend(basis, matrix, limit - basis.shape[1])
    return basis


def _extend(basis: Tensor, matrix: Tensor, count: int) -> Tensor:
    """Appends at most ``count`` leading eigenvectors of ``matrix`` orthogonal to ``basis``."""
    rest = matrix
    for _ in range(2):  # twice is enough: once leaves rounding of the size of what was removed
        rest = rest - basis @ (basis.T @ rest)
        rest = rest - (rest @ basis) @ basis.T
    values, vectors = torch.linalg.eigh((rest + rest.T) / 2)
    tiny = torch.finfo(matrix.dtype).eps * matrix.shape[0] * matrix.diagonal().sum().clamp(min=0.0)
    found = min(count, int((values > tiny).sum()), matrix.shape[0] - basis.shape[1])
    more = vectors.flip(1)[:, :found]
    more = more - basis @ (basis.T @ more)
    return torch.cat([basis, torch.linalg.qr(more).Q], dim=1) if found else basis


def fix_signs(basis: Tensor) -> Tensor:
    """Makes each column's largest entry positive, so that devices agree on the factors."""
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return basis * torch.where(largest < 0, -1.0, 1.0)


def suffix_sums(values: Tensor) -> Tensor:
    """Returns the sums of ``values[r:]`` for ``r = 0..R``."""
    zero = values.new_zeros(1)
    return torch.cat([values.flip(0).cumsum(0).flip(0), zero])
