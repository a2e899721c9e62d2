"""From a user's batch to checked rows and their exact moments."""

import math
from typing import Any, NamedTuple

import numpy as np

from fd_sketch._arrays import Array, is_sparse, namespace, place, to_numpy, working_dtype
from fd_sketch._moments import Moments
from fd_sketch._rows import Rows, column_sums, row_energies


class Batch(NamedTuple):
    """Rows to take in, and their moments."""

    rows: Rows
    moments: Moments
    dtype: str  # the rows are to be kept in


def row_limit(dtype: str) -> float:
    """Return the largest squared norm of a row that a working dtype takes in.

    So far below the largest number that sums over all rows of a stream have room.
    """
    return 2.0**200 if dtype == "float32" else 2.0**960


def total_limit(dtype: str) -> float:
    """Return the largest mass a sketch can hold: rows of norm `sqrt(mass)` must have room."""
    return 2.0**230 if dtype == "float32" else 2.0**990


def read_batch(X: Array, sample_weight: Any, n_features: int, center: bool, policy: str) -> Batch:
    """Return the finite rows of a batch with their moments.

    Raises:
        TypeError: `X` holds no real numbers.
        ValueError: a wrong number of features, bad weights, or a non-finite row where the
            policy is to raise.
    """
    leading = check_shape(X, n_features)
    dtype = working_dtype(X)
    X = flat(X)
    w = None if sample_weight is None else read_weights(sample_weight, leading, X)
    with np.errstate(over="ignore", invalid="ignore"):
        return _summarise(X, w, dtype, center, policy)


def check_shape(X: Array, n_features: int) -> tuple[int, ...]:
    """Return the leading dimensions of rows.

    Raises:
        ValueError: the last dimension is no row of `n_features` numbers.
    """
    if X.ndim < 1 or X.shape[-1] != n_features or (is_sparse(X) and X.ndim != 2):
        raise ValueError(f"X must have shape [..., {n_features}], got {list(X.shape)}")
    return tuple(X.shape[:-1])


def flat(X: Array) -> Array:
    """Return the rows of an array of any number of dimensions, [N, d]."""
    return X if is_sparse(X) else namespace(X).reshape(X, (math.prod(X.shape[:-1]), X.shape[-1]))


def _summarise(X: Array, w: Array | None, dtype: str, center: bool, policy: str) -> Batch:
    xp, limit, skipped = namespace(X), row_limit(dtype), 0
    sums, squares = column_sums(Rows(X), w)
    # a bad row shows in the sum: one number tells that all rows are good
    if not float(xp.sum(squares)) <= limit:
        good = row_energies(X, w) <= limit
        skipped = int(xp.sum(xp.astype(~good, xp.int64)))
        if skipped:
            _refuse(good, policy)
            kept = xp.nonzero(good)[0]
            X, w = _taken(X, kept), None if w is None else xp.take(w, kept)
            sums, squares = column_sums(Rows(X), w)
    weight = float(X.shape[0] if w is None else xp.sum(w))
    mean = sums / weight if weight > 0.0 else xp.zeros_like(sums)
    rows = Rows(X, None if w is None else xp.sqrt(w))
    if center:
        rows, squares = _centred(rows._replace(shift=mean), w, weight)
        mean = rows.shift
    total = float(xp.sum(squares))
    return Batch(rows, Moments(mean, squares, total, weight, X.shape[0], skipped), dtype)


def _centred(rows: Rows, w: Array | None, weight: float) -> tuple[Rows, Array]:
    """Return the rows about their mean, which is their shift but for rounding, and their squares.

    Rows that hardly scatter would else be left with what the mean was rounded by.
    """
    sums, squares = column_sums(rows, w)
    if weight == 0.0:
        return rows, squares
    xp, gap = namespace(sums), sums / weight  # [d]
    if not bool(xp.any(gap * sums > np.finfo(np.float64).eps * squares)):
        return rows, squares
    rows = rows._replace(shift=rows.shift + gap)
    return rows, column_sums(rows, w)[1]


def _taken(X: Array, kept: Array) -> Array:
    """Return some of the rows."""
    return X[kept] if is_sparse(X) else namespace(X).take(X, kept, axis=0)


def _refuse(good: Array, policy: str) -> None:
    """Raise for the first bad row where the policy says so."""
    if policy == "raise":
        index = int(np.argmin(to_numpy(good)))
        raise ValueError(
            f"X must hold finite rows with room for their squared norm, row {index} is not"
        )


def read_weights(sample_weight: Any, leading: tuple[int, ...], X: Array) -> Array:
    """Return weights as float64 [N] beside `X`; a single number weighs every row.

    Raises:
        TypeError: the weights are no real numbers.
        ValueError: their shape is not that of the rows, or one is negative or not finite.
    """
    w = to_numpy(sample_weight)
    if w.dtype.kind not in "fiub":
        raise TypeError(f"sample_weight must hold real numbers, got dtype {w.dtype}")
    if w.shape not in ((), leading):
        raise ValueError(f"sample_weight must have shape {list(leading)}, got {list(w.shape)}")
    w = np.broadcast_to(w.astype(np.float64), leading).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        total, fine = float(np.sum(w)), (w >= 0.0) & np.isfinite(w)
    if not np.all(fine):
        raise ValueError(f"sample_weight must be finite and not negative, got {w[~fine][0]}")
    if not np.isfinite(total):
        raise ValueError(f"sample_weight must be finite and not negative, got a sum of {total}")
    xp = namespace(X)
    return xp.asarray(w, device=place(X), copy=True)  # what was broadcast is not writable
