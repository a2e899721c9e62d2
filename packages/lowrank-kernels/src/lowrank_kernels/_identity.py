"""Factors with an identity block: r (m + n - r) weights instead of r (m + n)."""

from typing import NamedTuple

import torch
from torch import Tensor

from lowrank_kernels import _checks
from lowrank_kernels._dominant import dominant_rows
from lowrank_kernels._types import Rank


class IdentityBlock(NamedTuple):
    """A product of rank r whose second factor holds an `r x r` identity that is not stored.

    `h = head x + head_bias`, `y = [h, tail h + tail_bias][order]`: r of the m outputs are computed
    from the input, the others from these.

    Attributes:
        head: `[r, n]`, or `[r, c, kh, kw]` of a convolution.
        tail: `[m - r, r]`.
        order: `[m]` int64, where each output is found in `[h, tail h]`.
        head_bias: `[r]` or None.
        tail_bias: `[m - r]` or None.
    """

    head: Tensor
    tail: Tensor
    order: Tensor
    head_bias: Tensor | None
    tail_bias: Tensor | None


def identity_block(
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: Rank = None,
    *,
    inner_bias: Tensor | None = None,
    bound: float = 2.0,
) -> IdentityBlock:
    """Return the product of the first `rank` directions with an identity for a block.

    With p the r chosen outputs and q the others,

        head = up[p, :r] down[:r]        tail = up[q, :r] up[p, :r]^-1

    so that `W_r[p] = head` and `W_r[q] = tail head`: `r(m + n - r)` weights, never more than the
    `m·n` of the dense weight, and fewer below full rank. The choice p is such that no entry of
    `tail` is above `bound`; so the second stage `[I; tail]` has a condition of at most
    `sqrt(1 + bound² r (m - r))`, whatever that of `up` is.

    Computed in float64 and without gradients. Unlike the factors, the blocks of two ranks have
    nothing in common: this is a form for a rank that stays.

    Args:
        down: first factor `[R, n]`, or `[R, c, kh, kw]` of a convolution.
        up: second factor `[m, R]`, `R <= m` or a rank that is.
        bias: `[m]` or None.
        rank: r in 0..min(m, R) as an int or a 0-dim integer tensor; None is R.
        inner_bias: `[R]` or None, added between the factors.
        bound: the largest entry that `tail` may have, above 1; a smaller one takes more exchanges.

    Raises:
        ValueError: a shape, device, rank or number breaks the rules above.
        TypeError: a dtype or type does.

    Source: the junction matrix of LatentLLM (arXiv 2505.18413); `dominant_rows` for the choice.

    Example:
        >>> import torch
        >>> block = identity_block(torch.randn(8, 32), torch.randn(32, 8))
        >>> block.head.numel() + block.tail.numel(), 8 * (32 + 32 - 8)
        (448, 448)
    """
    flat = down.flatten(1) if isinstance(down, Tensor) and down.dim() == 4 else down
    _checks.check_factors(flat, up, bias, inner_bias)
    r = _checks.rank_value(rank, down.shape[0])
    if r > up.shape[0]:
        raise ValueError(f"rank must be at most the outputs, {up.shape[0]}, got {r}")
    bound = _checks.number("bound", bound, above=1)
    if up.is_meta:
        raise ValueError("up must have values, got a tensor on meta")
    with torch.no_grad():
        U = up[:, :r].double()
        if not (finite := U.isfinite()).all():
            raise ValueError(f"up must be finite, got {U[~finite][0].item()}")
        chosen, others, tail = dominant_rows(U, bound)
        head = (U[chosen] @ flat[:r].double()).reshape(r, *down.shape[1:])
        biases = _biases(U[chosen], tail, chosen, others, bias, inner_bias)
        order = torch.cat([chosen, others]).argsort()
        like = up.dtype
        first, second = (None if b is None else b.to(like) for b in biases)
        return IdentityBlock(head.to(like), tail.to(like), order, first, second)


def _biases(
    U: Tensor,
    tail: Tensor,
    chosen: Tensor,
    others: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return what is added to `head x` and to `tail h`; the tail carries the head's share along."""
    shift = None if inner is None else U @ inner[: U.shape[1]].double()
    if bias is None:
        return shift, None
    b = bias.double()
    first = b[chosen] if shift is None else b[chosen] + shift
    return first, b[others] - tail @ b[chosen]
