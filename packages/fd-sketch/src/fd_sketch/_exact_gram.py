"""The second moment itself, behind the same questions as a sketch."""

from typing import Self

from fd_sketch._arrays import Array, to_numpy
from fd_sketch._base import BaseSketch
from fd_sketch._checks import check_compensation
from fd_sketch._estimates import Compensation
from fd_sketch._format import Record
from fd_sketch._matrix import Matrix, empty_matrix


class ExactGram(BaseSketch[Matrix]):
    """A sketch that loses nothing: `B'B = C` and `error_bound() == 0`, for d^2 numbers.

    The better choice while `d` is not much larger than the sketch would be, and the measure of
    every other method. Products of rows are computed in the precision of the rows and summed in
    float64.

    Args:
        n_features: Number of columns d.
        center: Take the scatter about the running mean, `C = sum w (x - mu)(x - mu)'`.
        decay: Factor in (0, 1] on all earlier weights at every call of `partial_fit`.
        nonfinite: What to do with rows that are not finite, or whose squared norm leaves no room
            in the dtype (above 2^200 in float32, 2^960 in float64): `skip` and count them, or
            `raise`.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((100, 5))
        >>> exact = ExactGram(5).partial_fit(X[:30]).partial_fit(X[30:])
        >>> bool(np.allclose(exact.gram(), X.T @ X))
        True
        >>> exact.error_bound()
        0.0
    """

    def __init__(
        self,
        n_features: int,
        *,
        center: bool = False,
        decay: float = 1.0,
        nonfinite: str = "skip",
    ) -> None:
        super().__init__(n_features, center=center, decay=decay, nonfinite=nonfinite)

    def gram(self) -> Array:
        """Return C, float64 [d, d]."""
        like, store = self._state.moments.mean, self._state.store
        return self._out(empty_matrix(like[None, :], "float64").C if store is None else store.C)

    def covariance(self, *, compensate: Compensation = False) -> Array:
        """Return C, float64 [d, d]: nothing is missing that could be put back in.

        Raises:
            ValueError: `compensate` is no known compensation.
        """
        check_compensation(compensate)
        return self.gram()

    def error_bound(self) -> float:
        """Return 0: nothing is left out."""
        return 0.0

    def residual_mass(self) -> float:
        """Return 0: nothing is left out."""
        return 0.0

    def residual_diagonal(self) -> Array:
        """Return zeros, float64 [d]: nothing is left out."""
        return self._out(self._state.moments.diagonal * 0.0)

    def _empty_store(self, like: Array, dtype: str) -> Matrix:
        return empty_matrix(like, dtype)

    def _record(self) -> Record:
        state, store = self._state, self._state.store
        return Record(
            method="ExactGram",
            dtype=state.dtype,
            center=self.center,
            nonfinite=self.nonfinite,
            decay=self.decay,
            moments=state.moments.mapped(to_numpy),
            rows=to_numpy(self._flush().B[:0, :] if store is None else store.C),
        )

    @classmethod
    def _restored(cls, record: Record) -> tuple[Self, Matrix]:
        sketch = cls(
            record.rows.shape[1],
            center=record.center,
            decay=record.decay,
            nonfinite=record.nonfinite,
        )
        return sketch, Matrix(record.rows, record.dtype)
