import numpy as np
import pytest

import fd_sketch.testing
from fd_sketch import ExactGram, FrequentDirections, SketchBank

METHODS = [
    pytest.param(lambda **options: FrequentDirections(5, 3, **options), id="fd"),
    pytest.param(lambda **options: ExactGram(5, **options), id="exact"),
]
ROWS = np.diag([4.0, 3.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize("make", METHODS)
def test_an_empty_sketch_answers(make):
    sketch = make()
    assert sketch.sketch().shape == (0, 5)
    assert sketch.error_bound() == sketch.total_mass() == sketch.residual_mass() == 0.0
    assert sketch.effective_weight == sketch.n_samples_seen == sketch.n_skipped == 0
    for vector in (sketch.mean, sketch.diagonal(), sketch.residual_diagonal()):
        assert np.array_equal(vector, np.zeros(5))
    assert sketch.energy_rank(0.0) == 0
    assert np.array_equal(sketch.quadratic_form(np.eye(5)), np.zeros((5, 5)))


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("options", [{}, {"center": True}, {"decay": 0.5}])
def test_an_empty_batch_is_a_step_of_decay_and_nothing_else(kind, make, options):
    X = kind.array(ROWS)
    sketch = make(**options).partial_fit(X)
    before, decay = sketch.copy(), options.get("decay", 1.0)
    sketch.partial_fit(X[:0]).partial_fit(kind.array(np.zeros((3, 0, 5))))
    assert sketch.total_mass() == before.total_mass() * decay**2
    assert sketch.effective_weight == before.effective_weight * decay**2
    assert np.array_equal(np.asarray(sketch.mean), np.asarray(before.mean))
    B, A = np.asarray(sketch.sketch()), np.asarray(before.sketch())
    assert np.allclose(B, A * decay, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("decay", [0.5, 1e-3])
def test_decay_forgets_for_any_number_of_steps(kind, decay):
    sketch = FrequentDirections(5, 3, decay=decay).partial_fit(kind.array(ROWS))
    for _ in range(2000):
        sketch.partial_fit(kind.array(ROWS[:0]))
    assert sketch.total_mass() == pytest.approx(0.0, abs=1e-300)
    assert sketch.error_bound() <= 1e-300
    sketch.partial_fit(kind.array(ROWS))
    assert sketch.total_mass() == pytest.approx(30.0)
    assert np.asarray(sketch.sketch()).shape == (3, 5)


def test_energy_rank_is_the_smallest_certified_one():
    # one shrink: 16, 9, 4 are lowered by 1 to 15, 8, 3, and the total is 30
    sketch = FrequentDirections(5, 3).partial_fit(ROWS)
    assert sketch.error_bound() == pytest.approx(1.0)
    assert sketch.residual_mass() == pytest.approx(4.0)
    lost = {1.0: 0, 15.5 / 30: 1, 7.5 / 30: 2, 4.5 / 30: 3, 3.5 / 30: 5, 0.0: 5}
    assert {eps: sketch.energy_rank(eps) for eps in lost} == lost


def test_energy_rank_of_the_exact_moment():
    exact = ExactGram(5).partial_fit(ROWS)
    lost = {1.0: 0, 14.5 / 30: 1, 5.5 / 30: 2, 1.5 / 30: 3, 0.5 / 30: 4}
    assert {eps: exact.energy_rank(eps) for eps in lost} == lost


def test_exact_moment_has_no_more_rows_than_it_saw(kind):
    exact = ExactGram(50).partial_fit(kind.array(np.random.default_rng(0).random((4, 50))))
    assert exact.sketch().shape == (4, 50)


@pytest.mark.parametrize(
    "sketch, what",
    [
        (FrequentDirections(5, 3).partial_fit(ROWS), "another sketch, got the sketch itself"),
        (ExactGram(5), "another sketch, got the sketch itself"),
        (SketchBank(2, 5, 3), "another bank, got the bank itself"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_merging_with_itself_is_refused_and_changes_nothing(sketch, what):
    saved = sketch.to_bytes()
    with pytest.raises(ValueError, match=f"other must be {what}"):
        sketch.merge(sketch)
    assert sketch.to_bytes() == saved


def test_merging_with_a_copy_doubles(kind):
    sketch = FrequentDirections(5, 3, center=True).partial_fit(kind.array(ROWS))
    before = sketch.copy()
    sketch.merge(before)
    assert sketch.total_mass() == 2 * before.total_mass()
    assert sketch.n_samples_seen == 2 * before.n_samples_seen
    assert np.allclose(np.asarray(sketch.mean), np.asarray(before.mean))


def test_a_larger_sketch_takes_the_size_of_a_smaller_one_it_merges(kind):
    large = FrequentDirections(5, 4).partial_fit(kind.array(ROWS))
    small = FrequentDirections(5, 2).partial_fit(kind.array(ROWS))
    assert large.copy().merge(FrequentDirections(5, 1)).sketch_size == 4
    assert small.copy().merge(large).sketch_size == 2
    assert large.merge(small).sketch_size == 2
    assert len(large.sketch()) == 2
    assert small.sketch_size == 2


def test_merging_shards_costs_little_against_a_single_pass():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4096, 64)) * np.arange(1, 65) ** -0.7
    single = FrequentDirections(64, 8).partial_fit(X)
    shards = [FrequentDirections(64, 8).partial_fit(X[i::8]) for i in range(8)]
    for other in shards[1:]:
        shards[0].merge(other)
    assert shards[0].error_bound() <= 1.1 * single.error_bound()


def test_float32_keeps_its_bound_over_thousands_of_shrinks():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 16, 32)) * np.logspace(0, -3, 32) + 1.0
    for decay in (1.0, 0.999):
        sketch = FrequentDirections(32, 4, buffer_size=8, decay=decay)
        exact = ExactGram(32, decay=decay)
        for step in range(1500):
            batch = X[step % 20].astype(np.float32)
            sketch.partial_fit(batch)
            exact.partial_fit(batch.astype(np.float64))
        B = sketch.sketch().astype(np.float64)
        lacking = np.linalg.eigvalsh(exact.gram() - B.T @ B)
        room = 100 * float(np.finfo(np.float32).eps) * sketch.total_mass()
        assert lacking[0] >= -room
        assert lacking[-1] <= sketch.error_bound() + room
        assert sketch.total_mass() == pytest.approx(exact.total_mass(), rel=1e-12)


def test_centring_survives_an_offset_that_float32_hardly_resolves():
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((600, 12)) * np.logspace(0, -1, 12) + 1e4).astype(np.float32)
    sketch = FrequentDirections(12, 4, center=True)
    for start in range(0, 600, 37):
        sketch.partial_fit(X[start : start + 37])
    Y = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    B = sketch.sketch().astype(np.float64)
    lacking = np.linalg.eigvalsh(Y.T @ Y - B.T @ B)
    room = 100 * float(np.finfo(np.float32).eps) * np.sum(Y * Y)
    assert lacking[0] >= -room
    assert lacking[-1] <= sketch.error_bound() + room
    assert sketch.total_mass() == pytest.approx(np.sum(Y * Y), rel=1e-9)


def test_representation_tells_the_arguments():
    text = repr(FrequentDirections(5, 3, decay=0.5).partial_fit(ROWS))
    assert text == (
        "<FrequentDirections(n_features=5, sketch_size=3, buffer_size=6, alpha=1.0, "
        "center=False, decay=0.5, nonfinite='skip') of 5 rows>"
    )


def test_public_names_are_there():
    assert fd_sketch.__version__ == "0.1.0"
    for name in fd_sketch.__all__:
        assert getattr(fd_sketch, name).__doc__
    for name in fd_sketch.testing.__all__:
        assert getattr(fd_sketch.testing, name).__doc__
