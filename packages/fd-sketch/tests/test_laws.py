import numpy as np
import pytest

from fd_sketch import (
    CovarianceSketch,
    ExactGram,
    FrequentDirections,
    SlidingFrequentDirections,
)
from fd_sketch.testing import (
    check_all,
    check_bounds,
    check_components,
    check_covariance,
    check_queries_change_nothing,
)

METHODS = {
    "fd": lambda d, **options: FrequentDirections(d, 4, **options),
    "fd-every-row": lambda d, **options: FrequentDirections(d, 4, buffer_size=1, **options),
    "fd-wide": lambda d, **options: FrequentDirections(d, 12, buffer_size=30, **options),
    "fd-half": lambda d, **options: FrequentDirections(d, 4, alpha=0.5, **options),
    "truncated": lambda d, **options: FrequentDirections(d, 4, alpha=0.0, **options),
    "exact": ExactGram,
}
SHAPES = [(33, 9), (5, 17), (1, 1)]


@pytest.mark.parametrize("decay", [1.0, 0.8])
@pytest.mark.parametrize("center", [False, True], ids=["plain", "centred"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("method", METHODS)
def test_keeps_every_law(kind, method, shape, center, decay):
    d = shape[1]
    X = np.random.default_rng(0).standard_normal(shape) * np.logspace(0, -2, d) + 0.3
    check_all(
        lambda: METHODS[method](d, center=center, decay=decay),
        kind.array(X),
        center=center,
        decay=decay,
    )


@pytest.mark.parametrize("center", [False, True], ids=["plain", "centred"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("method", METHODS)
def test_keeps_the_laws_of_estimates_and_components(kind, method, shape, center):
    d = shape[1]
    X = np.random.default_rng(0).standard_normal(shape) * np.logspace(0, -2, d) + 0.3
    for check in (check_covariance, check_components):
        check(
            lambda: METHODS[method](d, center=center, decay=0.8),
            kind.array(X),
            center=center,
            decay=0.8,
        )


@pytest.mark.parametrize("method", METHODS)
def test_is_a_covariance_sketch(method):
    assert isinstance(METHODS[method](3), CovarianceSketch)


class Overconfident(FrequentDirections):
    """Claims to be twice as good as it is."""

    def error_bound(self):
        return super().error_bound() / 2


class Forgetful(FrequentDirections):
    """Returns the first rows of its buffer without shrinking it."""

    def sketch(self):
        return self._state.store.rows[: self.sketch_size].copy()


class Stubborn(FrequentDirections):
    """Sees a row twice when it is asked about it."""

    def sketch(self):
        B = super().sketch()
        self.partial_fit(B)
        return B


class Optimistic(FrequentDirections):
    """Puts back in all that is missing, in every direction at once."""

    def covariance(self, *, compensate=False):
        return super().covariance() + self.residual_mass() * np.eye(self.n_features)


class Flattering(FrequentDirections):
    """Claims more variance along its components than there is."""

    @property
    def singular_values_(self):
        return super().singular_values_ * 2

    @property
    def explained_variance_(self):
        return super().explained_variance_ * 4


@pytest.mark.parametrize(
    "fraud, law, what",
    [
        (Optimistic, check_covariance, "least error of raw"),
        (Flattering, check_components, "sigma"),
        (Overconfident, check_bounds, "largest eigenvalue"),
        (Forgetful, check_bounds, "largest eigenvalue"),
        (Stubborn, check_queries_change_nothing, "sketch asked twice"),
    ],
)
def test_laws_find_who_breaks_them(fraud, law, what):
    X = np.random.default_rng(0).standard_normal((50, 9))
    with pytest.raises(AssertionError, match=what):
        law(lambda: fraud(9, 4), X)


@pytest.mark.parametrize(
    "make, options, error, what",
    [
        (FrequentDirections(9, 4), {}, TypeError, "make_sketch must be a function .*, got Freq"),
        (lambda: None, {}, TypeError, "make_sketch must return a CovarianceSketch, got NoneType"),
        (
            lambda: SlidingFrequentDirections(9, 4, 20),
            {},
            TypeError,
            "got SlidingFrequentDirections; check_window is for windows",
        ),
        (
            lambda: FrequentDirections(9, 4, center=True),
            {},
            ValueError,
            "center must be that of the sketches made, True, got False",
        ),
        (
            lambda: ExactGram(9, decay=0.5),
            {"decay": 0.8},
            ValueError,
            "decay must be that of the sketches made, 0.5, got 0.8",
        ),
    ],
)
def test_laws_refuse_sketches_that_are_others_than_they_are_told(make, options, error, what):
    with pytest.raises(error, match=what):
        check_all(make, np.ones((5, 9)), **options)
