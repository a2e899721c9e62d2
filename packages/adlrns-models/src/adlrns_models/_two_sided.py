"""Weighing outputs: a root of their sensitivity, from a vector, a matrix or a gradient sketch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fd_sketch import CovarianceSketch

# what is below this share of the largest counts as that: an output whose gradient was never seen
# keeps a voice, and a root is never divided by what is near zero
FLOOR = 1e-4


@dataclass(frozen=True)
class OutputSensitivity:
    """``G = B'B + diag(d)``, for layers whose ``G`` itself would be too large.

    Attributes:
        rows: ``B [l, m]``.
        diagonal: ``d [m]``, not negative.
    """

    rows: Tensor
    diagonal: Tensor


def sketched_sensitivity(sketch: CovarianceSketch, shrinkage: float = 0.0) -> OutputSensitivity:
    """Returns the mean second moment of the rows that a sketch has seen, its diagonal exact.

    Args:
        sketch: of gradients with the layer's output, not centred.
        shrinkage: share by which it is drawn towards all outputs being equal; its trace stays.
    """
    count = max(1, sketch.n_samples_seen)
    rows = torch.as_tensor(sketch.sketch()).double()
    diagonal = torch.as_tensor(sketch.residual_diagonal(), device=rows.device).double()
    kept, equal = (1 - shrinkage) / count, shrinkage * sketch.total_mass() / count / rows.shape[1]
    return OutputSensitivity(rows * kept**0.5, diagonal.clamp(min=0.0) * kept + equal)


@dataclass(frozen=True)
class Root:
    """``S`` with ``S S' = G``, as ``diag(scale) (I + V diag(stretch - 1) V')``.

    Then ``tr(G E C E')`` is the squared norm of ``S' E C^(1/2)``: the two-sided problem is the
    one-sided one for ``S' W``. A multiple of ``m (l + 1)`` numbers, not ``m^2``.

    Attributes:
        scale: ``[m]``, positive.
        vectors: ``V [m, k]``, orthonormal columns, perhaps none.
        stretch: ``[k]``, positive.
    """

    scale: Tensor
    vectors: Tensor
    stretch: Tensor

    def turn(self, matrix: Tensor) -> Tensor:
        """Returns ``S' @ matrix``, ``[m, *]``."""
        return self._stretched(self.scale[:, None] * matrix, self.stretch)

    def undo(self, matrix: Tensor) -> Tensor:
        """Returns ``S'^-1 @ matrix``, ``[m, *]``."""
        return self._stretched(matrix, 1 / self.stretch) / self.scale[:, None]

    def _stretched(self, matrix: Tensor, by: Tensor) -> Tensor:
        return matrix + self.vectors @ ((by - 1)[:, None] * (self.vectors.T @ matrix))


def sensitivity_root(
    sensitivity: Tensor | OutputSensitivity | CovarianceSketch | None, like: Tensor
) -> Root | None:
    """Returns a root of the sensitivity, floored; None where it says nothing.

    Args:
        sensitivity: ``[m]``, ``[m, m]``, or a sketch of gradients, of which the mean is taken.
        like: a tensor that says dtype and device.
    """
    if sensitivity is None:
        return None
    if isinstance(sensitivity, Tensor):
        g = sensitivity.detach().to(like)
        return _root_of_weights(g) if g.ndim == 1 else _root_of_matrix(g)
    if not isinstance(sensitivity, OutputSensitivity):
        sensitivity = sketched_sensitivity(sensitivity)
    return _root_of_sum(sensitivity.rows.to(like), sensitivity.diagonal.to(like))


def _root_of_weights(weights: Tensor) -> Root | None:
    if not weights.max() > 0:
        return None
    scale = weights.clamp(min=FLOOR * float(weights.max())).sqrt()
    return Root(scale, weights.new_zeros(len(weights), 0), weights.new_zeros(0))


def _root_of_matrix(matrix: Tensor) -> Root | None:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    if not values.max() > 0:
        return None
    stretch = values.clamp(min=FLOOR * float(values.max())).sqrt()
    return Root(torch.ones_like(values), vectors, stretch)


def _root_of_sum(rows: Tensor, diagonal: Tensor) -> Root | None:
    top = float((rows.square().sum(0) + diagonal).max())
    if not top > 0:
        return None
    scale = diagonal.clamp(min=FLOOR * top).sqrt()
    # S S' = D + B'B for S = D^(1/2) (I + K'K)^(1/2), K = B D^(-1/2)
    _, sizes, vectors = torch.linalg.svd(rows / scale, full_matrices=False)
    return Root(scale, vectors.T, (1 + sizes.square()).sqrt())
