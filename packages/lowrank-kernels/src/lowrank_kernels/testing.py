"""Laws that every implementation of the low-rank products obeys.

A law takes the implementation, a function with the signature of `lowrank_linear` or of another
operation of this package, and a tensor whose dtype and device it works in. It raises
AssertionError where the law is broken. `check_linear` and its like hold an implementation against
all laws of an operation; a test that is parametrised over `LINEAR_LAWS` shows each by its name.
"""

import torch
from torch import Tensor

from lowrank_kernels._batched_laws import BATCHED_LAWS
from lowrank_kernels._conv_laws import CONV2D_LAWS
from lowrank_kernels._embedding_laws import EMBEDDING_LAWS
from lowrank_kernels._identity_laws import (
    CONV2D_IDENTITY_LAWS,
    IDENTITY_BLOCK_LAWS,
    IDENTITY_LAWS,
)
from lowrank_kernels._laws import Law, Product, assert_close
from lowrank_kernels._linear_laws import LINEAR_LAWS
from lowrank_kernels._per_sample_laws import PER_SAMPLE_LAWS

__all__ = [
    "BATCHED_LAWS",
    "CONV2D_IDENTITY_LAWS",
    "CONV2D_LAWS",
    "EMBEDDING_LAWS",
    "IDENTITY_BLOCK_LAWS",
    "IDENTITY_LAWS",
    "LINEAR_LAWS",
    "PER_SAMPLE_LAWS",
    "assert_close",
    "check_batched",
    "check_conv2d",
    "check_conv2d_identity",
    "check_embedding",
    "check_identity_block",
    "check_linear",
    "check_linear_identity",
    "check_per_sample",
]


def check_linear(product: Product, like: Tensor | None = None, *, gradients: bool = True) -> None:
    """Hold an implementation of `lowrank_linear` against every law.

    Args:
        product: called as `product(x, down, up, bias, rank)`.
        like: gives dtype and device; None is float64 on the CPU.
        gradients: False leaves out the laws of differentiation.

    Example:
        >>> from lowrank_kernels import lowrank_linear
        >>> check_linear(lowrank_linear)
    """
    _check(LINEAR_LAWS, product, like, gradients)


def check_conv2d(product: Product, like: Tensor | None = None, *, gradients: bool = True) -> None:
    """Hold an implementation of `lowrank_conv2d` against every law; see `check_linear`."""
    _check(CONV2D_LAWS, product, like, gradients)


def check_per_sample(
    product: Product, like: Tensor | None = None, *, gradients: bool = True
) -> None:
    """Hold an implementation of `lowrank_linear_per_sample` against every law.

    See `check_linear`; `product` is called as `product(x, down, up, bias, ranks)`.
    """
    _check(PER_SAMPLE_LAWS, product, like, gradients)


def check_embedding(
    product: Product, like: Tensor | None = None, *, gradients: bool = True
) -> None:
    """Hold an implementation of `lowrank_embedding` against every law.

    See `check_linear`; `product` is called as `product(indices, table, up, rank)`.
    """
    _check(EMBEDDING_LAWS, product, like, gradients)


def check_linear_identity(
    product: Product, like: Tensor | None = None, *, gradients: bool = True
) -> None:
    """Hold an implementation of `lowrank_linear_identity` against every law.

    See `check_linear`; `product` is called as
    `product(x, head, tail, order, head_bias, tail_bias)`.
    """
    _check(IDENTITY_LAWS, product, like, gradients)


def check_conv2d_identity(
    product: Product, like: Tensor | None = None, *, gradients: bool = True
) -> None:
    """Hold an implementation of `lowrank_conv2d_identity` against every law."""
    _check(CONV2D_IDENTITY_LAWS, product, like, gradients)


def check_identity_block(block: Product, like: Tensor | None = None) -> None:
    """Hold an implementation of `identity_block` against every law.

    `block(down, up, bias, rank, inner_bias=…, bound=…)` returns the fields of an `IdentityBlock`.
    """
    _check(IDENTITY_BLOCK_LAWS, block, like, True)


def check_batched(product: Product, like: Tensor | None = None, *, gradients: bool = True) -> None:
    """Hold an implementation of `lowrank_linear_batched` against every law.

    See `check_linear`; `product` is called as `product(x, down, up, bias, ranks)`.
    """
    _check(BATCHED_LAWS, product, like, gradients)


def _check(laws: tuple[Law, ...], product: Product, like: Tensor | None, gradients: bool) -> None:
    like = torch.empty(0, dtype=torch.float64) if like is None else like
    for law in laws:
        if gradients or "gradient" not in law.__name__:
            law(product, like)
