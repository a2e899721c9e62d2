"""Estimates of C with what is missing put back in."""

import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections

# one shrink lowers 16, 9, 4 by 1 and drops the last direction
ROWS = np.diag([4.0, 3.0, 2.0, 1.0, 0.0])
KINDS = ["raw", "robust", "trace", "diag"]


def test_each_compensation_is_what_it_is_called(kind):
    sketch = FrequentDirections(5, 3).partial_fit(kind.array(ROWS))
    held = np.array([15.0, 8.0, 3.0, 0.0, 0.0])
    added = {
        "raw": np.zeros(5),
        "robust": np.full(5, 0.5),
        "trace": np.full(5, 4 / 5),
        "diag": np.array([1.0, 1.0, 1.0, 1.0, 0.0]),
    }
    for name, w in added.items():
        C = np.asarray(sketch.covariance(compensate=name))
        assert C.dtype == np.float64
        assert np.abs(C - np.diag(held + w)).max() <= 100 * kind.eps
        S = sketch.factor(compensate=name)
        assert "float64" in str(S.dtype) or kind.dtype == "float32"
        assert type(S) is type(kind.array(ROWS))
        assert tuple(S.shape) == ((5, 3) if name == "raw" else (5, 8))


@pytest.mark.parametrize("make", [lambda: FrequentDirections(5, 2), lambda: ExactGram(5)])
def test_a_bool_means_the_diagonal_or_nothing(make):
    sketch = make().partial_fit(np.random.default_rng(0).standard_normal((30, 5)))
    for flag, name in ((False, "raw"), (True, "diag")):
        for ask in (sketch.covariance, sketch.factor, lambda **o: sketch.quadratic_form(ROWS, **o)):
            assert np.array_equal(ask(compensate=flag), ask(compensate=name))


def test_robust_halves_the_largest_error():
    X = np.random.default_rng(0).standard_normal((300, 20)) * np.arange(1, 21) ** -0.5
    sketch, C = FrequentDirections(20, 5, buffer_size=5).partial_fit(X), X.T @ X
    errors = {
        name: np.abs(np.linalg.eigvalsh(C - sketch.covariance(compensate=name))).max()
        for name in KINDS
    }
    assert errors["robust"] <= sketch.error_bound() / 2 * (1 + 1e-12)
    assert errors["raw"] > 0.9 * sketch.error_bound()
    assert np.linalg.eigvalsh(sketch.covariance(compensate="robust"))[0] > 0.0


def test_the_exact_moment_needs_no_compensation(kind):
    X = np.random.default_rng(0).standard_normal((30, 5))
    exact = ExactGram(5).partial_fit(kind.array(X))
    for name in KINDS:
        assert np.array_equal(np.asarray(exact.covariance(compensate=name)), exact.gram())


def test_an_empty_sketch_estimates_nothing():
    for name in KINDS:
        sketch = FrequentDirections(5, 3)
        assert np.array_equal(sketch.covariance(compensate=name), np.zeros((5, 5)))
        S = sketch.factor(compensate=name)
        assert np.array_equal(S @ S.T, np.zeros((5, 5)))


@pytest.mark.parametrize("wrong", ["spiked", None, 1, "", ["raw"]])
def test_compensations_are_checked(wrong):
    for sketch in (FrequentDirections(5, 3).partial_fit(ROWS), ExactGram(5)):
        for ask in (sketch.covariance, sketch.factor, lambda **o: sketch.quadratic_form(ROWS, **o)):  # noqa: B023
            with pytest.raises(ValueError, match="compensate must be 'raw', 'robust', 'trace'"):
                ask(compensate=wrong)


@pytest.mark.parametrize("make", [lambda: FrequentDirections(5, 3), lambda: ExactGram(5)])
def test_forms_of_huge_rows_have_room_whatever_the_directions(kind, make):
    huge = kind.array(ROWS * 2.0**90)
    sketch = make().partial_fit(huge)
    for dtype in ("float32", "float64"):
        V = kind._replace(dtype=dtype).array(np.eye(5))
        for name in KINDS:
            Q = np.asarray(sketch.quadratic_form(V, compensate=name))
            assert Q.dtype == np.float64
            assert np.allclose(Q * 2.0**-180, ROWS @ ROWS, atol=1.0 + 1e-5)


def test_forms_along_directions_of_low_precision_are_those_of_their_values():
    X = np.random.default_rng(0).standard_normal((30, 5))
    sketch = FrequentDirections(5, 3).partial_fit(X)
    V = np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)
    wide = sketch.quadratic_form(V.astype(np.float64))
    assert np.array_equal(sketch.quadratic_form(V), wide)
