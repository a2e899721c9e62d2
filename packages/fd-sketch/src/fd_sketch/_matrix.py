"""The second moment itself: exact, and quadratic in the number of features."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fd_sketch._arrays import Array, cast, namespace, place
from fd_sketch._rows import Rows
from fd_sketch._shrink import eigen, power_of_two

BLOCK_ROWS = 1024  # products of longer blocks round more than their float64 sum does


class Matrix(NamedTuple):
    """C as it is, in float64; rows are multiplied in their own precision, in short blocks."""

    C: Array  # [d, d] float64
    dtype: str  # of the rows, and of the sketch

    @property
    def rows(self) -> Array:
        """What is stored."""
        return self.C

    @property
    def delta(self) -> float:
        """0: nothing is left out."""
        return 0.0

    def mapped(self, change: Callable[[Array], Array]) -> "Matrix":
        """Return the matrix with its entries changed."""
        return self._replace(C=change(self.C))

    def promoted(self, dtype: str) -> "Matrix":
        """Return the matrix of rows of a dtype."""
        return self._replace(dtype=dtype)

    def decayed(self, decay: float) -> "Matrix":
        """Return `decay C`."""
        return self if decay == 1.0 else self._replace(C=self.C * decay)

    def appended(self, rows: Rows, mass: float) -> "Matrix":
        """Return `C + rows' rows`, whose trace is at most `mass`."""
        C, n = self.C, rows.X.shape[0]
        unit = power_of_two(mass, self.dtype)
        for start in range(0, n, BLOCK_ROWS):
            R = rows.part(start, min(n, start + BLOCK_ROWS), self.dtype, unit)
            P = R.T @ R
            # float64 first: the unscaled product may not fit the dtype of the rows
            C = C + (P if unit == 1.0 else cast(P, "float64") / unit / unit)
        return self._replace(C=C)

    def merged(self, other: "Matrix", mass: float) -> "Matrix":
        """Return the sum of both."""
        del mass
        return self._replace(C=self.C + other.C)

    def quadratic(self, V: Array) -> Array:
        """Return `V C V'`, [k, k], for V in float64."""
        return V @ self.C @ V.T

    def diagonal(self) -> Array:
        """Return the diagonal of C, float64 [d]."""
        return namespace(self.C).linalg.diagonal(self.C)

    def flushed(self, mass: float) -> tuple[Array, float]:
        """Return B with `B'B = C`, rows by falling norm, and 0."""
        xp, unit = namespace(self.C), power_of_two(mass, "float64")
        lam, V = eigen(self.C * unit * unit)
        # what is left of an exact zero after rounding
        floor = lam[0] * math.sqrt(len(lam)) * float(np.finfo(self.dtype).eps)
        k = int(np.count_nonzero(lam > floor))
        root = xp.asarray(np.sqrt(lam[:k]) / unit, device=place(V))
        return cast((V[:, :k] * root).T, self.dtype), 0.0


def empty_matrix(like: Array, dtype: str) -> Matrix:
    """Return the matrix of no rows, beside the rows `like` [N, d]."""
    xp, d = namespace(like), like.shape[1]
    return Matrix(xp.zeros((d, d), dtype=xp.float64, device=place(like)), dtype)
