"""The law of a sketch of the newest rows."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fd_sketch._arrays import Array, to_numpy
from fd_sketch._expect import expect, rounding, split


class WindowSketch(Protocol):
    """What the law needs to know of a sketch."""

    @property
    def window(self) -> int:
        """Number of rows that count."""
        ...

    def partial_fit(self, X: Array) -> Any:
        """Take in rows, [N, d]."""
        ...

    def sketch(self) -> Array:
        """Return B, [k, d]."""
        ...

    def error_bound(self) -> float:
        """Return Delta."""
        ...

    def excess_bound(self) -> float:
        """Return E."""
        ...


def check_window(make_sketch: Callable[[], WindowSketch], X: Array, *, seed: int = 0) -> None:
    """Check `-E I <= C_w - B'B <= Delta I` after every batch, C_w from the last rows themselves.

    As long as no row has left the window, E has to be 0.
    """
    sketch, seen = make_sketch(), 0
    values = to_numpy(X).astype(np.float64)
    slack = rounding(X, window_mass(values, sketch.window))
    for batch in split(X, seed):
        sketch.partial_fit(batch)
        seen += len(batch)
        rows = values[max(0, seen - sketch.window) : seen]
        B = to_numpy(sketch.sketch()).astype(np.float64)
        spectrum = np.linalg.eigvalsh(rows.T @ rows - B.T @ B)
        low, high = float(spectrum[0]), float(spectrum[-1])
        E, Delta = sketch.excess_bound(), sketch.error_bound()
        where = f"eigenvalue of C_w - B'B after {seen} rows"
        expect(low >= -E - slack, f"smallest {where}", low, f"at least {-E}")
        expect(high <= Delta + slack, f"largest {where}", high, f"at most {Delta}")
        expect(E == 0.0 or seen > sketch.window, f"excess_bound after {seen} rows", E, 0.0)


def window_mass(X: np.ndarray, window: int) -> float:
    """Return the largest mass of `window` successive rows."""
    total = np.concatenate([[0.0], np.cumsum(np.sum(X * X, axis=1))])
    starts = np.maximum(np.arange(len(total)) - window, 0)
    return float(np.max(total - total[starts]))
