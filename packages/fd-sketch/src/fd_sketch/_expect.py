"""What the laws of a sketch are made of: the truth by definition, and comparisons that explain."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np

from fd_sketch._arrays import Array, to_numpy
from fd_sketch._protocol import CovarianceSketch

MakeSketch: TypeAlias = Callable[[], CovarianceSketch]
Sketch = TypeVar("Sketch", bound=CovarianceSketch)


def exact_moments(
    batches: Iterable[Array],
    weights: Iterable[Array] | None = None,
    *,
    center: bool = False,
    decay: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return C [d, d], mean [d] and the sum of weights by their definition, in float64."""
    arrays = [np.asarray(to_numpy(X), dtype=np.float64) for X in batches]
    given = [np.ones(len(X)) for X in arrays] if weights is None else list(map(to_numpy, weights))
    last = len(arrays) - 1
    w = np.concatenate([v * decay ** (last - t) for t, v in enumerate(given)])
    X = np.concatenate(arrays)
    total = float(w.sum())
    mean = np.zeros(X.shape[1])
    for _ in range(2 if total > 0 else 0):
        mean = mean + w @ (X - mean) / total  # what the first time rounds off, the second finds
    Y = X - mean if center else X
    return (w * Y.T) @ Y, mean, total


def check_made(make_sketch: MakeSketch, *, center: bool, decay: float) -> None:
    """Check that sketches are made, and as the laws are told.

    Raises:
        TypeError: `make_sketch` cannot be called, or returns something else than a sketch.
        ValueError: it returns a sketch of another `center` or `decay`.
    """
    if not callable(make_sketch):
        kind = type(make_sketch).__name__
        raise TypeError(f"make_sketch must be a function that returns a sketch, got {kind}")
    sketch = make_sketch()
    if not isinstance(sketch, CovarianceSketch):
        kind = type(sketch).__name__
        window = "; check_window is for windows" if hasattr(sketch, "excess_bound") else ""
        raise TypeError(f"make_sketch must return a CovarianceSketch, got {kind}{window}")
    for name, told in (("center", center), ("decay", decay)):
        got = getattr(sketch, name, told)  # the protocol has no decay
        if got != told:
            raise ValueError(f"{name} must be that of the sketches made, {got}, got {told}")


def rounding(X: Array, mass: float) -> float:
    """Return the error that rounding may cause in a sketch of rows like `X` of a total mass."""
    narrow = to_numpy(X).dtype.itemsize <= 4
    return 100.0 * float(np.finfo(np.float32 if narrow else np.float64).eps) * mass


def split(X: Array, seed: int = 0) -> list[Array]:
    """Return the rows in batches of many sizes, none and one among them."""
    n = X.shape[0]
    cuts = np.random.default_rng(seed).integers(0, n + 1, size=4)
    edges = sorted({0, min(1, n), n, *map(int, cuts)})
    parts = [X[a:b] for a, b in pairwise(edges)]
    return [X[:0], *parts, X[n:]]


def fed(make_sketch: Callable[[], Sketch], batches: Iterable[Array]) -> Sketch:
    sketch = make_sketch()
    for batch in batches:
        sketch.partial_fit(batch)
    return sketch


def like(values: np.ndarray, X: Array) -> Array:
    """Return values as an array of the kind, place and dtype of `X`."""
    if isinstance(X, np.ndarray):
        return values.astype(X.dtype)
    return X.new_tensor(values) if hasattr(X, "new_tensor") else type(X)(values)


def sketch64(sketch: CovarianceSketch) -> np.ndarray:
    return to_numpy(sketch.sketch()).astype(np.float64)


def gram(sketch: CovarianceSketch) -> np.ndarray:
    B = sketch64(sketch)
    return B.T @ B


def expect(fine: bool, what: str, got: object, wanted: object) -> None:
    if not fine:
        raise AssertionError(f"{what}: expected {wanted}, got {got}")


def expect_bounds(sketch: CovarianceSketch, X: Array, C: np.ndarray) -> None:
    """Expect `0 <= C - B'B <= Delta I` up to rounding."""
    spectrum = np.linalg.eigvalsh(C - gram(sketch))
    low, high = float(spectrum[0]), float(spectrum[-1])
    slack, Delta = rounding(X, float(np.trace(C))), sketch.error_bound()
    expect(low >= -slack, "smallest eigenvalue of C - B'B", low, f"at least {-slack}")
    expect(high <= Delta + slack, "largest eigenvalue of C - B'B", high, f"at most {Delta}")


def expect_close(what: str, got: Any, wanted: Any, slack: float) -> None:
    gap = float(np.max(np.abs(to_numpy(got) - np.asarray(wanted)), initial=0.0))
    if not gap <= slack:
        raise AssertionError(f"{what}: off by {gap}, allowed {slack}: {wanted}, got {got}")


def expect_same(what: str, got: np.ndarray, wanted: np.ndarray) -> None:
    same = got.shape == wanted.shape and got.dtype == wanted.dtype
    expect(same and bool(np.array_equal(got, wanted)), what, got, wanted)
