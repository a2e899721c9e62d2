"""The theorem of Frequent Directions, on streams of every sort."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from hypothesis import given, strategies as st

from fd_sketch import FrequentDirections, frequent_directions_reference
from fd_sketch.testing import exact_moments


class Stream(NamedTuple):
    X: np.ndarray  # float64 [n, d], of values that float32 holds exactly
    cuts: list[int]
    size: int
    extra: int

    def batches(self, kind):
        edges = [0, *sorted(min(cut, len(self.X)) for cut in self.cuts), len(self.X)]
        return [kind.array(self.X[a:b]) for a, b in pairwise(edges)]

    def sketch(self, **options):
        return FrequentDirections(self.X.shape[1], self.size, buffer_size=self.extra, **options)


def rows(family: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    X = rng.standard_normal((n, d))
    if family == "decaying":
        X = X * np.logspace(0, -4, d)
    if family == "low rank":
        X = X[:, :2] @ rng.standard_normal((2, d)) if d > 1 else X
    if family == "ties":
        X = rng.integers(-2, 3, (n, d))
    if family == "one row":
        X = np.ones((n, 1)) * X[:1]
    if family == "offset":
        X = X + 30.0
    if family == "drifting":
        X = np.roll(np.eye(d), 1, axis=1)[np.arange(n) * d // max(n, 1)] + 0.01 * X
    if family == "spikes":
        X = X * (rng.random((n, 1)) < 0.1) * 1e3
    return np.asarray(X, dtype=np.float32).astype(np.float64)


FAMILIES = ["plain", "decaying", "low rank", "ties", "one row", "offset", "drifting", "spikes"]


@st.composite
def streams(draw, families=tuple(FAMILIES)):
    n, d = draw(st.integers(0, 60)), draw(st.integers(1, 12))
    X = rows(
        draw(st.sampled_from(families)), n, d, np.random.default_rng(draw(st.integers(0, 999)))
    )
    cuts = draw(st.lists(st.integers(0, 60), max_size=6))
    return Stream(X, cuts, draw(st.integers(1, 14)), draw(st.integers(1, 20)))


decays = st.sampled_from([1.0, 0.9, 0.3])


def fed(stream, kind, **options):
    sketch = stream.sketch(**options)
    for batch in stream.batches(kind):
        sketch.partial_fit(batch)
    return sketch


def gram(sketch):
    B = np.asarray(sketch.sketch(), dtype=np.float64)
    return B.T @ B


def slack(kind, C, mean=0.0, weight=0.0):
    return 100 * kind.eps * float(np.trace(C) + weight * np.sum(np.square(mean)))


def tails(C, size):
    """The squared distance of the rows to the best rank k, for k = 0..size."""
    lam = np.maximum(np.linalg.eigvalsh(C)[::-1], 0.0)
    return np.array([lam[k:].sum() for k in range(size + 1)])


@given(streams(), st.booleans(), decays)
def test_lacks_at_most_its_bound_in_every_direction(kind, stream, center, decay):
    sketch = fed(stream, kind, center=center, decay=decay)
    C, mean, weight = exact_moments(stream.batches(kind), center=center, decay=decay)
    lacking = np.linalg.eigvalsh(C - gram(sketch))
    assert lacking[0] >= -slack(kind, C, mean, weight)
    assert lacking[-1] <= sketch.error_bound() + slack(kind, C, mean, weight)


@given(streams(), st.booleans(), decays)
def test_bound_keeps_the_theorem(kind, stream, center, decay):
    sketch = fed(stream, kind, center=center, decay=decay)
    C, mean, weight = exact_moments(stream.batches(kind), center=center, decay=decay)
    room = slack(kind, C, mean, weight)
    best = np.min(tails(C, stream.size) / (stream.size + 1 - np.arange(stream.size + 1)))
    assert sketch.error_bound() <= best + room
    assert (stream.size + 1) * sketch.error_bound() <= sketch.residual_mass() + 10 * room


@given(streams())
def test_all_lost_mass_is_in_the_bound_when_every_row_shrinks(kind, stream):
    sketch = fed(stream._replace(extra=1), kind)
    total = sketch.total_mass()
    lost = (stream.size + 1) * sketch.error_bound()
    assert abs(lost - sketch.residual_mass()) <= 2000 * kind.eps * total


@given(streams())
def test_projection_on_the_first_directions_is_nearly_the_best(kind, stream):
    sketch = fed(stream, kind)
    C = exact_moments([stream.X])[0]
    V = np.linalg.svd(np.asarray(sketch.sketch(), dtype=np.float64), full_matrices=False)[2]
    for k, tail in enumerate(tails(C, stream.size)):
        lost = np.trace(C) - np.trace(V[:k] @ C @ V[:k].T)
        factor = 1.0 + k / (stream.size + 1 - k)
        assert lost <= factor * (tail + slack(kind, C))


@given(streams(families=("low rank", "one row")), st.booleans())
def test_is_exact_while_everything_fits(kind, stream, center):
    stream = stream._replace(size=max(3, stream.size))
    sketch = fed(stream, kind, center=center)
    C, mean, weight = exact_moments(stream.batches(kind), center=center)
    room = slack(kind, C, mean, weight)
    assert np.abs(C - gram(sketch)).max(initial=0.0) <= room
    assert sketch.error_bound() <= room


@given(streams())
def test_is_exact_when_the_sketch_has_as_many_rows_as_columns(kind, stream):
    stream = stream._replace(size=stream.X.shape[1])
    sketch = fed(stream, kind)
    C = exact_moments([stream.X])[0]
    assert sketch.error_bound() == 0.0
    assert np.abs(C - gram(sketch)).max(initial=0.0) <= slack(kind, C)


@given(streams(), st.booleans(), decays)
def test_mass_diagonal_and_mean_are_exact_also_for_float32(kind, stream, center, decay):
    sketch = fed(stream, kind, center=center, decay=decay)
    C, mean, weight = exact_moments(stream.batches(kind), center=center, decay=decay)
    # relative to what is summed: centring cancels the mean
    scale = float(np.trace(C) + weight * mean @ mean)
    assert abs(sketch.total_mass() - np.trace(C)) <= 1e-9 * max(np.trace(C), 1e-4 * scale)
    assert np.abs(np.asarray(sketch.diagonal()) - np.diag(C)).max() <= 1e-12 * scale
    assert np.abs(np.asarray(sketch.mean) - mean).max() <= 1e-12 * np.abs(mean).max() + 1e-300
    assert abs(sketch.effective_weight - weight) <= 1e-12 * weight
    assert sketch.n_samples_seen == len(stream.X)


@given(streams(), st.booleans())
def test_residuals_are_those_of_the_sketch_that_is_returned(kind, stream, center):
    sketch = fed(stream, kind, center=center)
    B = np.asarray(sketch.sketch(), dtype=np.float64)
    room = 1e-12 * sketch.total_mass()
    rho = max(0.0, sketch.total_mass() - np.sum(B * B))
    rest = np.maximum(np.asarray(sketch.diagonal()) - np.sum(B * B, axis=0), 0.0)
    assert abs(sketch.residual_mass() - rho) <= room
    assert np.abs(np.asarray(sketch.residual_diagonal()) - rest).max() <= room


@given(streams())
def test_agrees_with_the_reference(kind, stream):
    sketch = fed(stream, kind)
    B, Delta = frequent_directions_reference(stream.X, stream.size, buffer_size=stream.extra)
    room = 10 * slack(kind, exact_moments([stream.X])[0])
    assert abs(sketch.error_bound() - Delta) <= room
    assert np.abs(gram(sketch) - B.T @ B).max() <= room


@given(streams())
def test_batches_leave_no_trace(kind, stream):
    sketch = fed(stream, kind)
    at_once = stream.sketch().partial_fit(kind.array(stream.X))
    assert np.array_equal(np.asarray(sketch.sketch()), np.asarray(at_once.sketch()))
    assert sketch.error_bound() == at_once.error_bound()


@given(streams())
def test_rows_of_the_sketch_are_orthogonal_and_ordered(kind, stream):
    B = np.asarray(fed(stream, kind).sketch(), dtype=np.float64)
    G = B @ B.T
    norms = np.sqrt(np.diag(G))
    room = 100 * kind.eps * np.trace(G)
    assert B.shape[0] <= min(stream.size, len(stream.X))
    assert np.abs(G - np.diag(np.diag(G))).max(initial=0.0) <= room
    assert np.all(np.diff(norms**2) <= room)


@given(streams())
def test_turning_the_rows_turns_the_sketch(kind, stream):
    d = stream.X.shape[1]
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    turned = fed(stream._replace(X=stream.X @ Q), kind)
    straight = fed(stream, kind)
    room = 10 * slack(kind, exact_moments([stream.X])[0])
    assert np.abs(gram(turned) - Q.T @ gram(straight) @ Q).max() <= room
    assert abs(turned.error_bound() - straight.error_bound()) <= room


@given(streams(), st.integers(-60, 60))
def test_scaling_by_a_power_of_two_changes_no_digit(kind, stream, exponent):
    factor = 2.0**exponent
    scaled, plain = fed(stream._replace(X=stream.X * factor), kind), fed(stream, kind)
    assert np.array_equal(np.asarray(scaled.sketch()), np.asarray(plain.sketch()) * factor)
    assert scaled.error_bound() == plain.error_bound() * factor**2


@given(streams())
def test_weight_two_is_the_row_twice(kind, stream):
    twice = stream.sketch().partial_fit(kind.array(np.repeat(stream.X, 2, axis=0)))
    heavy = stream.sketch().partial_fit(kind.array(stream.X), sample_weight=2.0)
    C = exact_moments([stream.X])[0]
    for sketch in (twice, heavy):
        lacking = np.linalg.eigvalsh(2.0 * C - gram(sketch))
        assert lacking[0] >= -2 * slack(kind, C)
        assert lacking[-1] <= sketch.error_bound() + 2 * slack(kind, C)
    assert abs(twice.total_mass() - heavy.total_mass()) <= 1e-12 * twice.total_mass()


@given(streams(), st.permutations(range(60)))
def test_any_order_keeps_the_bounds(kind, stream, order):
    shuffled = stream.X[[i for i in order if i < len(stream.X)]]
    sketch = fed(stream._replace(X=shuffled), kind)
    C = exact_moments([stream.X])[0]
    lacking = np.linalg.eigvalsh(C - gram(sketch))
    assert lacking[0] >= -slack(kind, C)
    assert lacking[-1] <= sketch.error_bound() + slack(kind, C)


@given(streams(), st.booleans(), st.integers(1, 8), st.integers(1, 14))
def test_merged_shards_keep_the_theorem_of_the_smallest(kind, stream, center, n_shards, other_size):
    shards = [stream.X[i::n_shards] for i in range(n_shards)]
    sizes = [stream.size if i % 2 == 0 else other_size for i in range(n_shards)]
    sketches = [
        stream._replace(size=size).sketch(center=center).partial_fit(kind.array(shard))
        for size, shard in zip(sizes, shards, strict=True)
    ]
    held = [sizes[0], *(size for size, shard in zip(sizes, shards, strict=True) if len(shard))]
    while len(sketches) > 1:
        pairs = [sketches[i : i + 2] for i in range(0, len(sketches), 2)]
        sketches = [pair[0].merge(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    (merged,), smallest = sketches, min(held)
    C, mean, weight = exact_moments([stream.X], center=center)
    room = slack(kind, C, mean, weight)
    lacking = np.linalg.eigvalsh(C - gram(merged))
    assert merged.sketch_size == smallest
    assert lacking[0] >= -room
    assert lacking[-1] <= merged.error_bound() + room
    best = np.min(tails(C, smallest) / (smallest + 1 - np.arange(smallest + 1)))
    assert merged.error_bound() <= best + room
