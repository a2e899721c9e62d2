"""A sketch of the newest rows, against the newest rows themselves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from fd_sketch import SlidingFrequentDirections
from fd_sketch.testing import check_window

D = 9


def stream(family, n, rng):
    """Rows that make forgetting hard, of values that float32 holds exactly."""
    X = rng.standard_normal((n, D))
    turns = np.eye(D)[np.arange(n) // 7 % D]
    made = {
        "plain": X,
        "turning": turns,
        "turning noise": turns + 0.05 * X,
        "falling": X * 2.0 ** -(np.arange(n)[:, None] / 8),
        "rising": X * 2.0 ** (np.arange(n)[:, None] / 8),
        "breathing": X * 10.0 ** (2 * np.sin(np.arange(n)[:, None] / 9)),
        "spikes": X * np.where(rng.random((n, 1)) < 0.05, 100.0, 0.1),
        "silence": X * (np.arange(n)[:, None] % 40 < 20),
        "one row": np.ones((n, 1)) * X[:1],
        "low rank": X[:, :2] @ rng.standard_normal((2, D)),
    }
    return np.asarray(made[family], dtype=np.float32).astype(np.float64)


FAMILIES = ["plain", "turning", "turning noise", "falling", "rising", "breathing", "spikes"]
FAMILIES += ["silence", "one row", "low rank"]
streams = st.builds(
    lambda family, n, seed: stream(family, n, np.random.default_rng(seed)),
    st.sampled_from(FAMILIES),
    st.integers(1, 150),
    st.integers(0, 999),
)
sizes = st.integers(1, 10)
windows = st.integers(1, 60)


def heaviest(X, window):
    """The largest mass of `window` successive rows."""
    return max(np.sum(X[max(0, t - window) : t] ** 2) for t in range(1, len(X) + 1))


@given(streams, sizes, windows, st.integers(1, 25), st.integers(0, 99))
def test_lacks_no_more_than_its_bound_and_has_no_more_of_old_rows_than_the_other(
    kind, X, size, window, extra, seed
):
    check_window(
        lambda: SlidingFrequentDirections(D, size, window, buffer_size=extra),
        kind.array(X),
        seed=seed,
    )


@given(streams, sizes, windows, st.integers(1, 25))
def test_bounds_follow_the_heaviest_window(X, size, window, extra):
    sketch = SlidingFrequentDirections(D, size, window, buffer_size=extra)
    for t, x in enumerate(X, 1):
        sketch.partial_fit(x)
        F = heaviest(X[:t], window) * (1 + 1e-9)
        assert sketch.excess_bound() <= F / size
        assert sketch.error_bound() <= 2 * F / (size + 1)


@given(streams, sizes, windows, st.integers(1, 25))
def test_memory_grows_with_the_logarithm_of_the_change_of_mass(X, size, window, extra):
    sketch, masses = SlidingFrequentDirections(D, size, window, buffer_size=extra), []
    for x in X:
        sketch.partial_fit(x)
        masses.append(np.sum(np.asarray(sketch.sketch()) ** 2))
        held = [m for m in masses[-window:] if m > 0]
        levels = 1 + math.floor(math.log2(max(held) / min(held)) + 1) if held else 1
        assert sketch.n_rows_stored <= 8 * size * levels + size + min(extra, window)


def test_memory_does_not_depend_on_the_length_of_the_window():
    X = np.random.default_rng(0).standard_normal((20_000, 40))
    for window in (1000, 4000):
        sketch = SlidingFrequentDirections(40, 5, window)
        for batch in np.split(X[: 3 * window], 10):
            sketch.partial_fit(batch)
        assert sketch.n_rows_stored <= 40
        assert sketch.excess_bound() <= np.sum(X[:window] ** 2) / 5


def test_forgets_a_heavy_past_to_the_last_digit():
    rng = np.random.default_rng(0)
    past, now = rng.standard_normal((300, D)) * 1e3, rng.standard_normal((300, D))
    sketch = SlidingFrequentDirections(D, 4, window=100).partial_fit(past)
    for row in now:
        sketch.partial_fit(row)
    mass = np.sum(now[-100:] ** 2)
    assert sketch.excess_bound() <= mass
    C, B = now[-100:].T @ now[-100:], sketch.sketch()
    assert np.linalg.norm(C - B.T @ B, 2) <= mass


def test_is_exact_until_a_row_leaves_and_the_rank_exceeds_the_size():
    X = np.random.default_rng(0).standard_normal((50, D))
    sketch = SlidingFrequentDirections(D, D, window=50).partial_fit(X)
    B = sketch.sketch()
    assert np.allclose(B.T @ B, X.T @ X, atol=1e-10)
    assert sketch.error_bound() == sketch.excess_bound() == 0.0


def test_a_window_of_one_row_is_that_row(kind):
    X = np.random.default_rng(0).standard_normal((20, D))
    sketch = SlidingFrequentDirections(D, 3, window=1)
    for x in X:
        B = np.asarray(sketch.partial_fit(kind.array(x)).sketch(), dtype=np.float64)
        assert np.allclose(B.T @ B, np.outer(x, x), atol=100 * kind.eps * (x @ x))
        assert sketch.excess_bound() == sketch.error_bound() == 0.0


@given(streams, sizes, windows, st.lists(st.integers(0, 150), max_size=5))
def test_batches_leave_no_trace(X, size, window, cuts):
    whole = SlidingFrequentDirections(D, size, window).partial_fit(X)
    parts = SlidingFrequentDirections(D, size, window)
    for batch in np.split(X, sorted(min(cut, len(X)) for cut in cuts)):
        parts.partial_fit(batch)
        parts.sketch(), parts.error_bound()
    assert np.array_equal(whole.sketch(), parts.sketch())
    assert whole.error_bound() == parts.error_bound()
    assert whole.excess_bound() == parts.excess_bound()


@given(streams, sizes, windows)
def test_rows_of_the_sketch_are_orthogonal_and_ordered(kind, X, size, window):
    sketch = SlidingFrequentDirections(D, size, window).partial_fit(kind.array(X))
    B = np.asarray(sketch.sketch(), dtype=np.float64)
    G = B @ B.T
    room = 100 * kind.eps * np.trace(G)
    assert len(B) <= min(D, sketch.n_rows_stored)
    assert np.abs(G - np.diag(np.diag(G))).max(initial=0.0) <= room
    assert np.all(np.diff(np.diag(G)) <= room)


def test_weights_scale_the_rows_and_bad_rows_take_no_place():
    X = np.random.default_rng(0).standard_normal((40, D))
    bad = np.insert(X, [3, 30, 40], np.nan, axis=0)
    w = np.random.default_rng(1).random(40)
    clean = SlidingFrequentDirections(D, 3, 10).partial_fit(X, sample_weight=w)
    scaled = SlidingFrequentDirections(D, 3, 10).partial_fit(np.sqrt(w)[:, None] * X)
    skipped = SlidingFrequentDirections(D, 3, 10)
    skipped.partial_fit(bad, sample_weight=np.insert(w, [3, 30, 40], 1.0))
    assert np.allclose(clean.sketch().T @ clean.sketch(), scaled.sketch().T @ scaled.sketch())
    assert np.array_equal(clean.sketch(), skipped.sketch())
    assert (skipped.n_skipped, skipped.n_samples_seen) == (3, 40)


def test_copies_are_independent_and_a_reset_sketch_is_a_new_one(kind):
    X = kind.array(np.random.default_rng(0).standard_normal((60, D)))
    sketch = SlidingFrequentDirections(D, 3, 20).partial_fit(X)
    before, twin = np.asarray(sketch.sketch()), sketch.copy()
    twin.partial_fit(X * 2)
    twin.sketch()[...] = 7.0
    assert np.array_equal(np.asarray(sketch.sketch()), before)
    assert repr(twin) == (
        "<SlidingFrequentDirections(n_features=9, sketch_size=3, window=20) of 120 rows>"
    )
    assert np.array_equal(np.asarray(twin.reset().partial_fit(X).sketch()), before)
    assert twin.reset().sketch().shape == (0, D)
    assert twin.n_rows_stored == twin.n_samples_seen == 0


def test_answers_with_the_kind_of_array_it_was_asked_with(kind):
    X = kind.array(np.random.default_rng(0).standard_normal((60, D)))
    sketch = SlidingFrequentDirections(D, 3, 20).partial_fit(X)
    assert type(sketch.sketch()) is type(X)
    assert sketch.sketch().dtype == X.dtype
    wide = kind._replace(dtype="float64").array(np.ones((1, D)))
    assert "float64" in str(sketch.partial_fit(wide).partial_fit(X).sketch().dtype)


@pytest.mark.parametrize(
    "call, error, what",
    [
        (lambda s: s.partial_fit(np.ones((2, 8))), ValueError, r"X must have shape \[..., 9\]"),
        (lambda s: s.partial_fit([[1.0] * D]), TypeError, "X must be an array"),
        (lambda s: s.partial_fit(torch.ones(2, D)), TypeError, "X must be of numpy on cpu like"),
        (lambda s: s.partial_fit(np.full((1, D), np.inf)), ValueError, "X must hold finite rows"),
        (lambda s: s.partial_fit(np.ones((1, D)), -1.0), ValueError, "sample_weight must be"),
        (lambda s: SlidingFrequentDirections(D, 3, 0), ValueError, "window must be at least 1"),
        (lambda s: SlidingFrequentDirections(D, 0, 3), ValueError, "sketch_size must be at least"),
        (lambda s: SlidingFrequentDirections(D, 3, 2.5), TypeError, "window must be an int"),
        (lambda s: SlidingFrequentDirections(D, 3, 9, center=True), TypeError, "argument 'center'"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(call, error, what):
    X = np.random.default_rng(0).standard_normal((60, D))
    sketch = SlidingFrequentDirections(D, 3, 20, nonfinite="raise").partial_fit(X)
    before = sketch.sketch()
    with pytest.raises(error, match=what):
        call(sketch)
    assert np.array_equal(sketch.sketch(), before)
    assert sketch.n_samples_seen == 60


class Hoarder(SlidingFrequentDirections):
    """Says that nothing old is left in it."""

    def excess_bound(self):
        return 0.0


class Optimist(SlidingFrequentDirections):
    """Says that nothing is missing."""

    def error_bound(self):
        return 0.0


@pytest.mark.parametrize("fraud, what", [(Hoarder, "smallest"), (Optimist, "largest")])
def test_the_law_finds_who_breaks_it(fraud, what):
    X = stream("turning noise", 150, np.random.default_rng(0))
    with pytest.raises(AssertionError, match=f"{what} eigenvalue of C_w"):
        check_window(lambda: fraud(D, 2, 30), X)
