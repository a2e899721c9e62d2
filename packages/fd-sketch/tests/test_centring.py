"""Rows about their mean: exact where the mean is a row, as it is of one row or of equal ones."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fd_sketch import ExactGram, FrequentDirections
from fd_sketch.testing import check_all, exact_moments

METHODS = [lambda **options: FrequentDirections(5, 3, **options), lambda **o: ExactGram(5, **o)]
weights = st.sampled_from([0.001, 0.3, 1.0, 2.5, 7.0])


def rational_scatter(X, w):
    """The scatter about the mean without any rounding before the end."""
    X, w = [[Fraction(float(v)) for v in row] for row in X], [Fraction(float(v)) for v in w]
    columns = zip(*X, strict=True)
    mean = [sum(v * x for v, x in zip(w, column, strict=True)) / sum(w) for column in columns]
    Y = [[x - m for x, m in zip(row, mean, strict=True)] for row in X]
    d = range(len(mean))
    return np.array(
        [[float(sum(v * y[i] * y[j] for v, y in zip(w, Y, strict=True))) for j in d] for i in d]
    )


@pytest.mark.parametrize("make", METHODS, ids=["fd", "exact"])
@given(st.integers(0, 9999), st.integers(1, 4), weights, st.sampled_from([1.0, 0.99, 1e-5]))
def test_equal_rows_scatter_nothing_whatever_they_weigh(kind, make, seed, n, weight, decay):
    x = np.random.default_rng(seed).standard_normal(5) * 492.0
    X = kind.array(np.tile(x, (n, 1)))
    sketch = make(center=True, decay=decay)
    sketch.partial_fit(X, sample_weight=weight).partial_fit(X[:0]).partial_fit(X, 3 * weight)
    assert sketch.total_mass() == sketch.error_bound() == 0.0
    assert sketch.sketch().shape[0] == 0
    assert np.array_equal(np.asarray(sketch.mean), np.asarray(X[0], dtype=np.float64))


@given(st.integers(0, 9999), st.lists(weights, min_size=1, max_size=6), st.integers(-9, 0))
def test_sketch_and_definition_are_what_fractions_say(seed, w, exponent):
    rng = np.random.default_rng(seed)
    X = 1e3 + rng.standard_normal((len(w), 5)) * 10.0**exponent
    w, want = np.array(w), rational_scatter(X, w)
    C = exact_moments([X], [w], center=True)[0]
    sketch = ExactGram(5, center=True).partial_fit(X, sample_weight=w)
    # a mean that is off by a rounding of 1e3 adds its square
    room = 1e-13 * np.trace(want) + 1e-25 * w.sum()
    for got in (C, sketch.gram()):
        assert np.abs(got - want).max() <= room
    assert abs(sketch.total_mass() - np.trace(want)) <= room


@pytest.mark.parametrize("make", METHODS, ids=["fd", "exact"])
def test_laws_hold_for_one_row_of_any_weight(kind, make):
    X = kind.array(np.random.default_rng(254).standard_normal((1, 5)) * 492.0)
    check_all(lambda: make(center=True, decay=0.3), X, center=True, decay=0.3)
