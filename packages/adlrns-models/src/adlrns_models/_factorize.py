"""Nested, data-aware factors of a weight, from a sketch of its inputs and without an inverse."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adlrns_models._certificate import LossBounds, loss_bounds
from adlrns_models._checks import check_factorize
from adlrns_models._nested_basis import fix_signs, nested_basis, project
from adlrns_models._two_sided import OutputSensitivity, sensitivity_root
from fd_sketch import CovarianceSketch


@dataclass(frozen=True)
class Factorization:
    """The nested factors of one affine map and what every rank costs in output error.

    ``y = up[:, :r] @ (down[:r] @ x + inner_bias[:r]) + bias`` is, for every ``r`` at once, the
    best rank-``r`` affine approximation of ``weight @ x + bias`` on the sketched inputs.

    Attributes:
        down: ``[R, n]``, rows ordered by falling importance.
        up: ``[m, R]``.
        inner_bias: ``[R]``, ``-down @ mu`` for centred inputs, else zeros.
        bias: ``[m]``, the output at the mean input.
        loss: ``[R + 1]`` float64, estimated loss ``tr(Q E_r C E_r' Q)`` at rank ``0..R``, summed
            over the sketched rows; ``Q^2`` is the sensitivity (identity when there is none).
        lower: ``[R + 1]`` float64, the part of ``loss`` that the sketch itself proves.
        error_bound: the sketch's ``Delta``.
        residual_mass: the sketch's ``rho``.
        rounding: what rounding may have done to the sketched second moment, in norm.
        gram: ``[K, K]`` float64, inner products of all ``K = min(m, n)`` rows of ``down``, kept or
            not: its trailing blocks hold the singular values of what each rank leaves out.
    """

    down: Tensor
    up: Tensor
    inner_bias: Tensor
    bias: Tensor
    loss: Tensor
    lower: Tensor
    error_bound: float
    residual_mass: float
    rounding: float
    gram: Tensor

    @property
    def max_rank(self) -> int:
        """The number of nested directions, ``R``."""
        return self.down.shape[-2]

    def of_columns(self, columns: slice) -> "Factorization":
        """Returns the same factorisation for a weight that reads only these of its inputs."""
        return replace(self, down=self.down[:, columns].clone())

    def to(self, device: torch.device) -> "Factorization":
        """Returns the same factorisation on ``device``."""
        tensors = {
            name: getattr(self, name).to(device)
            for name in ("down", "up", "inner_bias", "bias", "loss", "lower", "gram")
        }
        return replace(self, **tensors)

    def bounds(self, rank: int) -> LossBounds:
        """Returns the certificate ``lower <= true loss <= upper`` at ``rank``.

        Args:
            rank: the rank the layer would run at, ``0..R``.

        Raises:
            ValueError: if ``rank`` is outside ``0..R``.
        """
        return loss_bounds(self, rank)


def factorize(
    weight: Tensor,
    bias: Tensor | None = None,
    sketch: CovarianceSketch | None = None,
    *,
    sensitivity: Tensor | CovarianceSketch | OutputSensitivity | None = None,
    max_rank: int | None = None,
) -> Factorization:
    """Returns factors that are optimal at every rank for the inputs a sketch has seen.

    With ``C = B'B`` the sketched second moment, the error ``tr(E C E')`` of a rank-``r``
    replacement is least for ``U_r`` = top-``r`` left singular vectors of ``W B'`` and
    ``W_r = U_r U_r' W``. Nothing is inverted, so rank-deficient inputs need no jitter. Directions
    up to half the sketch come from the sketch alone; later ones also see the exact diagonal that
    the sketch kept (its rows know little about them); what the data never excited is ordered by
    the singular values of ``W`` itself, so that full rank reproduces the layer.

    Args:
        weight: ``[m, n]``.
        bias: ``[m]`` or None.
        sketch: sketch of the inputs ``[*, n]``, with rows seen; None means white inputs (plain
            SVD). A centred sketch gives the bias correction ``b + (I - U_r U_r') W mu`` at every
            rank.
        sensitivity: ``[m]`` non-negative weights of the outputs' squared errors, or ``[m, m]``
            a positive semi-definite matrix ``G`` of them, or a sketch of gradients with the
            output whose mean second moment is ``G``; None (or nothing but zeros) means all equal.
            Least ``tr(G E C E')`` is had by ``U`` of ``S' W B'`` for any ``S S' = G``:
            ``up = S'^-1 U``, ``down = U' S' W``. Values below 1e-4 of the largest count as that:
            every output keeps a voice, nothing singular is inverted, and the loss and its bounds
            speak of the sensitivity so raised.
        max_rank: the number of directions kept, default ``min(m, n)``.

    Raises:
        ValueError, TypeError: for a wrong shape, dtype, rank or a non-finite weight.

    Example:
        >>> import torch
        >>> from adlrns_models import factorize
        >>> weight = torch.randn(6, 4)
        >>> factors = factorize(weight)
        >>> bool(torch.allclose(factors.up @ factors.down, weight, atol=1e-5))
        True
        >>> float(factors.loss[-1])
        0.0

    Source: DRONE (Chen et al., NeurIPS 2021) states the problem; the inverse-free projection is
    that of output-covariance methods (Swift-SVD, arXiv 2604.01609), here on a sketch.
    """
    check_factorize(weight, bias, sketch, sensitivity, max_rank)
    w = weight.detach().double()
    root = sensitivity_root(sensitivity, w)
    q = w if root is None else root.turn(w)
    # with m > n the columns of q span n dimensions: work in an orthonormal basis of them
    frame, square = torch.linalg.qr(q) if q.shape[0] > q.shape[1] else (None, q)
    moment = project(sketch, square)
    inner = nested_basis(moment)  # [K, K]
    basis = fix_signs(inner if frame is None else frame @ inner)  # [m, K]
    inner = basis if frame is None else frame.T @ basis
    size = min(w.shape) if max_rank is None else min(max_rank, *w.shape)
    down, up = basis[:, :size].T @ q, basis[:, :size]
    lower, loss = moment.loss_curves(inner)
    mean = _mean(sketch, w)
    offset = w @ mean if bias is None else bias.detach().double() + w @ mean
    like = weight.dtype
    return Factorization(
        down=down.to(like),
        up=(up if root is None else root.undo(up)).to(like),
        inner_bias=-(down @ mean).to(like),
        bias=offset.to(like),
        loss=loss[: size + 1],
        lower=lower[: size + 1],
        error_bound=0.0 if sketch is None else sketch.error_bound(),
        residual_mass=0.0 if sketch is None else max(0.0, sketch.residual_mass()),
        rounding=moment.rounding,
        gram=inner.T @ moment.weight @ inner,
    )


def _mean(sketch: CovarianceSketch | None, w: Tensor) -> Tensor:
    if sketch is None or not sketch.center:
        return w.new_zeros(w.shape[1])
    return torch.as_tensor(sketch.mean, device=w.device).to(w.dtype)
