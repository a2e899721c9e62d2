"""Rows computed slice by slice, and sums over them in float64."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fd_sketch._arrays import NUMPY_NAMESPACE, Array, cast, is_sparse, namespace

# entries held in float64 at a time: on the host what stays in the cache, else few long calls
HOST_BLOCK, DEVICE_BLOCK = 1 << 18, 1 << 24


class Rows(NamedTuple):
    """Rows `roots_i (x_i - shift)`."""

    X: Array  # [N, d], dense or a sparse matrix with compressed rows
    roots: Array | None = None  # [N] float64, square roots of the weights
    shift: Array | None = None  # [d] float64

    def part(self, start: int, stop: int, dtype: str, factor: float = 1.0) -> Array:
        """Return `factor` times the rows from `start` to `stop`, in a dtype."""
        Y = between(self.X, start, stop)
        if self.roots is None and self.shift is None and factor == 1.0:
            return cast(Y, dtype)
        Y = namespace(Y).astype(Y, namespace(Y).float64)
        if self.shift is not None:
            Y -= self.shift
        if self.roots is not None:
            Y *= self.roots[start:stop, None]
        if factor != 1.0:
            Y *= factor
        return cast(Y, dtype)


def between(X: Array, start: int, stop: int) -> Array:
    """Return the rows from `start` to `stop` as a dense array."""
    part = X[start:stop, :]
    return part.toarray() if is_sparse(part) else part


def blocks(X: Array) -> Iterator[tuple[int, int]]:
    """Yield start and stop of rows that are few enough to be held in float64."""
    n, d = X.shape
    step = max(1, (HOST_BLOCK if namespace(X) is NUMPY_NAMESPACE else DEVICE_BLOCK) // d)
    for start in range(0, n, step):
        yield start, min(n, start + step)


def column_sums(rows: Rows, w: Array | None) -> tuple[Array, Array]:
    """Return `sum_i w_i y_i` and `sum_i w_i y_i^2` of the columns of `y = x - shift`."""
    X, shift = rows.X, rows.shift
    xp = namespace(X)
    sums = squares = None
    for start, stop in blocks(X):
        Y = xp.astype(between(X, start, stop), xp.float64)
        if shift is not None:
            Y -= shift
        s, q = _weighted(Y, None if w is None else w[start:stop])
        sums, squares = (s, q) if sums is None else (sums + s, squares + q)
    if sums is None or squares is None:
        zero = xp.sum(xp.astype(between(X, 0, 0), xp.float64), axis=0)
        return zero, zero
    return sums, squares


def _weighted(Y: Array, w: Array | None) -> tuple[Array, Array]:
    """Return the weighted sums of the columns of Y and of their squares; Y is overwritten."""
    xp = namespace(Y)
    if w is not None:
        sums = w @ Y
        Y *= Y
        return sums, w @ Y
    sums = xp.sum(Y, axis=0)
    if isinstance(Y, np.ndarray):
        return sums, np.einsum("ij,ij->j", Y, Y)
    return sums, xp.sum(Y * Y, axis=0)


def row_energies(X: Array, w: Array | None) -> Array:
    """Return the weighted squared norm of each row, NaN or inf for a non-finite one."""
    xp = namespace(X)
    parts = [xp.astype(between(X, a, b), xp.float64) for a, b in blocks(X)]
    energies = xp.concat([xp.sum(Y * Y, axis=1) for Y in parts])
    return energies if w is None else energies * w
