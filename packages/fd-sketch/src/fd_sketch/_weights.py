"""Weights as an estimator of scikit-learn takes them: counts of rows, or shares of a whole."""

from typing import Any

import numpy as np

from fd_sketch._protocol import CovarianceSketch


def check_some_weight(sketch: CovarianceSketch) -> None:
    """Refuse rows that have no mean."""
    if sketch.effective_weight == 0.0:
        raise ValueError("sample_weight must be positive for some row, all are zero")


def freedom_of(sketch: CovarianceSketch) -> float:
    """Return what a scatter is divided by to become a variance.

    Weights are counts of rows, as scikit-learn wants them. Below 2 they cannot be: the rows that
    scatter are two at least. Then they are shares, and their unit is of no account.
    """
    weight, n = sketch.effective_weight, sketch.n_samples_seen
    return weight - 1.0 if weight >= 2.0 else weight * max(n - 1, 1) / n


def row_weights(sample_weight: Any, n: int) -> np.ndarray | None:
    """Return the weights as [n], None where there are none."""
    if sample_weight is None:
        return None
    w = np.asarray(sample_weight, dtype=np.float64)
    if w.shape not in ((), (n,)):
        raise ValueError(f"sample_weight must have shape [{n}], got {list(w.shape)}")
    return np.broadcast_to(w, n)
