"""What the first directions and the norm of an input prove about the directions not computed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adlrns_models import _kept, _observe
from adlrns_models._gate_energy import NEARLY, distance, gram_of

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer

# directions of the first rows that lie this much lower than the strongest are left out: a value
# is divided by its strength
_WEAKEST = 1e-3
Key = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FactorBounds:
    """Bounds on what follows from ``h = down[:k] x + b[:k]`` for the rest of an output.

    Let ``B`` be an orthonormal basis of the rows of ``down[:k]``. ``q = B'x`` follows from ``h``,
    and what is left of the input has norm ``s = sqrt(|x|^2 - |q|^2)``. With ``up = Q S``, Q of
    orthonormal columns, the part of the output still to come is, in the coordinates of Q,
    ``S_t (D_t B q + b_t) + S_t D_t (I - BB') x``: known exactly, but for a vector no longer than
    ``reach * s`` with ``reach = |S_t D_t (I - BB')|_2``. Over several rows norms add up by
    Minkowski's inequality. For factors from a singular value decomposition nothing but the vector
    is to come, and ``reach`` is the next singular value.

    Attributes:
        key: of the factors this was made from.
        held: these factors: while they are held nothing else can come to lie at their addresses.
        ceiling: how many directions there are.
        gram: ``[c, c]``, ``up' up``.
        distance: ``|gram - I|_F``.
        basis: ``[k, j]``, takes ``h - b[:k]`` to ``q``.
        start: ``[k]``, ``b[:k]``.
        first: ``[k, d]``, takes ``h`` to the output of the first directions; ``d <= 2k + 1``
            coordinates hold all that follows from ``h``.
        later: ``[k, d]``, takes ``h - b[:k]`` to the known part of what is to come.
        offset: ``[d]``, what is to come for ``q = 0`` and ``s = 0``.
        reach: the most that a unit of ``s`` adds.
        rounding: times the precision of ``h``, the share of ``|x|^2`` that rounding may hide.
    """

    key: Key
    held: tuple[Tensor, ...]
    ceiling: int
    gram: Tensor
    distance: float
    basis: Tensor
    start: Tensor
    first: Tensor
    later: Tensor
    offset: Tensor
    reach: float
    rounding: float

    @property
    def is_orthonormal(self) -> bool:
        """Whether sums of squares serve in place of a quadratic form."""
        return self.distance <= NEARLY

    def prove(
        self, h: Tensor, energy: Tensor, eps: float, *, precision: float, together: bool
    ) -> Tensor:
        """Returns where ``|y_c - y_k| <= eps |y_c - outer_bias|`` is certain.

        Args:
            h: ``[N, positions, k]`` inner values, as float64.
            energy: ``[N]``, ``|x|^2`` over a sample's rows.
            eps: the bound.
            precision: that the inner values were computed in, relative.
            together: one answer ``[1]`` for all samples with finite numbers, not ``[N]``.
        """
        to_come, whole, hidden = self._energies(h, energy, precision, together)
        hidden = self.reach * hidden.sqrt()
        lost = to_come.sqrt() + hidden
        left = whole.sqrt() - hidden
        if self.is_orthonormal:  # what is to come is then across the first directions
            first = h.square().sum((1, 2))
            first = _finite_sum(first) if together else first
            left = torch.maximum(left, ((1 - self.distance) * first).sqrt())
        return lost <= eps * left

    def _energies(
        self, h: Tensor, energy: Tensor, precision: float, together: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the squared norms of what is known to come, of all that is known, and ``s^2``."""
        centred = h - self.start
        known = centred @ self.later + self.offset
        s = (energy - (centred @ self.basis).square().sum((1, 2))).clamp(min=0.0)
        parts = (
            known.square().sum((1, 2)),
            (known + h @ self.first).square().sum((1, 2)),
            s + precision * self.rounding * energy,
        )
        return tuple(map(_finite_sum, parts)) if together else parts  # type: ignore[return-value]


def _finite_sum(values: Tensor) -> Tensor:
    # infinity may be a large number's square: it stays, and nothing is proven
    return torch.where(values.isnan(), 0.0, values).sum(0, keepdim=True)


def kept_bounds(kept: FactorBounds | None, layer: "DynamicLayer", ceiling: int) -> FactorBounds:
    """Returns the bounds that ``kept`` holds if the factors are still the same, else new ones."""
    key = _key(layer, ceiling)
    if kept is not None and kept.key == key and key:
        return kept
    exact = torch.autocast(layer.up.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), exact:  # they outlive the call's mode
        return bounds_of(layer, ceiling, key)


def bounds_of(layer: "DynamicLayer", ceiling: int, key: Key = ()) -> FactorBounds:
    """Returns the bounds for a layer at a ceiling; without a decomposition while it trains."""
    k, c = layer.r_min, ceiling
    up = layer.up.detach()[:, :c]
    gram = gram_of(up)
    rows = layer.down.detach().flatten(1)[:c].double()
    b = torch.zeros_like(gram[0]) if layer.inner_bias is None else layer.inner_bias[:c].double()
    held = tuple(t.detach() for t in _parts(layer))
    if layer.training:
        return FactorBounds(
            key, held, c, gram, distance(gram), *(gram[:0],) * 5, reach=0.0, rounding=0.0
        )
    S = torch.linalg.qr(up.double()).R  # [min(m, c), c]
    A, values, Bt = torch.linalg.svd(rows[:k], full_matrices=False)
    strong = values > _WEAKEST * values[:1]
    A, values, Bt = A[:, strong], values[strong], Bt[strong]
    basis = A / values  # [k, j]
    later = S[:, k:] @ (rows[k:] @ Bt.T)  # [c, j]
    hidden = S[:, k:] @ (rows[k:] - (rows[k:] @ Bt.T) @ Bt)
    spread = float(values[0] / values[-1]) if len(values) else 1.0
    known = torch.cat([S[:, :k], later @ basis.T, (S[:, k:] @ b[k:])[:, None]], 1)  # [c, 2k + 1]
    if known.shape[1] < known.shape[0]:  # norms alone count: in as few coordinates as there are
        known = torch.linalg.qr(known).Q.T @ known
    return FactorBounds(
        key=key,
        held=held,
        ceiling=c,
        gram=gram,
        distance=distance(gram),
        basis=basis,
        start=b[:k],
        first=known[:, :k].T,
        later=known[:, k : 2 * k].T,
        offset=known[:, 2 * k],
        reach=float(torch.linalg.matrix_norm(hidden, 2)),
        rounding=4.0 * rows.shape[1] ** 0.5 * spread,
    )


def _key(layer: "DynamicLayer", ceiling: int) -> Key:
    """Returns what changes when the factors do, or nothing where that cannot be told."""
    if layer.up.is_inference() or _observe.transformed():
        return ()
    tensors = _parts(layer)
    where = [t.data_ptr() for t in tensors] + [t._version for t in tensors]
    return (ceiling, layer.r_min, layer.training, _kept._last_optimizer_step, *where)


def _parts(layer: "DynamicLayer") -> list[Tensor]:
    return [t for t in (layer.down, layer.up, layer.inner_bias) if t is not None]
