"""The one decomposition that everything rests on, at sizes that are padded and at others."""

import numpy as np
import pytest

from fd_sketch import FrequentDirections, frequent_directions_reference
from fd_sketch._shrink import CLIFF, eigen


@pytest.mark.parametrize("n", [0, 1, CLIFF - 1, CLIFF, CLIFF + 1, 2 * CLIFF])
@pytest.mark.parametrize("rank", [0, 1, 40, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eigenpairs_are_those_of_the_matrix(n, rank, dtype):
    Z = np.random.default_rng(0).standard_normal((n, rank)).astype(dtype)
    S = Z @ Z.T
    lam, U = eigen(S)
    assert lam.shape == (n,)
    assert U.shape == (n, n)
    assert np.all(lam >= 0.0)
    assert np.all(np.diff(lam) <= 0.0)
    top = lam.max(initial=0.0)
    # the product itself is rounded, and what it makes negative is left out
    assert np.abs((U * lam) @ U.T - S).max(initial=0.0) <= 10 * np.finfo(dtype).eps * top
    kept = U[:, lam > 1e-5 * top] if top else U[:, :0]
    assert kept.shape[1] == min(n, rank)
    assert np.abs(kept.T @ kept - np.eye(kept.shape[1])).max(initial=0.0) <= 1e-10


@pytest.mark.parametrize("d", [100, CLIFF, 300])
def test_a_buffer_of_a_padded_size_agrees_with_the_reference(d):
    X = np.random.default_rng(0).standard_normal((500, d)) * np.arange(1, d + 1) ** -0.7
    sketch = FrequentDirections(d, CLIFF // 4, buffer_size=3 * CLIFF // 4).partial_fit(X)
    B, Delta = frequent_directions_reference(X, CLIFF // 4, buffer_size=3 * CLIFF // 4)
    A, F = sketch.sketch(), np.sum(X * X)
    assert np.abs(A.T @ A - B.T @ B).max() <= 1e-11 * F
    assert abs(sketch.error_bound() - Delta) <= 1e-11 * F
