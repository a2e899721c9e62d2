"""One step of Frequent Directions: many rows become few, and the price is known."""

import math

import numpy as np

from fd_sketch._arrays import Array, cast, namespace, place, to_numpy

# measured with OpenBLAS: eigh of 128 n rows takes 6 to 27 % longer than of 128 n + 4, so that a
# matrix of such a size is decomposed with a few zeros around it
CLIFF, EXTRA = 128, 4


def power_of_two(mass: float, dtype: str) -> float:
    """Return a factor under which the squares of rows of a total mass neither over- nor underflow.

    Powers of two change no digit. In the middle of the range the factor is 1.
    """
    low, high, widest = (-60, 120, 126) if dtype == "float32" else (-300, 300, 1000)
    exponent = math.frexp(mass)[1]
    if mass == 0.0 or low <= exponent <= high:
        return 1.0
    return 2.0 ** max(-widest, min(widest, -exponent // 2))


def eigen(S: Array) -> tuple[np.ndarray, Array]:
    """Return eigenvalues (falling, at least 0, on the host) and eigenvectors in float64.

    For a positive semidefinite S, [n, n]; vectors of eigenvalues above rounding are orthonormal.
    """
    if isinstance(S, np.ndarray) and S.shape[0] and S.shape[0] % CLIFF == 0:
        lam, U = np.linalg.eigh(_padded(S))
        lam, U = lam[EXTRA:], U[:-EXTRA, EXTRA:]  # rising: zeros and below come first
        return np.maximum(lam[::-1], 0.0), U[:, ::-1]
    xp = namespace(S)
    lam, U = xp.linalg.eigh(cast(S, "float64"))
    return np.maximum(to_numpy(lam)[::-1], 0.0), xp.flip(U, axis=1)


def _padded(S: np.ndarray) -> np.ndarray:
    """Return S with a few rows and columns of zeros more, float64."""
    n = S.shape[0]
    P = np.zeros((n + EXTRA, n + EXTRA))
    P[:n, :n] = S
    return P


def shrink(
    Z: Array, size: int, *, spared: int, scale: float, mass: float, dtype: str
) -> tuple[Array, float]:
    """Return `B` [k, d], k <= size, and delta with `0 <= scale^2 Z'Z - B'B <= delta I`.

    With the eigenpairs `lam_i, u_i` of the Gram matrix `Z Z'` in falling order:

        B = scale diag(w) U' Z,   w_i = sqrt(max(lam_i - lam_{size+1}, 0) / lam_i)

    so that B has the right singular vectors of Z, and its squared singular values are lowered by
    `delta = scale^2 lam_{size+1}`, but for the first `spared`, where `w_i = 1`. Squaring the
    condition number does no harm: eigenvalues are needed to an error that is small against the
    largest one only. With more rows than columns `Z'Z` is the smaller matrix and has the singular
    vectors as they are.

    Args:
        Z: Rows, [r, d].
        size: The largest number of rows to return.
        spared: How many of the first directions are kept whole.
        scale: Factor of the rows. It enters the small matrix of weights, in float64: rows
            multiplied by a rounded factor again and again would drift from the exact mass.
        mass: An upper bound on the trace of `scale^2 Z'Z`.
        dtype: Of `Z`, by name.

    Reference: Ghashami, Liberty, Phillips, Woodruff, "Frequent Directions: Simple and
    Deterministic Matrix Sketching", SIAM J. Comput. 45 (2016); delta is taken one row later here,
    so that all `size` rows are of use. Sparing the first is Desai, Ghashami, Phillips, "Improved
    Practical Matrix Sketching with Guarantees", IEEE TKDE 28 (2016).
    """
    xp, (r, d) = namespace(Z), Z.shape
    unit = power_of_two(mass / scale**2, dtype)
    Y = Z if unit == 1.0 else Z * unit
    wide = r <= d
    lam, U = eigen(Y @ Y.T if wide else Y.T @ Y)
    delta = float(lam[size]) if size < min(r, d) else 0.0
    # what is left of an exact zero after rounding
    floor = lam[0] * min(r, d) * np.finfo(np.float64).eps if r else 0.0
    kept = lam[:size] - np.where(np.arange(len(lam[:size])) < spared, 0.0, delta)
    k = int(np.count_nonzero((kept > 0.0) & (lam[:size] > floor)))
    kept = kept[:k]
    w = np.sqrt(kept / lam[:k]) if wide else np.sqrt(kept) / unit
    w = w * scale
    W = cast((U[:, :k] * xp.asarray(w, device=place(U))).T, dtype)
    return (W @ Z if wide else W), delta / unit / unit * scale**2
