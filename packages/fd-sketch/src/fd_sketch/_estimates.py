"""Second moments out of a sketch: as proven, or with what is missing put back in."""

from typing import Literal, TypeAlias

from fd_sketch._answers import Answers
from fd_sketch._arrays import (
    Array,
    cast,
    home_of,
    namespace,
    place,
    to_state,
    to_user,
    working_dtype,
)
from fd_sketch._checks import check_compensation
from fd_sketch._state import S
from fd_sketch._torch import plain_arithmetic
from fd_sketch._updates import check_home

Compensation: TypeAlias = bool | Literal["raw", "robust", "trace", "diag"]


class Estimates(Answers[S]):
    """Estimates `E + diag(w)` of C, where `E <= C` is what the sketch holds.

    With Delta, the bound on `C - E`, and F, the exact trace of C, `compensate` names w:

        "raw"     0                    never above C in any direction; the same as False
        "robust"  Delta / 2            off by at most Delta / 2, and positive definite
        "trace"   (F - trace E) / d    the exact trace
        "diag"    diag(C - E)          the exact diagonal; the same as True

    Each is positive semidefinite and off by at most Delta in any direction.

    Reference: "robust" is Luo, Chen, Zhang, Li, Zhang, "Robust Frequent Directions with
    Application in Online Learning", JMLR 20 (2019).
    """

    def covariance(self, *, compensate: Compensation = False) -> Array:
        """Return the estimate `B'B + diag(w)` of C, float64 [d, d], for B = `sketch()`.

        Like C it is a sum over the rows; divided by `effective_weight` it is a mean.

        Args:
            compensate: What w is: 0 for "raw" or False, `Delta / 2` for "robust", which halves
                the largest error, the mean of the missing diagonal for "trace", the missing
                diagonal itself for "diag" or True.

        Raises:
            ValueError: `compensate` is none of these.
        """
        w = self._missing(check_compensation(compensate))
        B, xp = cast(self._flush().B, "float64"), namespace(w)
        C = B.T @ B + xp.eye(w.shape[0], dtype=w.dtype, device=place(w)) * w
        return to_user(C, self._state.home)

    def factor(self, *, compensate: Compensation = False) -> Array:
        """Return S, [d, q], with `S S' = covariance(compensate=...)`, in the dtype of the rows.

        S is `B'`, and beside it, unless raw, `diag(sqrt(w))`. What needs a root of C gets it
        without a decomposition: the rows of `W S` have the norms of the outputs of a linear map.

        Raises:
            ValueError: `compensate` is none of those that `covariance` takes.

        Example:
            >>> import numpy as np
            >>> from fd_sketch import FrequentDirections
            >>> X = np.random.default_rng(0).standard_normal((100, 6))
            >>> S = FrequentDirections(6, 2).partial_fit(X).factor(compensate="diag")
            >>> S.shape
            (6, 8)
            >>> bool(np.allclose(np.sum(S**2, axis=1), np.sum(X**2, axis=0)))
            True
        """
        kind = check_compensation(compensate)
        B = self._flush().B
        if kind == "raw":
            return self._out(B.T)
        w = self._missing(kind)
        xp = namespace(w)
        eye = xp.eye(w.shape[0], dtype=B.dtype, device=place(w))
        roots = eye * xp.astype(xp.sqrt(w), B.dtype)
        return to_user(xp.concat([B.T, roots], axis=1), self._state.home)

    def quadratic_form(self, V: Array, *, compensate: Compensation = False) -> Array:
        """Return `V (C~ + diag(w)) V'`, float64 [k, k]: what projections of the rows carry.

        C~, `B'B <= C~ <= C`, is the second moment as it is stored, not yet reduced to a sketch:
        nothing is decomposed, which makes this the cheap question to ask often. Without w, entry
        (i, i) is at most the energy of the rows along `V[i]`, and short of it by at most
        `error_bound() |V[i]|^2`.

        Args:
            V: Directions, [k, d], in the library and on the device of the data.
            compensate: What w is, as for `covariance`, of C~ in the place of `B'B`. With any but
                "raw" the form is an estimate that no longer bounds.

        Raises:
            TypeError: `V` is no array of real numbers, or of another library than the data.
            ValueError: wrong shape or device, or no known compensation.
        """
        kind, home = check_compensation(compensate), home_of(V, "V")
        check_home(self._state, home, "V")
        if len(V.shape) != 2 or V.shape[1] != self._n_features:
            raise ValueError(f"V must be [k, {self._n_features}], got {list(V.shape)}")
        with plain_arithmetic(home):
            return to_user(self._quadratic(to_state(V, home), kind), home)

    def _quadratic(self, V: Array, kind: str) -> Array:
        store = self._state.store
        working_dtype(V, "V")
        V = cast(V, "float64")  # squares of float32 rows leave the range of float32
        if store is None:
            return (V @ V.T) * 0.0
        Q = store.quadratic(V)
        if kind == "raw":
            return Q
        w = self._lacking(kind, store.diagonal(), store.delta)
        return Q + (V * w) @ V.T

    def _missing(self, kind: str) -> Array:
        """Return w for the sketch that is returned."""
        return self._lacking(kind, self._flush().diagonal, self._flush().delta)

    def _lacking(self, kind: str, diagonal: Array, Delta: float) -> Array:
        """Return w, float64 [d], for an estimate with a diagonal, of which Delta is the bound."""
        m, xp = self._state.moments, namespace(diagonal)
        if kind == "diag":
            return xp.clip(m.diagonal - diagonal, 0.0, None)
        spread = max(0.0, m.total - float(xp.sum(diagonal))) / self._n_features
        return xp.full_like(diagonal, {"raw": 0.0, "robust": Delta / 2, "trace": spread}[kind])
