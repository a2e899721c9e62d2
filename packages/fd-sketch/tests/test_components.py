"""Components as scikit-learn gives them, and what rows are along them."""

import numpy as np
import pytest
import torch

from fd_sketch import ExactGram, FrequentDirections

ROWS = np.random.default_rng(0).standard_normal((40, 6)) * np.logspace(0, -1, 6) + 2.0
EXACT = [
    pytest.param(lambda **options: FrequentDirections(6, 6, **options), id="fd"),
    pytest.param(lambda **options: ExactGram(6, **options), id="exact"),
]


def principal(X):
    """Components and variances by definition, with the signs of scikit-learn."""
    Y = X - X.mean(axis=0)
    _, sigma, V = np.linalg.svd(Y, full_matrices=False)
    largest = V[np.arange(len(V)), np.argmax(np.abs(V), axis=1)]
    return V * np.sign(largest)[:, None], sigma, sigma**2 / (len(X) - 1)


@pytest.mark.parametrize("make", EXACT)
def test_an_exact_centred_sketch_has_the_principal_components(kind, make):
    sketch = make(center=True)
    for start in range(0, 40, 7):
        sketch.partial_fit(kind.array(ROWS[start : start + 7]))
    V, sigma, variance = principal(ROWS)
    # float32 keeps the rounding of rows and offset in the smallest component
    room = 200 * kind.eps
    assert np.abs(np.asarray(sketch.components_) - V).max() <= 100 * room
    assert np.abs(np.asarray(sketch.singular_values_) - sigma).max() <= room * sigma[0]
    assert np.abs(np.asarray(sketch.explained_variance_) - variance).max() <= room * variance[0]
    ratio = variance / variance.sum()
    assert np.abs(np.asarray(sketch.explained_variance_ratio_) - ratio).max() <= room
    Y = np.asarray(sketch.transform(kind.array(ROWS)), dtype=float)
    assert np.abs(Y - (ROWS - ROWS.mean(axis=0)) @ V.T).max() <= 1000 * room
    left = np.asarray(sketch.residual(kind.array(ROWS), rank=2))
    assert np.abs(left - np.sum(Y[:, 2:] ** 2, axis=1)).max() <= 1000 * room


@pytest.mark.parametrize("make", EXACT)
def test_variance_without_centring_is_about_zero(make):
    variance = make().partial_fit(ROWS).explained_variance_
    assert np.allclose(variance, np.linalg.svd(ROWS, compute_uv=False) ** 2 / 40)


@pytest.mark.parametrize("make", EXACT)
@pytest.mark.parametrize("unit", [1e-3, 0.25, 7.0])
def test_variance_does_not_depend_on_the_unit_of_the_weights(make, unit):
    w = np.linspace(0.5, 1.5, 40)
    one = make(center=True).partial_fit(ROWS, w).explained_variance_
    two = make(center=True).partial_fit(ROWS, w * unit).explained_variance_
    assert np.allclose(one, two, rtol=1e-10)


def test_rows_keep_their_leading_dimensions_library_and_dtype(kind):
    sketch = FrequentDirections(6, 3, center=True).partial_fit(kind.array(ROWS))
    X = kind.array(ROWS[:24].reshape(2, 3, 4, 6))
    Y, left = sketch.transform(X), sketch.residual(X)
    assert type(Y) is type(left) is type(X)
    assert (tuple(Y.shape), tuple(left.shape)) == ((2, 3, 4, 3), (2, 3, 4))
    assert Y.dtype == X.dtype
    assert "float64" in str(left.dtype)
    flat = np.asarray(sketch.transform(kind.array(ROWS[:24]), rank=2))
    assert np.allclose(np.asarray(Y)[..., :2].reshape(24, 2), flat, atol=100 * kind.eps)
    assert tuple(sketch.transform(X[0, 0, 0]).shape) == (3,)
    assert tuple(sketch.transform(X[:0]).shape) == (0, 3, 4, 3)


def test_float32_components_are_orthonormal_over_a_wide_spectrum(kind):
    X = np.random.default_rng(0).standard_normal((200, 12)) * np.logspace(0, -5, 12)
    V = np.asarray(FrequentDirections(12, 10).partial_fit(kind.array(X)).components_, dtype=float)
    assert np.abs(V @ V.T - np.eye(len(V))).max() <= 10 * kind.eps


def test_a_row_unlike_those_before_leaves_a_large_residual(kind):
    # all rows lie in the plane of the first two columns
    X = np.zeros((30, 5))
    X[:, :2] = np.random.default_rng(0).standard_normal((30, 2))
    sketch = FrequentDirections(5, 3).partial_fit(kind.array(X))
    rows = kind.array(np.concatenate([X, np.eye(5)[3:]]))
    left = np.asarray(sketch.residual(rows))
    assert np.all(left[:30] <= 100 * kind.eps)
    assert left[30:] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("X", [ROWS, torch.from_numpy(ROWS), ROWS.astype(np.float32)])
def test_a_sketch_of_no_rows_has_no_components(X):
    for sketch in (FrequentDirections(6, 3, center=True), ExactGram(6)):
        assert tuple(sketch.components_.shape) == (0, 6)
        for name in ("singular_values_", "explained_variance_", "explained_variance_ratio_"):
            assert tuple(getattr(sketch, name).shape) == (0,)
        assert tuple(sketch.transform(X).shape) == (40, 0)
        left = np.asarray(sketch.residual(X))
        assert np.allclose(left, np.sum(ROWS**2, axis=1))


def test_questions_about_rows_change_neither_rows_nor_sketch(kind):
    X = kind.array(ROWS)
    sketch = FrequentDirections(6, 3, center=True).partial_fit(X)
    saved = sketch.to_bytes()
    sketch.transform(X), sketch.residual(X)
    sketch.components_[...] = 7.0
    sketch.explained_variance_[...] = 7.0
    sketch.covariance(compensate="diag")[...] = 7.0
    sketch.factor()[...] = 7.0
    assert np.array_equal(np.asarray(X), ROWS.astype(kind.dtype))
    assert sketch.to_bytes() == saved
    assert np.asarray(sketch.components_).max() <= 1.0


@pytest.mark.parametrize(
    "rows, options, error, message",
    [
        (ROWS[:, :5], {}, ValueError, r"X must have shape \[..., 6\], got \[40, 5\]"),
        (ROWS.tolist(), {}, TypeError, "X must be an array .*, got list"),
        (ROWS > 0, {}, TypeError, "X must hold real numbers, got dtype bool"),
        (torch.ones(2, 6), {}, TypeError, "X must be of numpy like the data before"),
        (ROWS, {"rank": 4}, ValueError, r"rank must be in 0..3, got 4"),
        (ROWS, {"rank": -1}, ValueError, r"rank must be in 0..3, got -1"),
        (ROWS, {"rank": 1.0}, TypeError, "rank must be an int, got float"),
    ],
    ids=str,
)
def test_rows_and_ranks_are_checked(rows, options, error, message):
    sketch = FrequentDirections(6, 3).partial_fit(ROWS)
    for ask in (sketch.transform, sketch.residual):
        with pytest.raises(error, match=message):
            ask(rows, **options)
