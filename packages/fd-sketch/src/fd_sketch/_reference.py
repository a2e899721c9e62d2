"""Frequent Directions as slow and as plain as it can be: the specification of this package."""

import numpy as np


def frequent_directions_reference(
    X: np.ndarray, sketch_size: int, *, buffer_size: int | None = None
) -> tuple[np.ndarray, float]:
    """Return `B` [sketch_size, d] and `Delta` with `0 <= X'X - B'B <= Delta I`.

    One row after the other enters a matrix of `sketch_size + buffer_size` rows. When no row is
    free, a singular value decomposition rotates the rows, and the squared singular values are
    lowered by the first one beyond the sketch, `delta = sigma_{l+1}^2`, which frees the others.

    Args:
        X: Rows, [N, d], of a real dtype of numpy; the arithmetic is done in it.
        sketch_size: Number of rows l of the sketch.
        buffer_size: Number of further rows; `sketch_size` if not given, as in Liberty's
            algorithm with its 2 l rows, and 1 for the variant that shrinks at every row.

    Raises:
        TypeError: `X` is no numpy array.
        ValueError: `X` is not of two dimensions.

    Example:
        >>> import numpy as np
        >>> B, Delta = frequent_directions_reference(np.eye(3), 2)
        >>> B.shape, Delta
        ((2, 3), 1.0)

    Reference:
        Liberty, "Simple and Deterministic Matrix Sketching", KDD 2013, Algorithm 1.
    """
    if not isinstance(X, np.ndarray):
        raise TypeError(f"X must be a numpy array, got {type(X).__name__}")
    if X.ndim != 2:
        raise ValueError(f"X must have shape [N, d], got {list(X.shape)}")
    extra = sketch_size if buffer_size is None else buffer_size
    Z = np.zeros((sketch_size + extra, X.shape[1]), dtype=X.dtype)
    used, Delta = 0, 0.0
    for x in X:
        if used == len(Z):
            Z, delta = _lower(Z, sketch_size)
            used, Delta = sketch_size, Delta + delta
        Z[used] = x
        used += 1
    Z, delta = _lower(Z, sketch_size)
    return Z[:sketch_size], Delta + delta


def _lower(Z: np.ndarray, sketch_size: int) -> tuple[np.ndarray, float]:
    """Return Z with all rows beyond `sketch_size` zero, and what its squares were lowered by."""
    _, sigma, Vt = np.linalg.svd(Z, full_matrices=False)
    delta = sigma[sketch_size] ** 2 if sketch_size < len(sigma) else 0.0
    B = np.zeros_like(Z)
    B[: len(sigma)] = np.sqrt(np.maximum(sigma**2 - delta, 0.0))[:, None] * Vt
    B[sketch_size:] = 0.0
    return B, float(delta)
