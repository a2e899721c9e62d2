"""Laws of factorisations and of layers with ranks, for ours and yours, and inputs to try them on.

The laws raise ``AssertionError`` where they are broken.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from adlrns_models._factorize import Factorization
from adlrns_models._gate_laws import (
    check_dynamic as check_dynamic,
    check_prefix_decisions as check_prefix_decisions,
    check_spectral_bound as check_spectral_bound,
)
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._materialize import materialize_model

FAMILIES = ("power-law", "outlier-channels", "log-normal-channels")


def synthetic_inputs(family: str, n_rows: int, n_features: int, *, seed: int = 0) -> Tensor:
    """Returns float64 rows ``[n_rows, n_features]`` of the kind that layers really see.

    All begin as Gaussians with covariance eigenvalues ``i^-3/2`` in a random basis.
    ``power-law`` passes them through a ReLU; ``outlier-channels`` multiplies one channel in fifty
    by 20, as in transformers; ``log-normal-channels`` scales each channel by ``exp(1.5 g)``, ``g``
    standard normal.

    Raises:
        ValueError: for an unknown family.

    Example:
        >>> from adlrns_models.testing import synthetic_inputs
        >>> synthetic_inputs("power-law", 10, 4).shape
        torch.Size([10, 4])
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {FAMILIES}, got {family!r}")
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(_normal(generator, n_features, n_features)).Q
    spectrum = torch.arange(1, n_features + 1, dtype=torch.float64) ** -0.75
    X = (_normal(generator, n_rows, n_features) * spectrum) @ basis.T
    if family == "power-law":
        return X.clamp(min=0.0)
    scale = torch.ones(n_features, dtype=torch.float64)
    if family == "outlier-channels":
        loud = torch.randperm(n_features, generator=generator)[: max(1, n_features // 50)]
        scale[loud] = 20.0
    else:
        scale = torch.exp(1.5 * _normal(generator, n_features))
    return X * scale


def _normal(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randn(size, generator=generator, dtype=torch.float64)


def direct_loss(
    factors: Factorization,
    weight: Tensor,
    X: Tensor,
    rank: int,
    *,
    bias: Tensor | None = None,
    sensitivity: Tensor | None = None,
) -> float:
    """Returns ``sum_x |Q (W x + b - f_r(x))|^2`` row by row in float64, ``Q'Q`` the sensitivity.

    The specification that loss curves answer to.
    """
    w, rows = weight.double(), X.double()
    wanted = rows @ w.T + (0.0 if bias is None else bias.double())
    inner = rows @ factors.down[:rank].double().T + factors.inner_bias[:rank].double()
    error = wanted - inner @ factors.up[:, :rank].double().T - factors.bias.double()
    if sensitivity is None:
        return float(error.square().sum())
    g = sensitivity.double()
    return float((error * (error * g if g.ndim == 1 else error @ g)).sum())


def least_losses(weight: Tensor, X: Tensor, *, center: bool = False) -> Tensor:
    """Returns the loss no rank-``r`` replacement can beat, ``[min(m, n) + 1]`` for ``r = 0...``.

    The squared singular values of ``X W'`` that are left out (Eckart & Young 1936); with
    ``center`` a bias may be chosen as well.
    """
    rows = X.double()
    rows = rows - rows.mean(0) if center else rows
    values = torch.linalg.svdvals(rows @ weight.double().T)
    curve = torch.zeros(min(weight.shape) + 1, dtype=torch.float64)
    tail = values.square().flip(0).cumsum(0).flip(0)
    curve[: min(len(tail), len(curve))] = tail[: len(curve)]
    curve[min(weight.shape)] = 0.0
    return curve


def check_factorization(
    factors: Factorization,
    weight: Tensor,
    X: Tensor,
    *,
    bias: Tensor | None = None,
    ranks: Iterable[int] | None = None,
    tolerance: float = 1e-9,
) -> None:
    """Asserts what holds for every factorisation made from a sketch of exactly the rows ``X``.

    Full rank reproduces the layer (where it was kept); losses never rise with the rank; at each
    rank the certificate holds. ``tolerance`` is relative to ``|X W'|^2`` and pays for the rounding
    of the sketch.
    """
    slack = tolerance * float((X.double() @ weight.double().T).square().sum())
    for curve in (factors.loss, factors.lower):
        assert bool((curve.diff() <= 0).all()), "a loss curve rises with the rank"
    for rank in range(factors.max_rank + 1) if ranks is None else ranks:
        low, estimate, high = factors.bounds(rank)
        true = direct_loss(factors, weight, X, rank, bias=bias)
        assert low - slack <= true <= high + slack, f"{low} <= {true} <= {high} fails at {rank}"
        assert low <= estimate <= high, f"the estimate {estimate} leaves {low}..{high} at {rank}"
    if factors.max_rank == min(weight.shape):
        left = direct_loss(factors, weight, X, factors.max_rank, bias=bias)
        assert left <= slack, f"full rank loses {left}"


def check_prefixes(layer: AdaptiveLayer, x: Tensor, ranks: Sequence[int]) -> None:
    """Asserts that changing the rank changes which prefix runs, and nothing else.

    Every rank computes ``up[:, :r] (down[:r] x + inner_bias[:r]) + bias``; parameters stay the
    same objects with the same values; coming back to a rank gives the same output to the bit.
    """
    before = layer.current_rank()
    parameters = [(p, p.detach().clone()) for p in layer.parameters()]
    tolerance = 1e3 * torch.finfo(layer.up.dtype).eps
    first: dict[int, Tensor] = {}
    with torch.no_grad(), layer.adapt_disabled():
        for rank in [*ranks, *reversed(ranks)]:
            layer.set_rank(rank)
            y = layer(x)
            assert torch.equal(first.setdefault(rank, y), y), f"rank {rank} is not reversible"
            wanted = materialize_model(layer, "dense")(x)
            size = float(wanted.abs().max()) if wanted.numel() else 0.0
            torch.testing.assert_close(y, wanted, rtol=tolerance, atol=tolerance * (size + 1))
        layer.set_rank(before)
    for now, (parameter, value) in zip(layer.parameters(), parameters, strict=True):
        assert now is parameter, "a rank change replaced a parameter"
        assert torch.equal(now, value), "a rank change wrote to a parameter"
