"""Laws about what is made of a sketch: estimates of C and principal components."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fd_sketch._arrays import Array, to_numpy
from fd_sketch._base import BaseSketch
from fd_sketch._estimates import Compensation
from fd_sketch._expect import (
    exact_moments,
    expect,
    expect_close,
    fed,
    gram,
    like,
    rounding,
    sketch64,
    split,
)

MakeEstimates: TypeAlias = Callable[[], BaseSketch[Any]]


def check_covariance(
    make_sketch: MakeEstimates, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check how far each compensated estimate is from C, what is exact in it, and its roots."""
    batches = split(X)
    sketch = fed(make_sketch, batches)
    C, mean, weight = exact_moments(batches, center=center, decay=decay)
    slack = rounding(X, float(np.trace(C)) + weight * float(mean @ mean))
    Delta, spread = sketch.error_bound(), sketch.residual_mass() / len(C)
    most = float(np.max(to_numpy(sketch.residual_diagonal())))
    errors: dict[Compensation, tuple[float, float]] = {
        "raw": (0.0, Delta),
        "robust": (Delta / 2, Delta / 2),
        "trace": (spread, Delta - spread),
        "diag": (most, Delta),
    }
    for kind, (above, below) in errors.items():
        E = to_numpy(sketch.covariance(compensate=kind))
        low, high = np.linalg.eigvalsh(C - E)[[0, -1]]
        expect(low >= -above - slack, f"least error of {kind}", low, f"at least {-above}")
        expect(high <= below + slack, f"largest error of {kind}", high, f"at most {below}")
        least = float(np.linalg.eigvalsh(E)[0])
        expect(least >= -slack, f"smallest eigenvalue of {kind}", least, f"at least {-slack}")
        S = to_numpy(sketch.factor(compensate=kind)).astype(np.float64)
        expect_close(f"S S' of {kind}", S @ S.T, E, slack)
        form = sketch.quadratic_form(like(np.eye(len(C)), X), compensate=kind)
        for name, estimate in (("covariance", E), ("quadratic form", to_numpy(form))):
            if kind in ("trace", "diag"):
                trace = float(np.trace(estimate.astype(np.float64)))
                expect_close(f"trace of {kind} {name}", trace, np.trace(C), slack)
            if kind == "diag":
                expect_close(f"diagonal of {name}", np.diag(estimate), np.diag(C), slack)


def check_components(
    make_sketch: MakeEstimates, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check that the components are those of B, and what becomes of rows along them."""
    batches = split(X)
    sketch = fed(make_sketch, batches)
    C, mean, weight = exact_moments(batches, center=center, decay=decay)
    slack = rounding(X, float(np.trace(C)) + weight * float(mean @ mean))
    eps = rounding(X, 1.0)
    V = to_numpy(sketch.components_).astype(np.float64)
    sigma = to_numpy(sketch.singular_values_)
    k = len(sketch64(sketch))
    expect(V.shape == (k, X.shape[1]), "shape of components_", V.shape, (k, X.shape[1]))
    expect_close("V V'", V @ V.T, np.eye(k), eps)
    expect_close("V' diag(sigma^2) V", (V.T * sigma**2) @ V, gram(sketch), slack)
    expect(bool(np.all(V.max(axis=1) >= -V.min(axis=1) - eps)), "signs", V, "largest positive")
    n = len(X)
    unit = weight * (n - 1) / n if center and n > 1 else weight
    expect_close("explained_variance_", sketch.explained_variance_, sigma**2 / unit, slack / unit)
    # along its own components the rows carry at least what the sketch says
    carried = np.diag(V @ C @ V.T) - to_numpy(sketch.explained_variance_) * unit
    expect(bool(np.all(carried >= -slack)), "energy along V", carried, f"at least {-slack}")
    ratio = float(np.sum(to_numpy(sketch.explained_variance_ratio_)))
    expect(ratio <= 1.0 + eps, "sum of explained_variance_ratio_", ratio, "at most 1")
    _check_rows(sketch, X, V, mean if center else 0.0 * mean)


def _check_rows(sketch: BaseSketch[Any], X: Array, V: np.ndarray, mean: np.ndarray) -> None:
    """Check the coordinates of rows, and what is left of them."""
    Y = to_numpy(X).astype(np.float64) - mean
    size = float(np.max(np.sum(Y * Y, axis=1), initial=0.0))
    for rank in range(len(V) + 1):
        first = V[:rank]
        got = to_numpy(sketch.transform(X, rank=rank)).astype(np.float64)
        expect_close("transform", got, Y @ first.T, rounding(X, size**0.5))
        left = np.sum(Y * Y, axis=1) - np.sum((Y @ first.T) ** 2, axis=1)
        expect_close("residual", sketch.residual(X, rank=rank), left, rounding(X, size))
    whole = to_numpy(sketch.transform(X))
    expect(whole.shape[1] == len(V), "columns of transform", whole.shape[1], len(V))
