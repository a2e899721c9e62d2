"""New units chosen by what they would gain at first order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuro_morph._arguments import check_kind
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._group_statistics import GroupStatistics, ReaderStatistics
from neuro_morph._leading import leading_svd

TARGETS = ("gradient", "residual")
METRICS = ("euclidean", "pre", "both")
CONSTRAINTS = (None, "zero_fan_in", "zero_fan_out")


@dataclass(frozen=True)
class Proposal:
    """New units of a group, the best first.

    Attributes:
        group: the group.
        fan_in: what each would be made by, ``[k, X]``; the last number is the bias if the maker
            has one.
        fan_out: what each would be read by, for every reader ``[k, O, places]``.
        gains: how fast the loss would fall with a factor of all units, ``[k]``: the squares of the
            singular values. It holds also where a constraint sets one side to zero.
    """

    group: str
    fan_in: Tensor
    fan_out: tuple[Tensor, ...]
    gains: Tensor


def propose_units(
    statistics: GroupStatistics,
    by: int,
    *,
    target: str = "residual",
    metric: str = "pre",
    constraint: str | None = None,
) -> Proposal:
    """Returns the ``by`` new units that lower the loss the fastest, from one decomposition.

    With ``T = E[x G']`` of the negative gradients ``G`` at the readers (or of what is left of them
    after the best change of the weights that are there, the ``residual``), ``S = E[x x']`` and
    ``K = E[G G']``: the singular value decomposition of ``T``, ``S^-1/2 T`` (``"pre"``) or
    ``S^-1/2 T K^-1/2`` (``"both"``) gives units ``psi_i = sqrt(s_i) S^-1/2 u_i`` and
    ``omega_i = sqrt(s_i) K^-1/2 v_i``. What stands between maker and reader is taken as the
    identity; where maps are smaller, as an average.

    Args:
        statistics: what was measured of the group.
        by: how many units.
        target: ``"gradient"`` or ``"residual"``.
        metric: ``"euclidean"``, ``"pre"`` or ``"both"``.
        constraint: ``"zero_fan_in"`` or ``"zero_fan_out"`` sets that side to zero, so that nothing
            changes at first; None keeps both.

    Raises:
        ValueError: for an unknown setting, or ``by`` not from 1 to the rank of ``T``.
        GrowthRefusedError: if the units are not made by one layer, or too many numbers are read
            for the residual.

    Source: Evci et al., GradMax (ICLR 2022); Verbockhaven et al., growing tiny networks (TMLR
    2024); Mitchell et al., self-expanding networks (arXiv:2307.04526).
    """
    check_kind(GroupStatistics, statistics=statistics)
    _check("target", target, TARGETS)
    _check("metric", metric, METRICS)
    _check("constraint", constraint, CONSTRAINTS)
    whole, lower, roots, shaped = _shaped(statistics, target, metric)
    most = min(whole.shape)
    if not 1 <= by <= most:
        raise ValueError(f"by must be in 1..{most}, the rank of what can be gained; got {by!r}")
    u, s, v = leading_svd(whole, by)
    amplitude = s.sqrt()[:, None]
    fan_in = amplitude * torch.linalg.solve_triangular(lower.mT, u, upper=True).T
    fan_out = _cut(amplitude * v, roots, shaped)
    if constraint == "zero_fan_in":
        fan_in = torch.zeros_like(fan_in)
    if constraint == "zero_fan_out":
        fan_out = tuple(torch.zeros_like(part) for part in fan_out)
    return Proposal(statistics.id, fan_in, fan_out, s.square())


def gains_of(statistics: GroupStatistics, target: str, metric: str, units: int) -> Tensor:
    """Returns the gains of the best ``units`` there could be (see ``Proposal``)."""
    whole = _shaped(statistics, target, metric)[0]
    return leading_svd(whole, min(units, *whole.shape))[1].square()


def residual(reader: ReaderStatistics) -> Tensor:
    """Returns ``E[x G']`` less what the best change of the reader's weights takes.

    ``E[x (G - B'h)']`` with ``B = E[h h']^-1 E[h G']``: what is left of the gradient when every
    unit that is there does its best. Shape ``[X, O, places]``.
    """
    if reader.x_g is None or reader.x_h is None or reader.h_h is None or reader.h_g is None:
        raise GrowthRefusedError(
            f"{reader.layer.path!r} reads too many numbers for the residual: ask for the gradient"
        )
    best = torch.cholesky_solve(reader.h_g, _lower(reader.h_h))
    return reader.x_g - torch.einsum("fke,eo->fok", reader.x_h, best)


def _lower(matrix: Tensor) -> Tensor:
    """Returns the Cholesky factor of a positive semi-definite matrix.

    What is added to the diagonal is what rounding may have left there: directions in which nothing
    varies stay without weight, as what is multiplied with them has nothing there either.
    """
    floor = float(matrix.diagonal().max()) * _floor(matrix) or 1.0
    return torch.linalg.cholesky(matrix + floor * torch.eye(len(matrix)).to(matrix))


def _floor(matrix: Tensor) -> float:
    """Returns the part of the largest eigenvalue below which the others may be rounding."""
    return 64 * len(matrix) * torch.finfo(matrix.dtype).eps


def inverse_power(matrix: Tensor, power: float) -> Tensor:
    """Returns ``matrix ** -power`` of a positive semi-definite matrix, over its range."""
    values, vectors = torch.linalg.eigh(matrix)
    floor = values.clamp(min=0).max() * _floor(matrix)
    kept = values > floor
    scale = torch.where(kept, values.clamp(min=1e-300) ** -power, torch.zeros_like(values))
    return (vectors * scale) @ vectors.T


def aims(statistics: GroupStatistics, target: str) -> list[Tensor]:
    """Returns what new units are to express at each reader, ``[X, O, places]``.

    Raises:
        GrowthRefusedError: see :func:`propose_units`.
    """
    if statistics.maker is None:
        raise GrowthRefusedError(
            f"no units can be proposed for {statistics.id!r}: {statistics.why_no_maker}"
        )
    if target == "residual":
        return [residual(reader) for reader in statistics.readers]
    return [reader.x_g for reader in statistics.readers if reader.x_g is not None]


def _shaped(
    statistics: GroupStatistics, target: str, metric: str
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Returns what is decomposed, ``L`` of ``S = L L'``, and for every reader its root and part.

    Any root of ``S^-1`` will do: ``L^-1`` gives the same units as ``S^-1/2``.
    """
    wanted, roots = aims(statistics, target), _roots(statistics, metric)
    shaped = [
        t if metric != "both" else torch.einsum("op,fpk->fok", r, t)
        for r, t in zip(roots, wanted, strict=True)
    ]
    whole = torch.cat([t.flatten(1) for t in shaped], 1)
    assert statistics.x_x is not None
    if metric == "euclidean":
        return whole, torch.eye(len(whole)).to(whole), roots, shaped
    lower = _lower(statistics.x_x)
    return torch.linalg.solve_triangular(lower, whole, upper=False), lower, roots, shaped


def _roots(statistics: GroupStatistics, metric: str) -> list[Tensor]:
    if metric == "both":
        return [inverse_power(reader.g_g, 0.5) for reader in statistics.readers]
    return [torch.eye(len(reader.g_g)).to(reader.g_g) for reader in statistics.readers]


def _cut(rows: Tensor, roots: list[Tensor], shaped: list[Tensor]) -> tuple[Tensor, ...]:
    """Returns the part of each reader: rows over all of them, each through its root."""
    parts = rows.split([t.shape[1] * t.shape[2] for t in shaped], 1)
    return tuple(
        torch.einsum("op,kpq->koq", root, part.reshape(len(rows), *t.shape[1:]))
        for part, root, t in zip(parts, roots, shaped, strict=True)
    )


def _check(name: str, given: object, known: tuple[object, ...]) -> None:
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {given!r}")
