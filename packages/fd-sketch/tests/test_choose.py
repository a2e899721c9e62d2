import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections, covariance_sketch
from fd_sketch.testing import check_all


@pytest.mark.parametrize(
    "n_features, options, kind",
    [
        (30, {}, ExactGram),
        (31, {}, FrequentDirections),
        (15, {"buffer_size": 5}, ExactGram),
        (16, {"buffer_size": 5}, FrequentDirections),
        (1000, {"method": "exact"}, ExactGram),
        (3, {"method": "fd"}, FrequentDirections),
    ],
)
def test_takes_the_method_that_holds_fewer_numbers_or_the_one_that_is_named(
    n_features, options, kind
):
    assert type(covariance_sketch(n_features, 10, **options)) is kind


@pytest.mark.parametrize("method", ["exact", "fd"])
def test_arguments_reach_the_sketch(method):
    options = {"center": True, "decay": 0.5, "nonfinite": "raise"}
    sketch = covariance_sketch(40, 7, method=method, buffer_size=9, alpha=0.25, **options)
    for name, value in {"n_features": 40, **options}.items():
        assert getattr(sketch, name) == value
    if method == "fd":
        assert (sketch.sketch_size, sketch.buffer_size, sketch.alpha) == (7, 9, 0.25)


@pytest.mark.parametrize("n_features", [9, 20])
def test_what_is_chosen_keeps_every_law(n_features):
    X = np.random.default_rng(0).standard_normal((33, n_features))
    check_all(lambda: covariance_sketch(n_features, 4), X)


@pytest.mark.parametrize("method", ["auto", "exact", "fd"])
@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((0, 3), {}, ValueError, "n_features must be at least 1, got 0"),
        ((4, 0), {}, ValueError, "sketch_size must be at least 1, got 0"),
        ((4, 2), {"alpha": 2.0}, ValueError, r"alpha must be in \[0, 1\], got 2.0"),
        ((4, 2), {"buffer_size": 0}, ValueError, "buffer_size must be at least 1, got 0"),
        ((4, 2), {"decay": 0.0}, ValueError, r"decay must be in \(0, 1\], got 0.0"),
    ],
)
def test_arguments_are_checked_whichever_is_taken(method, arguments, options, error, message):
    with pytest.raises(error, match=message):
        covariance_sketch(*arguments, method=method, **options)


@pytest.mark.parametrize("method", ["gram", None, 1])
def test_methods_are_checked(method):
    with pytest.raises(ValueError, match="method must be 'auto', 'exact' or 'fd', got"):
        covariance_sketch(4, 2, method=method)
