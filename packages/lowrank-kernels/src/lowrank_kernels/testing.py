"""Laws that every implementation of the low-rank products obeys.

A law takes the implementation, a function with the signature of `lowrank_linear` or
`lowrank_conv2d`, and a tensor whose dtype and device it works in. It raises AssertionError where
the law is broken. `check_linear` and `check_conv2d` hold an implementation against all of them.
"""

import torch
from torch import Tensor

from lowrank_kernels._conv_laws import CONV2D_LAWS
from lowrank_kernels._laws import Law, Product, assert_close
from lowrank_kernels._linear_laws import LINEAR_LAWS

__all__ = ["CONV2D_LAWS", "LINEAR_LAWS", "assert_close", "check_conv2d", "check_linear"]


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


def _check(laws: tuple[Law, ...], product: Product, like: Tensor | None, gradients: bool) -> None:
    like = torch.empty(0, dtype=torch.float64) if like is None else like
    for law in laws:
        if gradients or "gradient" not in law.__name__:
            law(product, like)
