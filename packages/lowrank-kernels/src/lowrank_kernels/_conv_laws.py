"""The laws of the low-rank convolution."""

from typing import Any

import torch
from torch import Tensor

from lowrank_kernels._conv_reference import lowrank_conv2d_reference
from lowrank_kernels._laws import (
    Law,
    Product,
    assert_close,
    doubles,
    gradients,
    random,
    ranks,
    truth,
)

# groups, c, m, R, kernel, options
CONVOLUTIONS: tuple[tuple[int, int, int, int, tuple[int, int], dict[str, Any]], ...] = (
    (1, 3, 5, 4, (3, 3), {}),
    (1, 2, 3, 7, (1, 1), {"stride": 2}),
    (1, 4, 2, 3, (3, 1), {"padding": "same", "dilation": (2, 1)}),
    (1, 3, 3, 5, (2, 3), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
    (2, 4, 6, 3, (3, 3), {"padding": 1}),
    (3, 3, 3, 2, (2, 2), {"padding": "valid", "stride": (1, 2)}),
)


def _convolution(like: Tensor, row: tuple[Any, ...]) -> tuple[Tensor, ...]:
    groups, c, m, R, kernel, _ = row
    down = random(like, groups, R, c // groups, *kernel, seed=1)
    up = random(like, groups, m // groups, R, seed=2)
    if groups == 1:
        down, up = down[0], up[0]
    return random(like, 2, c, 8, 7), down, up, random(like, m, seed=3)


def conv2d_equals_the_reference_at_every_rank(product: Product, like: Tensor) -> None:
    """The result is the convolution with the dense kernel of that rank."""
    for row in CONVOLUTIONS:
        x, down, up, bias = _convolution(like, row)
        options = {**row[5], "groups": row[0]}
        for b in (bias, None):
            for r in ranks(row[3]):
                want = truth(lowrank_conv2d_reference, x, down, up, b, rank=r, **options)
                got = product(x, down, up, b, r, **options)
                assert got.dtype == like.dtype
                assert_close(f"y of {row} at rank {r}", got, want)


def conv2d_adds_the_inner_bias_between_the_factors(product: Product, like: Tensor) -> None:
    """An inner bias shifts what the second factor sees, at the borders too."""
    for row in CONVOLUTIONS:
        x, down, up, bias = _convolution(like, row)
        inner = random(like, *down.shape[:-3], seed=4)
        options = {**row[5], "groups": row[0], "inner_bias": inner}
        doubled = {**options, "inner_bias": inner.double()}
        for r in ranks(row[3]):
            want = truth(lowrank_conv2d_reference, x, down, up, bias, rank=r, **doubled)
            assert_close(f"y of {row} at rank {r}", product(x, down, up, bias, r, **options), want)


def conv2d_takes_one_image_and_none(product: Product, like: Tensor) -> None:
    """A single image needs no batch axis, and a batch may be empty."""
    x, down, up, bias = _convolution(like, CONVOLUTIONS[0])
    for r in (0, 2):
        want = product(x, down, up, bias, r)
        assert_close("y of one image", product(x[0], down, up, bias, r), want[0])
        assert product(x[:0], down, up, bias, r).shape == want[:0].shape


def conv2d_takes_any_strides(product: Product, like: Tensor) -> None:
    """Channels last, and factors in other orders, change nothing."""
    x, down, up, bias = _convolution(like, CONVOLUTIONS[3])
    options = CONVOLUTIONS[3][5]
    want = product(x, down, up, bias, 3, **options)
    last = x.to(memory_format=torch.channels_last)
    assert_close("x channels last", product(last, down, up, bias, 3, **options), want)
    other = down.transpose(0, 3).contiguous().transpose(0, 3), up.t().contiguous().t()
    assert_close("factors transposed", product(x, *other, bias, 3, **options), want)


def conv2d_never_reads_the_tail(product: Product, like: Tensor) -> None:
    """What lies beyond the rank does not matter, not even where it is not a number."""
    for row in (CONVOLUTIONS[0], CONVOLUTIONS[4]):
        x, down, up, bias = _convolution(like, row)
        options = {**row[5], "groups": row[0]}
        want = product(x, down, up, bias, 2, **options)
        down.movedim(-4, 0)[2:], up[..., 2:] = torch.nan, torch.inf
        assert torch.equal(product(x, down, up, bias, 2, **options), want)


def conv2d_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients are those of the dense kernel, and exact zeros beyond the rank."""
    for row in CONVOLUTIONS:
        tensors, options = _convolution(like, row), {**row[5], "groups": row[0]}
        for r in ranks(row[3]):
            given = {**options, "rank": r}
            got = gradients(lambda *t, g=given: product(*t, **g), tensors)
            want = gradients(
                lambda *t, g=given: lowrank_conv2d_reference(*t, **g), doubles(*tensors)
            )
            for name, g, w in zip(("x", "down", "up", "bias"), got, want, strict=True):
                assert_close(f"gradient of {name} of {row} at rank {r}", g, w)
            assert not got[1].movedim(-4, 0)[r:].any()
            assert not got[2][..., r:].any()


CONV2D_LAWS: tuple[Law, ...] = (
    conv2d_equals_the_reference_at_every_rank,
    conv2d_adds_the_inner_bias_between_the_factors,
    conv2d_takes_one_image_and_none,
    conv2d_takes_any_strides,
    conv2d_never_reads_the_tail,
    conv2d_gradients_equal_the_reference,
)
