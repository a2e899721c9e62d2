"""The laws of the low-rank linear product."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels._laws import (
    Law,
    Product,
    assert_close,
    doubles,
    gradients,
    no_worse,
    random,
    ranks,
    second,
    truth,
)
from lowrank_kernels._linear_reference import lowrank_linear_reference

reference: Product = lowrank_linear_reference
# rows, n, m, R: one of everything, odd, a vector, wider than a tile, R above n and m
SIZES = ((1, 1, 1, 1), (3, 5, 7, 4), (1, 33, 17, 20), (19, 70, 65, 67), (4, 6, 5, 9))


def _linear(like: Tensor, size: tuple[int, int, int, int]) -> tuple[Tensor, ...]:
    N, n, m, R = size
    return (
        random(like, N, n),
        random(like, R, n, seed=1),
        random(like, m, R, seed=2),
        random(like, m, seed=3),
    )


def linear_equals_the_reference_at_every_rank(product: Product, like: Tensor) -> None:
    """The result is the product with the dense weight of that rank."""
    for size in SIZES:
        x, down, up, bias = _linear(like, size)
        for b in (bias, None):
            for r in ranks(size[3]):
                want = truth(reference, x, down, up, b, rank=r)
                got = product(x, down, up, b, r)
                assert got.dtype == like.dtype
                assert_close(f"y of {size} at rank {r}", got, want)


def linear_adds_the_inner_bias_between_the_factors(product: Product, like: Tensor) -> None:
    """An inner bias shifts what the second factor sees; its gradient is zero beyond the rank."""
    for size in SIZES:
        *tensors, bias = _linear(like, size)
        tensors = [*tensors, bias, random(like, size[3], seed=4)]
        for r in ranks(size[3]):
            want = truth(_with_inner(reference), *tensors, rank=r)
            assert_close(f"y of {size} at rank {r}", _with_inner(product)(*tensors, r), want)


def linear_inner_bias_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients with an inner bias are those of the reference."""
    for size in SIZES:
        tensors = (*_linear(like, size), random(like, size[3], seed=4))
        for r in ranks(size[3]):
            got = gradients(lambda *t, r=r: _with_inner(product)(*t, r), tensors)
            want = gradients(lambda *t, r=r: _with_inner(reference)(*t, r), doubles(*tensors))
            for g, w in zip(got, want, strict=True):
                assert_close(f"gradient of {size} at rank {r}", g, w)
            assert not got[4][r:].any()


def _with_inner(product: Product) -> Product:
    return lambda x, down, up, bias, inner, rank: product(x, down, up, bias, rank, inner_bias=inner)


def linear_takes_none_and_tensors_as_ranks(product: Product, like: Tensor) -> None:
    """None is R; a 0-dim integer tensor is its number."""
    x, down, up, bias = _linear(like, (3, 5, 7, 4))
    assert torch.equal(product(x, down, up, bias), product(x, down, up, bias, 4))
    got = product(x, down, up, bias, torch.tensor(2, dtype=torch.int32))
    assert torch.equal(got, product(x, down, up, bias, 2))


def linear_keeps_leading_axes(product: Product, like: Tensor) -> None:
    """Any axes before the last are rows; none and empty ones work."""
    _, down, up, bias = _linear(like, (1, 6, 5, 4))
    for lead in ((), (1,), (2, 3), (2, 1, 3), (0,), (2, 0)):
        x = random(like, *lead, 6)
        rows = product(x.reshape(-1, 6), down, up, bias, 3)
        got = product(x, down, up, bias, 3)
        assert got.shape == (*lead, 5)
        assert_close(f"y of {lead}", got, rows.reshape(*lead, 5))


def linear_takes_any_strides(product: Product, like: Tensor) -> None:
    """Transposed, sliced, repeated and offset memory changes nothing."""
    x, down, up, bias = _linear(like, (4, 6, 5, 8))
    want = product(x, down, up, bias, 3)
    wide = torch.full((4, 12), torch.nan).to(like)
    wide[:, ::2] = x
    padded = torch.full((9, 7), torch.nan).to(like)
    padded[1:, 1:] = down
    assert_close("x strided", product(wide[:, ::2], down, up, bias, 3), want)
    assert_close("x transposed", product(x.t().contiguous().t(), down, up, bias, 3), want)
    assert_close("down offset", product(x, padded[1:, 1:], up, bias, 3), want)
    assert_close("down transposed", product(x, down.t().contiguous().t(), up, bias, 3), want)
    assert_close("up transposed", product(x, down, up.t().contiguous().t(), bias, 3), want)
    one = x[:1].expand(4, 6)
    assert_close(
        "x repeated", product(one, down, up, bias, 3), product(one.clone(), down, up, bias, 3)
    )


def linear_never_reads_the_tail(product: Product, like: Tensor) -> None:
    """What lies beyond the rank does not matter, not even where it is not a number."""
    x, down, up, bias = _linear(like, (5, 6, 7, 8))
    want = product(x, down, up, bias, 5)
    down[5:], up[:, 5:] = torch.nan, torch.inf
    assert torch.equal(product(x, down, up, bias, 5), want)


def linear_is_no_worse_than_torch(product: Product, like: Tensor) -> None:
    """The error is at most twice that of torch's own two products in the same precision."""
    x, down, up, bias = _linear(like, (19, 70, 65, 67))
    for r in (1, 33, 67):
        want = truth(reference, x, down, up, bias, rank=r)
        plain = F.linear(F.linear(x, down[:r].contiguous()), up[:, :r].contiguous(), bias)
        no_worse(product(x, down, up, bias, r), plain, want)


def linear_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients are those of the dense weight, and exact zeros beyond the rank."""
    for size in SIZES:
        tensors = _linear(like, size)
        for r in ranks(size[3]):
            got = gradients(lambda *t, r=r: product(*t, r), tensors)
            want = gradients(lambda *t, r=r: reference(*t, rank=r), doubles(*tensors))
            for name, g, w in zip(("x", "down", "up", "bias"), got, want, strict=True):
                assert_close(f"gradient of {name} of {size} at rank {r}", g, w)
            assert not got[1][r:].any()
            assert not got[2][:, r:].any()


def linear_gradients_are_differentiable(product: Product, like: Tensor) -> None:
    """Second derivatives are those of the reference too."""
    x, down, up, bias = _linear(like, (3, 5, 4, 6))
    for r in (0, 2, 6):
        got = second(lambda *t, r=r: product(*t, r), (x, down, up, bias))
        want = second(lambda *t, r=r: reference(*t, rank=r), doubles(x, down, up, bias))
        for name, g, w in zip(("x", "down", "up"), got, want, strict=True):
            assert_close(f"second derivative in {name} at rank {r}", g, w)


LINEAR_LAWS: tuple[Law, ...] = (
    linear_equals_the_reference_at_every_rank,
    linear_adds_the_inner_bias_between_the_factors,
    linear_inner_bias_gradients_equal_the_reference,
    linear_takes_none_and_tensors_as_ranks,
    linear_keeps_leading_axes,
    linear_takes_any_strides,
    linear_never_reads_the_tail,
    linear_is_no_worse_than_torch,
    linear_gradients_equal_the_reference,
    linear_gradients_are_differentiable,
)
