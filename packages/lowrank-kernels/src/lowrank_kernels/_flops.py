"""What the operators cost, for `torch.utils.flop_counter`.

A multiplication and an addition count as two, as in torch's own formulas; a bias counts nothing.
"""

from math import prod
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException


def _active(rank: Tensor, size: int) -> int:
    """Return the rank; the largest where a fake tensor hides it."""
    try:
        return int(rank)
    except DataDependentOutputException:
        return size


def linear(x: Tensor, down: Tensor, up: Tensor, bias: object, rank: Tensor, **_: Any) -> int:
    """Return `2·N·r·(n + m)`."""
    return 2 * prod(x.shape[:-1]) * _active(rank, down.shape[0]) * (down.shape[1] + up.shape[0])


def shrink(x: Tensor, w: Tensor, rank: Tensor, **_: Any) -> int:
    """Return `2·N·r·n`."""
    return 2 * x.shape[0] * _active(rank, w.shape[0]) * w.shape[1]


def expand(h: Tensor, w: Tensor, rank: Tensor, **_: Any) -> int:
    """Return `2·N·r·n`."""
    return 2 * h.shape[0] * _active(rank, w.shape[0]) * w.shape[1]


def outer(h: Tensor, x: Tensor, rank: Tensor, **_: Any) -> int:
    """Return `2·N·r·n`."""
    return 2 * h.shape[0] * _active(rank, h.shape[1]) * x.shape[1]


def _all_active(ranks: Tensor, size: int) -> int:
    """Return the sum of the ranks; the largest where a fake tensor hides it."""
    try:
        return int(ranks.sum())
    except DataDependentOutputException:
        return ranks.shape[0] * size


def linear_per_sample(
    x: Tensor, down: Tensor, up: Tensor, bias: object, inner: object, ranks: Tensor, **_: Any
) -> int:
    """Return `2·(n + m)·Σ r_i`."""
    return 2 * _all_active(ranks, down.shape[0]) * (down.shape[1] + up.shape[0])


def shrink_per_sample(x: Tensor, w: Tensor, inner: object, ranks: Tensor, **_: Any) -> int:
    """Return `2·n·Σ r_i`."""
    return 2 * _all_active(ranks, w.shape[0]) * w.shape[1]


def expand_per_sample(h: Tensor, w: Tensor, ranks: Tensor, **_: Any) -> int:
    """Return `2·n·Σ r_i`."""
    return 2 * _all_active(ranks, w.shape[0]) * w.shape[1]


def outer_per_sample(h: Tensor, x: Tensor, ranks: Tensor, *_: Any, **__: Any) -> int:
    """Return `2·n·Σ r_i`."""
    return 2 * _all_active(ranks, h.shape[1]) * x.shape[1]


def conv2d(
    x: Tensor, down: Tensor, up: Tensor, bias: object, rank: Tensor, *_: Any, out_val: Tensor
) -> int:
    """Return `2·N·H'·W'·r·groups·(c/groups·kh·kw + m/groups)`."""
    channels = down.shape[0] * _active(rank, down.shape[1])
    return 2 * _pixels(out_val) * channels * (prod(down.shape[2:]) + up.shape[1])


def conv_shrink(x: Tensor, w: Tensor, rank: Tensor, *_: Any, out_val: Tensor) -> int:
    """Return `2·N·H'·W'·r·c·kh·kw`."""
    return 2 * _pixels(out_val) * w.shape[0] * _active(rank, w.shape[1]) * prod(w.shape[2:])


def conv_expand(h: Tensor, w: Tensor, rank: Tensor, *_: Any, **__: Any) -> int:
    """Return `2·N·H'·W'·r·c·kh·kw`."""
    return 2 * _pixels(h) * w.shape[0] * _active(rank, w.shape[1]) * prod(w.shape[2:])


def conv_outer(h: Tensor, x: Tensor, rank: Tensor, *_: Any, out_val: Tensor) -> int:
    """Return `2·N·H'·W'·r·c·kh·kw`."""
    return 2 * _pixels(h) * h.shape[1] * _active(rank, h.shape[2]) * prod(out_val.shape[2:])


def _pixels(images: Tensor) -> int:
    return images.shape[0] * images.shape[-2] * images.shape[-1]
