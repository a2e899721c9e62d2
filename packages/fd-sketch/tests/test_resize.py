"""Another size along the way: the certificate goes on."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fd_sketch import FrequentDirections
from fd_sketch.testing import exact_moments

ROWS = np.random.default_rng(0).standard_normal((60, 8)) * np.logspace(0, -1, 8) + 0.5


def lacking(C, sketch):
    B = np.asarray(sketch.sketch(), dtype=np.float64)
    return np.linalg.eigvalsh(C - B.T @ B)[[0, -1]]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([1.0, 0.5, 0.0]),
)
def test_keeps_the_bounds_and_the_theorem_of_the_smallest_size(kind, steps, center, alpha):
    sketch = FrequentDirections(8, steps[0][1], alpha=alpha, center=center)
    batches, sizes, start = [], [], 0
    for n, size in steps:
        sketch.resize(size)
        assert sketch.sketch_size == size
        assert len(sketch.sketch()) <= size
        batches.append(kind.array(ROWS[start : start + n]))
        sketch.partial_fit(batches[-1])
        sizes.append(size)
        start += n
    C, mean, weight = exact_moments(batches, center=center)
    room = 100 * kind.eps * float(np.trace(C) + weight * mean @ mean)
    low, high = lacking(C, sketch)
    assert low >= -room
    assert high <= sketch.error_bound() + room
    lowered = int(np.ceil(alpha * min(sizes)))
    lam = np.maximum(np.linalg.eigvalsh(C)[::-1], 0.0)
    best = min(lam[k:].sum() / (lowered + 1 - k) for k in range(min(lowered, 7) + 1))
    assert sketch.error_bound() <= best + room
    assert FrequentDirections.from_bytes(sketch.to_bytes()).to_bytes() == sketch.to_bytes()


def test_a_larger_size_keeps_what_is_there(kind):
    sketch = FrequentDirections(8, 3, buffer_size=4).partial_fit(kind.array(ROWS))
    before = sketch.copy()
    sketch.resize(6)
    assert sketch.buffer_size == 8
    B, A = np.asarray(sketch.sketch(), float), np.asarray(before.sketch(), float)
    room = 100 * kind.eps * sketch.total_mass()
    assert np.linalg.eigvalsh(B.T @ B - A.T @ A)[0] >= -room
    assert sketch.error_bound() <= before.error_bound() + room


def test_a_size_before_the_first_row_is_as_if_it_was_given():
    sketch = FrequentDirections(8, 3).resize(5).partial_fit(ROWS)
    assert sketch.to_bytes() == FrequentDirections(8, 5).partial_fit(ROWS).to_bytes()
    given = FrequentDirections(8, 3).resize(5, buffer_size=2).partial_fit(ROWS)
    assert given.to_bytes() == FrequentDirections(8, 5, buffer_size=2).partial_fit(ROWS).to_bytes()


def test_the_size_stays_when_the_rows_are_forgotten():
    sketch = FrequentDirections(8, 3).partial_fit(ROWS).resize(5).reset()
    assert sketch.to_bytes() == FrequentDirections(8, 5).to_bytes()


def test_a_copy_keeps_its_size():
    sketch = FrequentDirections(8, 3).partial_fit(ROWS)
    twin, saved = sketch.copy().resize(1), sketch.to_bytes()
    assert (twin.sketch_size, sketch.sketch_size) == (1, 3)
    assert sketch.to_bytes() == saved


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((0,), {}, ValueError, "sketch_size must be at least 1, got 0"),
        ((2.0,), {}, TypeError, "sketch_size must be an int, got float"),
        ((2,), {"buffer_size": 0}, ValueError, "buffer_size must be at least 1, got 0"),
    ],
)
def test_sizes_are_checked_and_errors_change_nothing(arguments, options, error, message):
    sketch = FrequentDirections(8, 3).partial_fit(ROWS)
    saved = sketch.to_bytes()
    with pytest.raises(error, match=message):
        sketch.resize(*arguments, **options)
    assert sketch.to_bytes() == saved


def test_a_sketch_that_became_smaller_by_a_merge_can_be_saved_at_any_time():
    large = FrequentDirections(8, 10, buffer_size=20).partial_fit(ROWS[:12])
    large.merge(FrequentDirections(8, 2).partial_fit(ROWS[:1]))
    for row in ROWS:
        large.partial_fit(row)
        assert FrequentDirections.from_bytes(large.to_bytes()).to_bytes() == large.to_bytes()
