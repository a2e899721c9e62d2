"""Rows that are not finite, or whose squares are not, never enter the statistics."""

import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections
from fd_sketch.testing import exact_moments

VALUES = np.random.default_rng(0).standard_normal((30, 5))
METHODS = [
    pytest.param(lambda **options: FrequentDirections(5, 3, buffer_size=4, **options), id="fd"),
    pytest.param(lambda **options: ExactGram(5, **options), id="exact"),
]


def spoiled(values, bad):
    X = values.copy()
    X[7, 2] = X[20, 0] = bad
    return X


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_rows_are_skipped_and_counted(kind, make, center, bad):
    sketch = make(center=center, decay=0.9).partial_fit(kind.array(spoiled(VALUES, bad)))
    clean = make(center=center, decay=0.9)
    clean.partial_fit(kind.array(np.delete(VALUES, [7, 20], axis=0)))
    assert sketch.n_skipped == 2
    assert sketch.n_samples_seen == 28
    assert np.array_equal(np.asarray(sketch.sketch()), np.asarray(clean.sketch()))
    assert np.array_equal(np.asarray(sketch.mean), np.asarray(clean.mean))
    assert sketch.total_mass() == clean.total_mass()


@pytest.mark.parametrize("make", METHODS)
def test_bad_rows_raise_by_choice_and_change_nothing(kind, make):
    sketch = make(nonfinite="raise").partial_fit(kind.array(VALUES))
    saved = sketch.to_bytes()
    with pytest.raises(ValueError, match="X must hold finite rows .* row 7 is not"):
        sketch.partial_fit(kind.array(spoiled(VALUES, np.nan)))
    assert sketch.to_bytes() == saved


def test_weights_of_skipped_rows_are_skipped_with_them(kind):
    w = np.linspace(0.1, 2.0, 30)
    sketch = ExactGram(5).partial_fit(kind.array(spoiled(VALUES, np.nan)), sample_weight=w)
    rest = np.delete(VALUES, [7, 20], axis=0), np.delete(w, [7, 20])
    C, _, weight = exact_moments([kind.array(rest[0])], [rest[1]])
    assert sketch.effective_weight == pytest.approx(weight)
    assert np.allclose(np.asarray(sketch.gram()), C, rtol=1e-5)


def test_nothing_but_bad_rows_is_an_empty_batch(kind):
    sketch = FrequentDirections(5, 3, center=True)
    sketch.partial_fit(kind.array(VALUES * np.nan))
    assert sketch.n_skipped == 30
    assert sketch.n_samples_seen == 0
    assert sketch.sketch().shape == (0, 5)
    assert sketch.partial_fit(kind.array(VALUES)).n_samples_seen == 30


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("center", [False, True])
def test_large_rows_with_squares_beyond_their_dtype_are_taken_in_exactly(kind, make, center):
    # 1e25^2 is infinite in float32
    factor = 2.0**83 if kind.dtype == "float32" else 2.0**470
    sketch = make(center=center).partial_fit(kind.array(VALUES * factor))
    plain = make(center=center).partial_fit(kind.array(VALUES))
    assert sketch.n_skipped == 0
    assert np.array_equal(np.asarray(sketch.sketch()), np.asarray(plain.sketch()) * factor)
    assert sketch.error_bound() == plain.error_bound() * factor**2
    assert sketch.total_mass() == pytest.approx(plain.total_mass() * factor**2, rel=1e-12)


@pytest.mark.parametrize("make", METHODS)
def test_small_rows_with_squares_below_their_dtype_are_taken_in_exactly(kind, make):
    factor = 2.0**-90 if kind.dtype == "float32" else 2.0**-470
    sketch = make().partial_fit(kind.array(VALUES * factor))
    plain = make().partial_fit(kind.array(VALUES))
    assert np.array_equal(np.asarray(sketch.sketch()), np.asarray(plain.sketch()) * factor)
    assert sketch.error_bound() == plain.error_bound() * factor**2


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("center", [False, True])
def test_rows_without_room_for_their_norm_count_as_bad(kind, make, center):
    huge = float(np.finfo(kind.dtype).max) / 4
    sketch = make(center=center).partial_fit(kind.array(spoiled(VALUES, huge)))
    clean = make(center=center)
    clean.partial_fit(kind.array(np.delete(VALUES, [7, 20], axis=0)))
    assert sketch.n_skipped == 2
    assert np.array_equal(np.asarray(sketch.sketch()), np.asarray(clean.sketch()))


@pytest.mark.parametrize("make", METHODS)
def test_a_mass_beyond_all_range_is_refused_and_changes_nothing(kind, make):
    exponent = 99 if kind.dtype == "float32" else 479
    sketch = make().partial_fit(kind.array(VALUES * 2.0 ** (exponent - 2)))
    saved = sketch.to_bytes()
    heavy = kind.array(VALUES[:1] / np.linalg.norm(VALUES[0]) * 2.0 ** (exponent - 1))
    limit = 2.0**230 if kind.dtype == "float32" else 2.0**990
    while sketch.total_mass() <= limit / 2:
        sketch.merge(sketch.copy())
        saved = sketch.to_bytes()
    with pytest.raises(ValueError, match="the total mass must stay below"):
        sketch.merge(sketch.copy())
    assert sketch.to_bytes() == saved
    assert np.isfinite(np.asarray(sketch.sketch())).all()
    assert sketch.partial_fit(heavy).n_skipped == 0
