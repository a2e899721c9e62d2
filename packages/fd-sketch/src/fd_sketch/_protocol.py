"""What every covariance sketch can do."""

from typing import Any, Protocol, Self, runtime_checkable

from fd_sketch._arrays import Array


@runtime_checkable
class CovarianceSketch(Protocol):
    """A summary of a stream of rows that stands for its second moment `C`.

    `C = sum_i w_i x_i x_i'`, or the scatter about the mean where the sketch is centred, with the
    weights of earlier calls multiplied by the decay at every call. Whatever the method,

        0 <= C - B'B <= Delta I        B = sketch(), Delta = error_bound()

    in the order of symmetric matrices, up to the rounding of the dtype. The total mass, the
    diagonal, the mean and the counts are exact. `fd_sketch.testing` holds these laws as
    functions.
    """

    @property
    def n_features(self) -> int:
        """Number of columns d."""
        ...

    @property
    def center(self) -> bool:
        """Whether C is the scatter about the mean."""
        ...

    @property
    def mean(self) -> Array:
        """Weighted mean of the rows, float64 [d]."""
        ...

    @property
    def n_samples_seen(self) -> int:
        """Number of rows taken in."""
        ...

    @property
    def effective_weight(self) -> float:
        """Sum of the weights under decay."""
        ...

    @property
    def n_skipped(self) -> int:
        """Number of non-finite rows left out."""
        ...

    def partial_fit(self, X: Array, sample_weight: Any = None) -> Self:
        """Take in rows, [..., d]."""
        ...

    def merge(self, other: Self) -> Self:
        """Take in what another sketch has taken in."""
        ...

    def sketch(self) -> Array:
        """Return B, [l, d]."""
        ...

    def error_bound(self) -> float:
        """Return Delta."""
        ...

    def total_mass(self) -> float:
        """Return the trace of C."""
        ...

    def residual_mass(self) -> float:
        """Return the trace of C - B'B."""
        ...

    def diagonal(self) -> Array:
        """Return the diagonal of C, float64 [d]."""
        ...

    def residual_diagonal(self) -> Array:
        """Return the diagonal of C - B'B, float64 [d]."""
        ...

    def quadratic_form(self, V: Array, *, compensate: bool = False) -> Array:
        """Return `V C~ V'`, [k, k], for the moment C~ that is stored, `B'B <= C~ <= C`."""
        ...

    def energy_rank(self, eps: float) -> int:
        """Return a rank whose truncation loses at most the fraction `eps` of the mass."""
        ...

    def to_bytes(self) -> bytes:
        """Return the whole state."""
        ...

    @classmethod
    def from_bytes(cls, data: bytes, like: Array | None = None) -> Self:
        """Return the sketch of a saved state."""
        ...

    def to(self, device: Any) -> Self:
        """Move the arrays to a device."""
        ...

    def copy(self) -> Self:
        """Return an independent copy."""
        ...

    def reset(self) -> Self:
        """Forget all rows."""
        ...
