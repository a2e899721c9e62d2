"""Rows on their way into a functional state: checked, weighed, and zero where they are bad."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np

from fd_sketch._arrays import Array
from fd_sketch._batch import row_limit
from fd_sketch._pure import is_known, library


def rows_of(X: Array, like: Array, name: str = "X") -> Array:
    """Return rows for a state with rows `like` [..., l, d], without their autograd.

    Raises:
        TypeError: `X` is no array, or of another library.
        ValueError: its features or its leading dimensions are others.
    """
    ours, theirs = library(like), library(X, name)
    if theirs is not ours:
        raise TypeError(
            f"{name} must be of {_named(ours)} like the arrays of the state, got {_named(theirs)}"
        )
    lead, d = tuple(like.shape[:-2]), like.shape[-1]
    if X.ndim != like.ndim or tuple(X.shape[:-2]) != lead or X.shape[-1] != d:
        shape = ", ".join([*map(str, lead), "N", str(d)])
        raise ValueError(f"{name} must have shape [{shape}], got {list(X.shape)}")
    return X.detach() if hasattr(X, "detach") else X


def _named(xp: Any) -> str:
    """Return the name of the library that a namespace stands for."""
    return str(xp.__name__).rpartition("array_api_compat.")[2]


def weighed(X: Array, sample_weight: Any, dtype: Any) -> tuple[Array, Array, Array]:
    """Return weighted rows, their squares in float64, and which rows are good; the others are 0."""
    quiet = np.errstate(over="ignore", invalid="ignore") if isinstance(X, np.ndarray) else None
    with quiet or nullcontext():
        return _weighed(X, sample_weight, dtype)


def _weighed(X: Array, sample_weight: Any, dtype: Any) -> tuple[Array, Array, Array]:
    xp = library(X)
    X = xp.astype(X, dtype, copy=False)
    squares = xp.astype(X, xp.float64) ** 2
    good = xp.ones_like(squares[..., 0]) > 0.0
    if sample_weight is not None:
        w = _weights(sample_weight, good)
        good = w >= 0.0
        w = xp.where(good, w, xp.zeros_like(w))
        X, squares = xp.astype(X * xp.sqrt(w)[..., None], dtype), squares * w[..., None]
    limit = row_limit("float32" if dtype == xp.float32 else "float64")
    good = good & (xp.sum(squares, axis=-1) <= limit)
    if is_known(good) and xp.all(good):
        return X, squares, good
    kept = good[..., None]
    return (
        xp.where(kept, X, xp.zeros_like(X)),
        xp.where(kept, squares, xp.zeros_like(squares)),
        good,
    )


def _weights(sample_weight: Any, like: Array) -> Array:
    """Return weights as float64 in the shape of `like`, whose library they have to be of.

    One number weighs all rows. Values are checked where they are known.
    """
    xp = library(like)
    if isinstance(sample_weight, int | float | np.number):
        if not 0.0 <= sample_weight < math.inf:
            raise _bad_weight(sample_weight)
        return xp.astype(like, xp.float64) * 0.0 + sample_weight
    if library(sample_weight, "sample_weight") is not xp:
        raise TypeError(
            f"sample_weight must be an array like X, got {type(sample_weight).__name__}"
        )
    if tuple(sample_weight.shape) != tuple(like.shape):
        raise ValueError(
            f"sample_weight must have shape {list(like.shape)}, got {list(sample_weight.shape)}"
        )
    if hasattr(sample_weight, "detach"):
        sample_weight = sample_weight.detach()
    w = xp.astype(sample_weight, xp.float64)
    if is_known(w):
        fine = (w >= 0.0) & (w < math.inf)
        if not xp.all(fine):
            raise _bad_weight(float(w[~fine][0]))
    return w


def _bad_weight(value: Any) -> ValueError:
    return ValueError(f"sample_weight must be finite and not negative, got {value}")
