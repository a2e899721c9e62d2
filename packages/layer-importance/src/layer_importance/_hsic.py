"""Unbiased dependence of two representations: HSIC and its normalised form, CKA."""

from collections.abc import Mapping

import torch
from torch import Tensor

from layer_importance._comoments import FEW, Waiting, finite_rows, gram, parts, under, wide


def hsic(K: Tensor, L: Tensor) -> float:
    """Returns the unbiased estimate of HSIC from two kernel matrices ``[n, n]``, ``n > 3``.

    With diagonals set to zero::

        HSIC_1 = (tr K L + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'K L 1) / (n (n-3))

    Independent data have mean zero, so that estimates may be negative. The biased form, which
    keeps the diagonals, is near one for wide features whatever they have to do with each other.

    Source: Song et al., Feature selection via dependence maximization, JMLR 13 (2012), eq. 5.
    """
    n = len(K)
    K, L = off_diagonal(K), off_diagonal(L)
    crossed = K.sum(0) @ L.sum(0)
    apart = K.sum() * L.sum() / ((n - 1) * (n - 2))
    return float(((K * L).sum() + apart - 2 / (n - 2) * crossed) / (n * (n - 3)))


def cka(K: Tensor, L: Tensor) -> float:
    """Returns unbiased CKA, ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))``; NaN if undefined.

    Source: Kornblith et al., arXiv 1905.00414, eq. 4; unbiased: Nguyen et al., arXiv 2010.15327.
    """
    return ratio(hsic(K, L), hsic(K, K), hsic(L, L))


def ratio(both: float, first: float, second: float) -> float:
    """Returns ``both / sqrt(first second)``; NaN where one of them is not positive."""
    return both / (first * second) ** 0.5 if first > 0 and second > 0 else float("nan")


def linear(rows: Tensor) -> Tensor:
    """Returns the inner products of rows, ``[n, n]``, about their mean."""
    centred = rows - rows.mean(0)
    return centred @ centred.T


def off_diagonal(K: Tensor) -> Tensor:
    """Returns a matrix with zeros on its diagonal."""
    return K - K.diagonal().diag()


def u_centred(K: Tensor) -> Tensor:
    """Returns ``U`` with ``HSIC_1(K, L) = <U_K, U_L> / (n (n-3))``: one product a pair.

    Source: Székely and Rizzo, Partial distance correlation, Annals of Statistics 42 (2014), eq.
    2.1, whose inner product is Song's estimate.
    """
    n = len(K)
    K = off_diagonal(K)
    sums = K.sum(0) / (n - 2)
    return off_diagonal(K - sums[:, None] - sums + K.sum() / ((n - 1) * (n - 2)))


def cka_error(K: Tensor, L: Tensor) -> float:
    """Returns the standard error of CKA over the ``n`` samples, by the jackknife.

    That is the delta method with derivatives taken by leaving each sample out once, all of them in
    ``O(n^2)``.
    """
    n = len(K)
    if n < 5:
        return float("nan")
    both, first, second = (_without_each(*pair) for pair in ((K, L), (K, K), (L, L)))
    values = both / (first * second).sqrt()
    return float(((values - values.mean()).square().sum() * (n - 1) / n).sqrt())


def _without_each(K: Tensor, L: Tensor) -> Tensor:
    """HSIC of the samples without the i-th, for every i."""
    n = len(K) - 1
    K, L = off_diagonal(K), off_diagonal(L)
    k, l_ = K.sum(0), L.sum(0)
    shared = (K * L).sum(0)
    trace = shared.sum() - 2 * shared
    apart = (k.sum() - 2 * k) * (l_.sum() - 2 * l_) / ((n - 1) * (n - 2))
    crossed = k @ l_ - K @ l_ - L @ k + shared - k * l_
    return (trace + apart - 2 / (n - 2) * crossed) / (n * (n - 3))


class Hsic:
    """Unbiased HSIC of linear kernels over all samples of a stream, in ``O(dx dy)`` memory.

    For rows about their means, Song's estimate needs only sums of fixed size::

        n (n-3) HSIC_1 = |X'Y|^2 - q (1 + 2/(n-2)) + sum |x|^2 sum |y|^2 / ((n-1)(n-2))

    with ``q = sum |x|^2 |y|^2``; no matrix of samples by samples is ever built, and every pair of
    samples counts, also from different batches. Rows wait until there are as many as features, or
    some.

    Args:
        x_width: features of ``x``.
        y_width: features of ``y``.
    """

    _PARTS = ("x_mean", "y_mean", "xy", "x_squares", "y_squares", "x_lean", "y_lean", "quartic")

    def __init__(self, x_width: int, y_width: int) -> None:
        self._count = 0
        self._waiting = Waiting(max(x_width, y_width, FEW))
        zeros = torch.zeros((), dtype=torch.float64)
        self.x_mean, self.y_mean = zeros.repeat(x_width), zeros.repeat(y_width)
        self.xy = zeros.repeat(x_width, y_width)
        self.x_squares, self.y_squares = zeros.clone(), zeros.clone()
        self.x_lean, self.y_lean = self.x_mean.clone(), self.y_mean.clone()  # sum x|y|^2, y|x|^2
        self.quartic = zeros.clone()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds rows ``[N, dx]`` and ``[N, dy]``; those that are not finite are left out."""
        sides: tuple[Tensor, ...] = (wide(x),) if x is y else (wide(x), wide(y))
        finite = finite_rows(*sides)
        if finite is not None:
            sides = tuple(side[finite] for side in sides)
        if len(sides[0]) and self._waiting.add(*sides):
            self._settle()

    def _settle(self) -> None:
        """Adds the rows that wait."""
        if (sides := self._waiting.take()) is None:
            return
        same, x, y = len(sides) == 1, sides[0], sides[-1]
        batch = Hsic(x.shape[1], y.shape[1])
        batch._count, batch.x_mean, batch.y_mean = len(x), x.mean(0), y.mean(0)
        x = x - batch.x_mean
        y = x if same else y - batch.y_mean
        x_sizes, y_sizes = x.square().sum(1), y.square().sum(1)
        batch.xy = gram(x) if same else x.T @ y
        batch.x_lean, batch.y_lean = y_sizes @ x, x_sizes @ y
        batch.x_squares, batch.y_squares = x_sizes.sum(), y_sizes.sum()
        batch.quartic = x_sizes @ y_sizes
        for name in self._PARTS:
            setattr(batch, name, getattr(batch, name).cpu())
        self._combine(batch)

    @property
    def count(self) -> int:
        """Number of rows seen."""
        self._settle()
        return self._count

    def merge(self, other: "Hsic") -> None:
        """Adds what ``other`` has seen."""
        if other._count:
            self._combine(other)
        # what waits there waits here: one that goes on from a state sums up what it would have
        if self._waiting.join(other._waiting):
            self._settle()

    def _combine(self, other: "Hsic") -> None:
        share = other._count / (self._count + other._count)
        x_mean = self.x_mean + share * (other.x_mean - self.x_mean)
        y_mean = self.y_mean + share * (other.y_mean - self.y_mean)
        mine, theirs = self._about(x_mean, y_mean), other._about(x_mean, y_mean)
        for name in self._PARTS[2:]:
            setattr(self, name, mine[name] + theirs[name])
        self.x_mean, self.y_mean = x_mean, y_mean
        self._count += other._count

    def _about(self, x_mean: Tensor, y_mean: Tensor) -> dict[str, Tensor]:
        """The sums about other means: every row is moved by ``u`` and ``v``."""
        u, v, n = self.x_mean - x_mean, self.y_mean - y_mean, self._count
        uu, vv, along = u @ u, v @ v, self.xy @ v
        quartic = 2 * (v @ self.y_lean + u @ self.x_lean) + 4 * (u @ along)
        return {
            "xy": self.xy + n * torch.outer(u, v),
            "x_squares": self.x_squares + n * uu,
            "y_squares": self.y_squares + n * vv,
            "x_lean": self.x_lean + 2 * along + u * (self.y_squares + n * vv),
            "y_lean": self.y_lean + 2 * (u @ self.xy) + v * (self.x_squares + n * uu),
            "quartic": self.quartic
            + quartic
            + vv * self.x_squares
            + uu * self.y_squares
            + n * uu * vv,
        }

    @property
    def value(self) -> float:
        """The unbiased estimate; NaN below four samples."""
        n = self.count
        if n < 4:
            return float("nan")
        apart = self.x_squares * self.y_squares / ((n - 1) * (n - 2))
        total = self.xy.square().sum() - self.quartic * (1 + 2 / (n - 2)) + apart
        return float(total / (n * (n - 3)))

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        kept = {name: getattr(self, name).clone() for name in self._PARTS}
        count = torch.tensor(float(self._count), dtype=torch.float64)
        return {"count": count, **kept, **under("waiting", self._waiting.state())}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Hsic":
        """Returns what :meth:`state` was taken of."""
        moments = cls(len(state["x_mean"]), len(state["y_mean"]))
        moments._count = int(state["count"])
        for name in cls._PARTS:
            setattr(moments, name, state[name].clone())
        moments._waiting.restored(parts(state).get("waiting", {}))
        return moments
