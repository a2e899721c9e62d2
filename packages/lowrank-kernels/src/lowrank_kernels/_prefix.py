"""A product at a rank that stays: its slices taken once."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, addmm, is_grad_enabled, mm
from torch.nn import Parameter

from lowrank_kernels._checks import check_linear, rank_value
from lowrank_kernels._types import Rank

PLAIN = frozenset({Tensor, Parameter})


class Prefix:
    """The first r directions of a pair of factors, ready to be called.

    Attributes:
        down: `[r, n]`, the first rows of the first factor.
        up: `[m, r]`, the first columns of the second.
        bias: `[m]` or None.
        inner_bias: `[r]` or None.
    """

    __slots__ = ("_D", "_U", "_given", "bias", "inner_bias")

    def __init__(
        self,
        D: Tensor,
        U: Tensor,
        bias: Tensor | None,
        inner: Tensor | None,
        given: tuple[Any, ...],
    ) -> None:
        self._D, self._U = D, U  # transposed: [n, r], [r, m]
        self.bias, self.inner_bias = bias, inner
        self._given = given

    @property
    def down(self) -> Tensor:
        """The first rows of the first factor."""
        return self._D.t()

    @property
    def up(self) -> Tensor:
        """The first columns of the second factor."""
        return self._U.t()

    def __call__(self, x: Tensor) -> Tensor:
        """Return `(x @ down.T + inner_bias) @ up.T + bias`, `[..., m]`."""
        inner = self.inner_bias
        try:
            if x.dim() != 2:
                return F.linear(F.linear(x, self.down, inner), self.up, self.bias)
            h = mm(x, self._D) if inner is None else addmm(inner, x, self._D)
            return mm(h, self._U) if self.bias is None else addmm(self.bias, h, self._U)
        except (RuntimeError, TypeError, AttributeError):
            check_linear(x, self.down, self.up, self.bias, inner)
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        # a copy slices its own factors: slices of tensors with gradients cannot be copied
        return _restored, self._given

    def __repr__(self) -> str:
        (n, r), m = self._D.shape, self._U.shape[1]
        return f"Prefix(rank={r}, in_features={n}, out_features={m})"


def prefix(
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: Rank = None,
    *,
    inner_bias: Tensor | None = None,
    packed: bool = False,
) -> Prefix:
    """Return the product at `rank` as a callable that slices and checks no more.

    `prefix(down, up, bias, rank)(x)` equals `lowrank_linear(x, down, up, bias, rank)`. The slices
    are views: they follow the factors when these are changed in place, and gradients reach the
    factors through them wherever a call is made with gradients enabled, even if the slices were
    taken without. `copy.deepcopy` copies the factors and takes the slices anew.

    Args:
        down: first factor `[R, n]`.
        up: second factor `[m, R]`.
        bias: `[m]` or None.
        rank: r in 0..R as an int or a 0-dim integer tensor; None is R.
        inner_bias: `[R]` or None, added between the factors.
        packed: copy the r columns of `up` together, column after column, unless they lie so
            already. Such a product reads memory in order, which pays for a single row; the copy
            holds `m·r` numbers and does not follow later changes of `up`. A deep copy packs anew.

    Raises:
        ValueError: a shape, device or rank breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> down, up = torch.ones(4, 3), torch.ones(5, 4)
        >>> product = prefix(down, up, rank=2)
        >>> product(torch.ones(3))
        tensor([6., 6., 6., 6., 6.])
    """
    if not _agree(down, up, bias) or inner_bias is not None:
        check_linear(down, down, up, bias, inner_bias)
    r = rank_value(rank, down.shape[0])
    if not is_grad_enabled() and _trained(down, up, inner_bias):
        # or the views would have no gradients, and could not be used with any after a change
        normal = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
        with normal, torch.enable_grad():
            return _sliced(down, up, bias, r, inner_bias, packed)
    return _sliced(down, up, bias, r, inner_bias, packed)


def _sliced(
    down: Tensor, up: Tensor, bias: Tensor | None, r: int, inner_bias: Tensor | None, packed: bool
) -> Prefix:
    D, U = transposed(down, up, r)
    inner = None if inner_bias is None else inner_bias[:r]
    given = (down, up, bias, r, inner_bias, packed)
    return Prefix(D, U.contiguous() if packed else U, bias, inner, given)


def _restored(
    down: Tensor, up: Tensor, bias: Tensor | None, r: int, inner_bias: Tensor | None, packed: bool
) -> Prefix:
    return prefix(down, up, bias, r, inner_bias=inner_bias, packed=packed)


def _trained(*tensors: Tensor | None) -> bool:
    """Tell whether one of them collects gradients; those of inference mode cannot."""
    there = [t for t in tensors if t is not None]
    return any(t.requires_grad for t in there) and not any(t.is_inference() for t in there)


def _agree(down: Tensor, up: Tensor, bias: Tensor | None) -> bool:
    """Tell whether nothing is wrong with the factors, at a tenth of the price of naming it."""
    try:
        R, _ = down.shape
        m, width = up.shape
        fits = width == R and down.dtype is up.dtype and down.device == up.device
        if bias is not None:
            fits = fits and bias.shape == (m,) and bias.dtype is up.dtype
            fits = fits and bias.device == up.device
        return fits and down.is_floating_point()
    except (AttributeError, ValueError):
        return False


def transposed(down: Tensor, up: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Return views of the r active rows and columns as a plain product takes them.

    Returns:
        `down[:r].T` of `[n, r]` and `up[:, :r].T` of `[r, m]`.
    """
    if is_grad_enabled() or not PLAIN.issuperset((type(down), type(up))):
        return down[:r].t(), up[:, :r].t()
    # the same views at half the price; a derivative of them would cost more than one of slices
    row, column = down.stride()
    other_row, other_column = up.stride()
    return (
        down.as_strided((down.shape[1], r), (column, row)),
        up.as_strided((r, up.shape[0]), (other_column, other_row)),
    )
