"""The factors of a dynamic layer: how they begin, and what they stand for."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adlrns_models._factorize import Factorization


class Factors(NamedTuple):
    """Nested factors and biases; the biases may be absent, then both are.

    Attributes:
        down: ``[R, n]``, or ``[R, in, kh, kw]`` for a convolution.
        up: ``[m, R]``.
        inner_bias: ``[R]`` or None.
        outer_bias: ``[m]`` or None.
    """

    down: Tensor
    up: Tensor
    inner_bias: Tensor | None
    outer_bias: Tensor | None


def fresh(shape: tuple[int, ...], r_max: int, *, bias: bool, place: dict[str, Any]) -> Factors:
    """Returns random factors whose product has the entries' variance of a fresh torch layer.

    ``up`` has orthonormal columns in a random direction and the rows of ``down`` are orthogonal,
    of falling norm: a singular value decomposition from the start, so every prefix is the best of
    its rank. Spectral initialisation: Khodak et al., ICLR 2021 (arXiv 2105.01029).
    """
    m, n = shape[0], math.prod(shape[1:])
    R = min(r_max, m, n)
    with torch.no_grad():
        like = place.get("dtype") or torch.get_default_dtype()
        wide: dict[str, Any] = {"device": place.get("device")}
        wide["dtype"] = torch.promote_types(like, torch.float32)
        U = torch.linalg.qr(torch.randn(m, R, **wide)).Q
        # torch draws entries of variance 1 / 3n; R of m directions carry all of it
        A, S, Vt = torch.linalg.svd(torch.randn(R, n, **wide), full_matrices=False)
        down = (S * math.sqrt(m / (3.0 * n * R)))[:, None] * Vt
        inner, outer = None, None
        if bias:
            inner = torch.zeros(R, device=U.device, dtype=like)
            outer = torch.empty_like(U[:, 0], dtype=like).uniform_(-1, 1).mul_(1 / math.sqrt(n))
    return Factors(down.reshape(R, *shape[1:]).to(like), (U @ A).to(like), inner, outer)


def taken(found: Factorization, shape: tuple[int, ...], r_max: int, *, bias: bool) -> Factors:
    """Returns the first ``r_max`` directions of a factorisation, in the layer's own shape."""
    R = min(r_max, found.max_rank)
    down = found.down[:R].reshape(R, *shape[1:]).clone()
    up = found.up[:, :R].clone(memory_format=torch.contiguous_format)
    if bias or bool(found.inner_bias.any()) or bool(found.bias.any()):
        return Factors(down, up, found.inner_bias[:R].clone(), found.bias.clone())
    return Factors(down, up, None, None)


def effective(factors: Factors) -> tuple[Tensor, Tensor | None]:
    """Returns the dense weight ``[m, n]`` and the bias that factors stand for."""
    weight = factors.up @ factors.down.flatten(1)
    if factors.inner_bias is None or factors.outer_bias is None:
        return weight, None
    return weight, factors.outer_bias + factors.up @ factors.inner_bias


def nested_svd(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``(U [m, R], sigma [R], V [n, R])`` of ``up @ down``, never forming the product."""
    dtype = torch.promote_types(up.dtype, torch.float32)
    with torch.autocast(up.device.type, enabled=False):
        Q, left = torch.linalg.qr(up.to(dtype))
        P, right = torch.linalg.qr(down.to(dtype).T)
        A, sigma, Bt = torch.linalg.svd(left @ right.T)
    return (Q @ A).to(up.dtype), sigma.to(up.dtype), (P @ Bt.T).to(up.dtype)
