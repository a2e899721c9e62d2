"""Principal components of a sketch, spelled as scikit-learn spells them."""

import numpy as np

from fd_sketch._arrays import (
    Array,
    cast,
    home_of_rows,
    namespace,
    place,
    to_state,
    to_user,
    working_dtype,
)
from fd_sketch._batch import check_shape, flat
from fd_sketch._checks import check_rank
from fd_sketch._estimates import Estimates
from fd_sketch._rows import Rows, blocks
from fd_sketch._state import S
from fd_sketch._torch import plain_arithmetic
from fd_sketch._updates import check_home


class Components(Estimates[S]):
    """The directions of B and the energy along them: V and sigma with `B = diag(sigma) V`.

    Where the sketch is exact and centred they are the principal components of the rows and agree
    with those of `sklearn.decomposition.PCA`, signs included. Elsewhere, because `B'B <= C`, the
    rows vary along these directions at least as much as it says here.
    """

    @property
    def components_(self) -> Array:
        """V, [k, d]: orthonormal rows by falling energy, the largest entry of each positive."""
        return to_user(self._directions(), self._state.home)

    @property
    def singular_values_(self) -> Array:
        """The norms sigma of the rows of B, float64 [k]."""
        return self._vector(np.sqrt(self._flush().energies))

    @property
    def explained_variance_(self) -> Array:
        """Variance along each component, float64 [k].

        `sigma^2 / W * n / (n - 1)` for rows about their mean, with W, the effective weight, and
        n, the rows seen: without weights and decay the `sigma^2 / (n - 1)` of scikit-learn, and
        the same whatever unit the weights have. Without centring it is the mean of squares about
        zero, `sigma^2 / W`.
        """
        n, weight = self.n_samples_seen, self.effective_weight
        freedom = n / (n - 1) if self._center and n > 1 else 1.0
        energies = self._flush().energies
        return self._vector(energies / weight * freedom if weight > 0.0 else energies)

    @property
    def explained_variance_ratio_(self) -> Array:
        """Part of the exact mass along each component, float64 [k]."""
        total = self.total_mass()
        energies = self._flush().energies
        return self._vector(energies / total if total > 0.0 else energies)

    def transform(self, X: Array, *, rank: int | None = None) -> Array:
        """Return `(X - mean) V'` for the first components, [..., rank]; `X V'` if not centred.

        Args:
            X: Rows, [..., d], as `partial_fit` takes them.
            rank: Number of components, all of the sketch if not given.

        Raises:
            TypeError: `X` is no array of real numbers, or of another library than the data.
            ValueError: wrong shape or device, or a rank outside of 0..k.
        """
        rows, leading, V = self._projected(X, rank)
        with plain_arithmetic(home_of_rows(X)):
            dtype = working_dtype(rows.X)
            V = cast(V, dtype).T
            parts = [rows.part(a, b, dtype) @ V for a, b in blocks(rows.X)]
            return self._joined(parts, V[:0, :], (*leading, V.shape[1]), X)

    def residual(self, X: Array, *, rank: int | None = None) -> Array:
        """Return `|y|^2 - |V y|^2` for each row `y = x - mean`, float64 [...].

        It is what projecting on the first components leaves of a row: small for rows like those
        that were taken in, large for others. Without centring y is x.

        Args:
            X: Rows, [..., d], as `partial_fit` takes them.
            rank: Number of components, all of the sketch if not given.

        Raises:
            TypeError: `X` is no array of real numbers, or of another library than the data.
            ValueError: wrong shape or device, or a rank outside of 0..k.
        """
        rows, leading, V = self._projected(X, rank)
        with plain_arithmetic(home_of_rows(X)):
            V = cast(V, "float64")
            xp, parts = namespace(V), []
            for start, stop in blocks(rows.X):
                Y = rows.part(start, stop, "float64")
                # squares of a difference, not a difference of squares, which would cancel
                parts.append(xp.sum((Y - (Y @ V.T) @ V) ** 2, axis=1))
            return self._joined(parts, V[:0, 0], leading, X)

    def _directions(self) -> Array:
        """Return V, [k, d], in the dtype of B."""
        kept = self._flush().B
        with plain_arithmetic(self._state.home):
            xp, B = namespace(kept), cast(kept, "float64")
            # rows of B are orthogonal up to the rounding of the first one only
            V = xp.linalg.qr(B.T)[0].T
            flipped = xp.max(V, axis=1) < -xp.min(V, axis=1)
            return xp.astype(xp.where(flipped[:, None], -V, V), kept.dtype)

    def _projected(self, X: Array, rank: int | None) -> tuple[Rows, tuple[int, ...], Array]:
        """Return rows about the mean, their leading dimensions, and the components."""
        state, home = self._state, home_of_rows(X)
        check_home(state, home, "X")
        X = to_state(X, home)
        leading = check_shape(X, self._n_features)
        working_dtype(X)
        V = self._directions()
        V = V[: check_rank(rank, V.shape[0]), :]
        if state.store is None:  # numpy's until there are data
            return Rows(flat(X)), leading, namespace(X).asarray(V, device=place(X))
        return Rows(flat(X), None, state.moments.mean if self._center else None), leading, V

    def _joined(self, parts: list[Array], none: Array, shape: tuple[int, ...], X: Array) -> Array:
        """Return what came of the blocks, in the place and the leading dimensions of X."""
        xp = namespace(none)
        return to_user(xp.reshape(xp.concat([none, *parts]), shape), home_of_rows(X))

    def _vector(self, values: np.ndarray) -> Array:
        """Return numbers from the host where the data are."""
        mean = self._state.moments.mean
        A = namespace(mean).asarray(values, device=place(mean), copy=True)
        return to_user(A, self._state.home)
