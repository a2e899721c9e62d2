import numpy as np
import pytest

from fd_sketch import frequent_directions_reference


@pytest.mark.parametrize("buffer_size", [None, 1, 5])
def test_keeps_the_theorem(buffer_size):
    X = np.random.default_rng(0).standard_normal((40, 7)) * np.logspace(0, -2, 7)
    B, Delta = frequent_directions_reference(X, 3, buffer_size=buffer_size)
    lacking = np.linalg.eigvalsh(X.T @ X - B.T @ B)
    assert B.shape == (3, 7)
    assert lacking[0] >= -1e-12
    assert 0.9 * Delta <= lacking[-1] <= Delta + 1e-12
    assert 4 * Delta <= np.sum(X * X) - np.sum(B * B) + 1e-9


def test_lowers_three_equal_directions_to_nothing():
    B, Delta = frequent_directions_reference(np.eye(3), 2)
    assert Delta == pytest.approx(1.0)
    assert np.abs(B).max() < 1e-7


def test_keeps_what_fits():
    X = np.diag([3.0, 2.0, 0.0])
    B, Delta = frequent_directions_reference(X, 2)
    assert Delta == 0.0
    assert np.allclose(B.T @ B, X.T @ X)


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3, 1)])
def test_takes_any_number_of_rows(shape):
    X = np.ones(shape)
    B, Delta = frequent_directions_reference(X, 2)
    assert np.allclose(B.T @ B, X.T @ X)
    assert Delta == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "X, error, what",
    [
        (np.ones(4), ValueError, r"X must have shape \[N, d\], got \[4\]"),
        ([[1.0]], TypeError, "X must be a numpy array, got list"),
    ],
)
def test_rows_are_checked(X, error, what):
    with pytest.raises(error, match=what):
        frequent_directions_reference(X, 2)
