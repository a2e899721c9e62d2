"""Laws about what a sketch says of the rows."""

import numpy as np

from fd_sketch._arrays import Array, to_numpy
from fd_sketch._expect import (
    MakeSketch,
    exact_moments,
    expect,
    expect_bounds,
    expect_close,
    fed,
    gram,
    like,
    rounding,
    sketch64,
    split,
)
from fd_sketch._protocol import CovarianceSketch


def check_bounds(
    make_sketch: MakeSketch, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check `0 <= C - B'B <= Delta I`, for the rows in batches."""
    batches = split(X)
    sketch = fed(make_sketch, batches)
    expect_bounds(sketch, X, exact_moments(batches, center=center, decay=decay)[0])


def check_statistics(
    make_sketch: MakeSketch, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check the exact quantities, and the residuals against the sketch that is returned."""
    batches = split(X)
    sketch = fed(make_sketch, batches)
    C, mean, weight = exact_moments(batches, center=center, decay=decay)
    # centring subtracts numbers of the size of the mean
    slack = 1e-12 * (float(np.trace(C)) + weight * float(mean @ mean))
    expect_close("total_mass", sketch.total_mass(), np.trace(C), slack)
    expect_close("diagonal", sketch.diagonal(), np.diag(C), slack)
    expect_close("mean", sketch.mean, mean, 1e-12 * float(np.abs(mean).max(initial=0.0)))
    expect_close("effective_weight", sketch.effective_weight, weight, 1e-12 * weight)
    expect(sketch.n_samples_seen == len(X), "n_samples_seen", sketch.n_samples_seen, len(X))
    expect(sketch.n_skipped == 0, "n_skipped", sketch.n_skipped, 0)
    B, slack = sketch64(sketch), rounding(X, sketch.total_mass())
    rho = sketch.total_mass() - np.sum(B * B)
    expect_close("residual_mass", sketch.residual_mass(), max(rho, 0.0), slack)
    rest = np.maximum(to_numpy(sketch.diagonal()) - np.sum(B * B, axis=0), 0.0)
    expect_close("residual_diagonal", sketch.residual_diagonal(), rest, slack)


def check_splits(make_sketch: MakeSketch, X: Array, *, center: bool = False) -> None:
    """Check that bounds and exact quantities do not depend on how the rows come in batches."""
    C, _, _ = exact_moments([X], center=center)
    slack = rounding(X, float(np.trace(C)))
    for seed in range(3):
        sketch = fed(make_sketch, split(X, seed))
        expect_bounds(sketch, X, C)
        expect_close("diagonal", sketch.diagonal(), np.diag(C), slack)
    one_by_one = fed(make_sketch, (X[i] for i in range(len(X))))
    expect_bounds(one_by_one, X, C)


def check_merge(
    make_sketch: MakeSketch, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check the bounds of a chain and of a tree of merged sketches; decay acts before merging."""
    shards = [X[i::4] for i in range(4)]
    C, mean, weight = exact_moments(shards, center=center)
    slack = rounding(X, float(np.trace(C)) + weight * float(mean @ mean))
    for way in (_chain, _tree):
        sketches = [make_sketch().partial_fit(shard) for shard in shards]
        saved = [sketch.to_bytes() for sketch in sketches]
        lost = sum(sketch.error_bound() for sketch in sketches)
        merged = way(sketches)
        left_alone = [s.to_bytes() for s in sketches[1:]] == saved[1:]
        expect(way is _tree or left_alone, "other sketch", "changed by a merge", "unchanged")
        expect_bounds(merged, X, C)
        enough = merged.error_bound() >= lost * (1.0 - 1e-6) - slack or lost <= slack
        expect(enough or decay < 1.0, "error_bound of merged", merged.error_bound(), lost)
        expect_close("diagonal of merged", merged.diagonal(), np.diag(C), slack)
        expect(merged.n_samples_seen == len(X), "n_samples_seen", merged.n_samples_seen, len(X))


def check_weights(
    make_sketch: MakeSketch, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check the bounds for weighted rows, weights 0 and 2 among them."""
    batches = split(X)
    weights = [np.resize([2.0, 0.0, 1.0, 0.3], len(batch)) for batch in batches]
    sketch = make_sketch()
    for batch, w in zip(batches, weights, strict=True):
        sketch.partial_fit(batch, sample_weight=w)
    C, mean, weight = exact_moments(batches, weights, center=center, decay=decay)
    expect_bounds(sketch, X, C)
    expect_close("mean", sketch.mean, mean, 1e-12 * float(np.abs(mean).max(initial=0.0)))
    expect_close("effective_weight", sketch.effective_weight, weight, 1e-12 * weight)
    doubled = make_sketch().partial_fit(X, sample_weight=2.0)
    expect_bounds(doubled, X, 2.0 * exact_moments([X], center=center)[0])


def check_scale(make_sketch: MakeSketch, X: Array) -> None:
    """Check that a factor on the rows is its square on the sketch and its bound, to the bit."""
    sketch = fed(make_sketch, split(X))
    for factor in (2.0**-20, 2.0**20):
        scaled = fed(make_sketch, split(X * factor))
        bound = sketch.error_bound() * factor**2
        slack = rounding(X, scaled.total_mass())
        expect_close("error_bound of scaled rows", scaled.error_bound(), bound, slack)
        expect_close("B'B of scaled rows", gram(scaled), gram(sketch) * factor**2, slack)


def check_rotation(make_sketch: MakeSketch, X: Array, *, center: bool = False) -> None:
    """Check that rotated rows keep the bounds: no direction is a special one."""
    d = X.shape[1]
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    turned = to_numpy(X).astype(np.float64) @ Q
    sketch = make_sketch().partial_fit(like(turned, X))
    expect_bounds(sketch, X, exact_moments([turned], center=center)[0])


def check_zero_rows(
    make_sketch: MakeSketch, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check the bounds with rows of zeros in between, and for nothing but zeros."""
    zeros = X[:3] * 0.0
    batches = [zeros, X, zeros]
    C = exact_moments(batches, center=center, decay=decay)[0]
    expect_bounds(fed(make_sketch, batches), X, C)
    nothing = make_sketch().partial_fit(zeros)
    expect(len(nothing.sketch()) == 0, "rows of the sketch of zeros", len(nothing.sketch()), 0)
    expect(nothing.error_bound() == 0.0, "error_bound of zeros", nothing.error_bound(), 0.0)


def check_quadratic_form(
    make_sketch: MakeSketch, X: Array, *, center: bool = False, decay: float = 1.0
) -> None:
    """Check that forms lie between those of `B'B` and of C, and exact diagonals on demand."""
    batches, d = split(X), X.shape[1]
    sketch = fed(make_sketch, batches)
    C = exact_moments(batches, center=center, decay=decay)[0]
    slack, Delta = rounding(X, float(np.trace(C))), sketch.error_bound()
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    Q = to_numpy(sketch.quadratic_form(like(V, X))).astype(np.float64)
    for name, gap in (("C", V @ C @ V.T - Q), ("sketch", Q - V @ gram(sketch) @ V.T)):
        low, high = np.linalg.eigvalsh(gap)[[0, -1]]
        expect(low >= -slack, f"quadratic form against {name}", low, f"at least {-slack}")
        expect(high <= Delta + slack, f"quadratic form against {name}", high, f"at most {Delta}")
    compensated = sketch.quadratic_form(like(np.eye(d), X), compensate=True)
    diagonal = to_numpy(compensated).astype(np.float64).diagonal()
    expect_close("compensated diagonal", diagonal, np.diag(C), slack)


def check_energy_rank(make_sketch: MakeSketch, X: Array, *, center: bool = False) -> None:
    """Check that projecting on as many directions as certified loses no more than allowed."""
    sketch = make_sketch().partial_fit(X)
    C = exact_moments([X], center=center)[0]
    for eps in (0.05, 0.2, 0.5, 1.0):
        rank = sketch.energy_rank(eps)
        V = np.linalg.svd(sketch64(sketch), full_matrices=False)[2][:rank]
        lost = float(np.trace(C) - np.trace(V @ C @ V.T)) if rank < X.shape[1] else 0.0
        allowed = eps * float(np.trace(C)) + rounding(X, float(np.trace(C)))
        expect(lost <= allowed, f"mass lost at rank {rank}", lost, f"at most {allowed}")


def _chain(sketches: list[CovarianceSketch]) -> CovarianceSketch:
    """Return the first sketch with all others merged into it."""
    for other in sketches[1:]:
        sketches[0].merge(other)
    return sketches[0]


def _tree(sketches: list[CovarianceSketch]) -> CovarianceSketch:
    """Return the sketches merged in pairs, and the pairs in pairs."""
    while len(sketches) > 1:
        pairs = zip(sketches[::2], sketches[1::2], strict=True)
        sketches = [one.merge(two) for one, two in pairs]
    return sketches[0]
