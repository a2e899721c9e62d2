"""The questions a user asks of a sketch."""

from typing import Generic

import numpy as np

from fd_sketch._arrays import Array, clone, namespace, to_user
from fd_sketch._checks import check_fraction
from fd_sketch._state import Flushed, S, State, flush
from fd_sketch._torch import plain_arithmetic


class Answers(Generic[S]):
    """What follows from the state of a sketch."""

    _n_features: int
    _center: bool
    _state: State[S]
    _answer: Flushed | None

    @property
    def mean(self) -> Array:
        """Weighted mean of the rows under decay, float64 [d]."""
        return self._out(self._state.moments.mean)

    @property
    def n_samples_seen(self) -> int:
        """Number of rows taken in, whatever their weight."""
        return self._state.moments.n_seen

    @property
    def effective_weight(self) -> float:
        """Sum of the weights under decay."""
        return self._state.moments.weight

    @property
    def n_skipped(self) -> int:
        """Number of rows left out: not finite, or without room for their squared norm."""
        return self._state.moments.n_skipped

    def _flush(self) -> Flushed:
        """Return the flushed sketch, computed once between two updates."""
        if self._answer is None:
            with plain_arithmetic(self._state.home):
                self._answer = flush(self._state)
        return self._answer

    def sketch(self) -> Array:
        """Return B, [k, d], whose rows are orthogonal and ordered by falling norm.

        `0 <= C - B'B <= Delta I` with `Delta = error_bound()`. The norms are the singular values
        of B. Nothing changes: asked twice it returns the same, in new memory. Library, device and
        dtype are those of the data; before any data it is a numpy array of no rows.
        """
        return self._out(self._flush().B)

    def error_bound(self) -> float:
        """Return Delta, a bound on the largest eigenvalue of `C - B'B` for B = `sketch()`.

        It holds for the rows that were taken in. Of rows sampled from a longer stream, it speaks
        of the sample.
        """
        return self._flush().delta

    def total_mass(self) -> float:
        """Return F, the trace of C: the sum of all squared (centred, weighted) entries."""
        return self._state.moments.total

    def residual_mass(self) -> float:
        """Return rho = F - ||B||_F^2, the trace of what the sketch lacks."""
        return max(0.0, self.total_mass() - float(np.sum(self._flush().energies)))

    def diagonal(self) -> Array:
        """Return the exact diagonal of C, float64 [d]."""
        return self._out(self._state.moments.diagonal)

    def residual_diagonal(self) -> Array:
        """Return the diagonal of `C - B'B`, float64 [d], at least 0."""
        rest = self._state.moments.diagonal - self._flush().diagonal
        return to_user(namespace(rest).clip(rest, 0.0, None), self._state.home)

    def energy_rank(self, eps: float) -> int:
        """Return the smallest certified rank that loses at most `eps` of the mass.

        The smallest r with `F - sum_{i<=r} sigma_i^2(B) <= eps F`. Because `C >= B'B`, projecting
        the rows onto the first r right singular vectors of B loses no more than that. It is
        `n_features` where no rank within the sketch is enough.

        Raises:
            ValueError: `eps` is outside of [0, 1].
        """
        allowed = check_fraction(eps, "eps") * self.total_mass()
        lost = self.total_mass() - np.concatenate([[0.0], np.cumsum(self._flush().energies)])
        enough = np.flatnonzero(lost <= allowed)
        return int(enough[0]) if len(enough) else self._n_features

    def _out(self, A: Array) -> Array:
        return to_user(clone(A), self._state.home)
