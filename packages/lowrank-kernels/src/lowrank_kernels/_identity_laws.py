"""The laws of the products with an identity block."""

from typing import Any

import torch
from torch import Tensor

from lowrank_kernels._identity import IdentityBlock, identity_block
from lowrank_kernels._identity_reference import (
    lowrank_conv2d_identity_reference,
    lowrank_linear_identity_reference,
)
from lowrank_kernels._laws import Law, Product, assert_close, doubles, gradients, random, second
from lowrank_kernels._linear_reference import lowrank_linear_reference

linear: Product = lowrank_linear_identity_reference
conv2d: Product = lowrank_conv2d_identity_reference
factored: Product = lowrank_linear_reference
# rows, n, m, r: one of everything, odd, no tail, no head, one direction
SIZES = ((1, 1, 1, 1), (3, 5, 7, 4), (4, 6, 5, 5), (2, 3, 4, 0), (19, 33, 40, 1), (6, 20, 65, 17))
# c, m, r, kernel, options
CONVOLUTIONS: tuple[tuple[int, int, int, tuple[int, int], dict[str, Any]], ...] = (
    (3, 5, 4, (3, 3), {}),
    (2, 6, 1, (1, 1), {"stride": 2}),
    (3, 3, 3, (2, 3), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
    (4, 5, 2, (3, 1), {"padding": "same"}),
)
NAMES = ("x", "head", "tail", "head_bias", "tail_bias")


def _block(like: Tensor, r: int, m: int, *inputs: int) -> tuple[Tensor, ...]:
    order = torch.randperm(m, generator=torch.Generator().manual_seed(m + r))
    return (
        random(like, r, *inputs, seed=1),
        random(like, m - r, r, seed=2),
        order.to(like.device),
        random(like, r, seed=3),
        random(like, m - r, seed=4),
    )


def identity_equals_the_reference(product: Product, like: Tensor) -> None:
    """The result is the product with the dense weight, with any of the biases and the order."""
    for N, n, m, r in SIZES:
        x, (head, tail, order, first, last) = random(like, N, n), _block(like, r, m, n)
        for o, b, c in ((order, first, last), (order, None, None), (None, first, None)):
            got = product(x, head, tail, o, b, c)
            assert got.dtype == like.dtype
            wide = doubles(x, head, tail, b, c)
            want = linear(*wide[:3], o, *wide[3:])
            assert_close(f"y of {(N, n, m, r)}", got, want)


def identity_equals_the_factors_it_came_from(product: Product, like: Tensor) -> None:
    """With the fields of `identity_block` it is the low-rank product of that rank."""
    for N, n, m, R in ((3, 9, 7, 5), (5, 20, 33, 12)):
        x, down, up = random(like, N, n), random(like, R, n, seed=1), random(like, m, R, seed=2)
        bias, inner = random(like, m, seed=3), random(like, R, seed=4)
        for r in (0, 1, R // 2, R):
            block = identity_block(down, up, bias, r, inner_bias=inner)
            *wide, narrow = doubles(x, down, up, bias, inner)
            want = factored(*wide, rank=r, inner_bias=narrow)
            assert_close(f"y of {(N, n, m, R)} at rank {r}", product(x, *block), want)


def identity_keeps_leading_axes(product: Product, like: Tensor) -> None:
    """Any axes before the last are rows; none and empty ones work."""
    block = _block(like, 3, 5, 6)
    for lead in ((), (1,), (2, 3), (0,), (2, 0)):
        x = random(like, *lead, 6)
        rows = product(x.reshape(-1, 6), *block)
        got = product(x, *block)
        assert got.shape == (*lead, 5)
        assert_close(f"y of {lead}", got, rows.reshape(*lead, 5))


def identity_takes_any_strides(product: Product, like: Tensor) -> None:
    """Transposed and sliced memory changes nothing."""
    x, (head, tail, *rest) = random(like, 4, 6), _block(like, 3, 8, 6)
    want = product(x, head, tail, *rest)
    wide = torch.full((4, 12), torch.nan).to(like)
    wide[:, ::2] = x
    other = head.t().contiguous().t(), tail.t().contiguous().t()
    assert_close("x strided", product(wide[:, ::2], head, tail, *rest), want)
    assert_close("factors transposed", product(x, *other, *rest), want)


def identity_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients are those of the dense weight; so are second derivatives."""
    for N, n, m, r in SIZES:
        x, (head, tail, order, *biases) = random(like, N, n), _block(like, r, m, n)
        tensors = (x, head, tail, *biases)
        got = gradients(_ordered(product, order), tensors)
        want = gradients(_ordered(linear, order), doubles(*tensors))
        for name, g, w in zip(NAMES, got, want, strict=True):
            assert_close(f"gradient of {name} of {(N, n, m, r)}", g, w)
        got = second(_ordered(product, order), tensors)
        want = second(_ordered(linear, order), doubles(*tensors))
        for name, g, w in zip(NAMES, got, want, strict=False):
            assert_close(f"second derivative in {name} of {(N, n, m, r)}", g, w)


def _ordered(product: Product, order: Tensor, **options: Any) -> Product:
    return lambda x, head, tail, b, c: product(x, head, tail, order, b, c, **options)


def conv2d_identity_equals_the_reference(product: Product, like: Tensor) -> None:
    """The result is the convolution with the dense kernel."""
    for c, m, r, kernel, options in CONVOLUTIONS:
        x, (head, tail, order, *biases) = random(like, 2, c, 8, 7), _block(like, r, m, c, *kernel)
        for o, b in ((order, biases), (None, [None, None])):
            wide = doubles(x, head, tail, *b)
            want = conv2d(*wide[:3], o, *wide[3:], **options)
            got = product(x, head, tail, o, *b, **options)
            assert got.dtype == like.dtype
            assert_close(f"y of {(c, m, r, kernel)}", got, want)
        one = product(x[0], head, tail, order, *biases, **options)
        assert_close("y of one image", one, product(x, head, tail, order, *biases, **options)[0])


def conv2d_identity_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients are those of the dense kernel."""
    for c, m, r, kernel, options in CONVOLUTIONS:
        x, (head, tail, order, *biases) = random(like, 2, c, 8, 7), _block(like, r, m, c, *kernel)
        tensors = (x, head, tail, *biases)
        got = gradients(_ordered(product, order, **options), tensors)
        want = gradients(_ordered(conv2d, order, **options), doubles(*tensors))
        for name, g, w in zip(NAMES, got, want, strict=True):
            assert_close(f"gradient of {name} of {(c, m, r, kernel)}", g, w)


def block_equals_the_factors(block: Product, like: Tensor) -> None:
    """The block stands for the dense weight and bias of the factors at its rank."""
    for n, m, R in ((9, 7, 5), (20, 33, 12), (4, 3, 3)):
        down, up = random(like, R, n, seed=1), random(like, m, R, seed=2)
        bias, inner = random(like, m, seed=3), random(like, R, seed=4)
        for r in range(R + 1):
            got = IdentityBlock(*block(down, up, bias, r, inner_bias=inner))
            x = torch.eye(n, dtype=torch.float64, device=like.device)
            *wide, narrow = doubles(down, up, bias, inner)
            want = factored(x, *wide, rank=r, inner_bias=narrow)
            *thin, order = doubles(got.head, got.tail, got.head_bias, got.tail_bias), got.order
            y = linear(x, *thin[0][:2], order, *thin[0][2:])
            assert_close(f"W of {(n, m, R)} at rank {r}", y.to(like), want)


def block_counts_its_weights(block: Product, like: Tensor) -> None:
    """There are r(m + n - r) weights, and the order is a permutation."""
    for n, m, R in ((9, 7, 5), (5, 8, 5)):
        down, up = random(like, R, n, seed=1), random(like, m, R, seed=2)
        for r in range(R + 1):
            got = IdentityBlock(*block(down, up, None, r))
            assert got.head.numel() + got.tail.numel() == r * (m + n - r)
            assert got.order.sort().values.tolist() == list(range(m))
            assert got.head_bias is None
            assert got.tail_bias is None


def block_bounds_its_tail(block: Product, like: Tensor) -> None:
    """No entry of the tail is above the bound, whatever the condition of the factors."""
    for m, r in ((40, 12), (65, 33), (30, 30)):
        for decay in (1.0, 0.5):
            down = random(like, r, 3, seed=1)
            up = random(like, m, r, seed=2) * decay ** torch.arange(r).to(like)
            for bound in (2.0, 1.1):
                tail = IdentityBlock(*block(down, up, bound=bound)).tail
                limit = bound * (1 + torch.finfo(like.dtype).eps)
                assert not tail.numel() or tail.abs().max() <= limit


IDENTITY_LAWS: tuple[Law, ...] = (
    identity_equals_the_reference,
    identity_equals_the_factors_it_came_from,
    identity_keeps_leading_axes,
    identity_takes_any_strides,
    identity_gradients_equal_the_reference,
)
CONV2D_IDENTITY_LAWS: tuple[Law, ...] = (
    conv2d_identity_equals_the_reference,
    conv2d_identity_gradients_equal_the_reference,
)
IDENTITY_BLOCK_LAWS: tuple[Law, ...] = (
    block_equals_the_factors,
    block_counts_its_weights,
    block_bounds_its_tail,
)
