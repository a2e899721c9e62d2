"""The laws of the low-rank linear product of several layers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lowrank_kernels._batched_reference import lowrank_linear_batched_reference
from lowrank_kernels._laws import (
    Law,
    Product,
    assert_close,
    doubles,
    gradients,
    random,
    second,
    truth,
)

reference: Product = lowrank_linear_batched_reference
# layers, rows, n, m, R: one of everything, odd, many rows, R above n and m
SIZES = ((1, 1, 1, 1, 1), (3, 3, 5, 7, 4), (2, 19, 70, 33, 67), (5, 2, 6, 5, 9))
NAMES = ("x", "down", "up", "bias", "inner_bias")


def _factors(like: Tensor, size: tuple[int, int, int, int, int]) -> tuple[Tensor, ...]:
    L, N, n, m, R = size
    shapes = ((L, N, n), (L, R, n), (L, m, R), (L, m), (L, R))
    return tuple(random(like, *shape, seed=i) for i, shape in enumerate(shapes))


def _rank_vectors(like: Tensor, L: int, R: int) -> Iterator[tuple[str, Tensor | None]]:
    i = torch.arange(L, device=like.device)
    yield from (("None", None), ("none", 0 * i), ("all", 0 * i + R), ("equal", 0 * i + R // 2))
    yield from (("rising", (2 * i) % (R + 1)), ("falling", R - i % (R + 1)))


def _with_inner(product: Product, ranks: Tensor | None) -> Product:
    return lambda x, down, up, bias, inner, **_: product(x, down, up, bias, ranks, inner_bias=inner)


def batched_equals_the_reference_at_all_ranks(product: Product, like: Tensor) -> None:
    """Each layer is its own product at its own rank, with and without the biases."""
    for size in SIZES:
        x, down, up, bias, inner = _factors(like, size)
        for name, ranks in _rank_vectors(like, size[0], size[4]):
            for b, c in ((bias, None), (None, None), (bias, inner), (None, inner)):
                got = product(x, down, up, b, ranks, inner_bias=c)
                assert got.dtype == like.dtype
                want = truth(_with_inner(reference, ranks), x, down, up, b, c)
                assert_close(f"y of {size}, ranks {name}", got, want)


def batched_keeps_the_axes_between(product: Product, like: Tensor) -> None:
    """Axes between the first and the last are rows; none and empty ones work."""
    _, down, up, bias, _ = _factors(like, (2, 1, 6, 5, 4))
    ranks = torch.tensor([1, 4], device=like.device)
    for lead in ((2,), (2, 3), (2, 2, 3), (2, 0), (2, 0, 3)):
        x = random(like, *lead, 6)
        want = truth(_without_inner(reference, ranks), x, down, up, bias)
        assert_close(f"y of {lead}", product(x, down, up, bias, ranks), want)
    none = (t[:0] for t in (random(like, 2, 3, 6), down, up, bias))
    assert product(*none, ranks[:0]).shape == (0, 3, 5)


def _without_inner(product: Product, ranks: Tensor) -> Product:
    return lambda x, down, up, bias, **_: product(x, down, up, bias, ranks)


def batched_never_reads_the_tails(product: Product, like: Tensor) -> None:
    """What lies beyond the rank of a layer does not matter, not even where it is no number."""
    x, down, up, bias, inner = _factors(like, (3, 5, 6, 7, 8))
    for ranks in ([5, 0, 8], [3, 3, 3]):
        r = torch.tensor(ranks, device=like.device)
        want = product(x, down, up, bias, r, inner_bias=inner)
        poisoned = [t.clone() for t in (down, up, inner)]
        for i, end in enumerate(ranks):
            poisoned[0][i, end:] = torch.nan
            poisoned[1][i, :, end:] = torch.inf
            poisoned[2][i, end:] = torch.nan
        got = product(x, *poisoned[:2], bias, r, inner_bias=poisoned[2])
        assert_close("y", got, want)


def batched_takes_any_strides(product: Product, like: Tensor) -> None:
    """Transposed and repeated memory changes nothing."""
    x, down, up, bias, _ = _factors(like, (3, 4, 6, 5, 8))
    ranks = torch.tensor([2, 8, 5], device=like.device)
    want = product(x, down, up, bias, ranks)
    other = [t.mT.contiguous().mT for t in (x, down, up)]
    assert_close("transposed", product(*other, bias, ranks), want)
    one = [t[:1].expand(t.shape) for t in (x, down, up, bias)]
    same = [t.clone() for t in one]
    assert_close("repeated", product(*one, ranks), product(*same, ranks))


def batched_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients are those of the reference, and exact zeros beyond each rank."""
    for size in SIZES:
        tensors: Any = _factors(like, size)
        for kind, ranks in _rank_vectors(like, size[0], size[4]):
            got = gradients(_with_inner(product, ranks), tensors)
            want = gradients(_with_inner(reference, ranks), doubles(*tensors))
            for name, g, w in zip(NAMES, got, want, strict=True):
                assert_close(f"gradient of {name} of {size}, ranks {kind}", g, w)
            for i, r in enumerate([] if ranks is None else ranks.tolist()):
                assert not got[1][i, r:].any()
                assert not got[2][i, :, r:].any()


def batched_gradients_are_differentiable(product: Product, like: Tensor) -> None:
    """Second derivatives are those of the reference too."""
    tensors = _factors(like, (3, 4, 5, 4, 6))
    for kind, ranks in _rank_vectors(like, 3, 6):
        got = second(_with_inner(product, ranks), tensors)
        want = second(_with_inner(reference, ranks), doubles(*tensors))
        for name, g, w in zip(NAMES, got, want, strict=False):
            assert_close(f"second derivative in {name}, ranks {kind}", g, w)


BATCHED_LAWS: tuple[Law, ...] = (
    batched_equals_the_reference_at_all_ranks,
    batched_keeps_the_axes_between,
    batched_never_reads_the_tails,
    batched_takes_any_strides,
    batched_gradients_equal_the_reference,
    batched_gradients_are_differentiable,
)
