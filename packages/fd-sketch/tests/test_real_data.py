"""Five thousand real images against the exact decomposition and scikit-learn's IncrementalPCA."""

import gzip

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.decomposition import IncrementalPCA

from fd_sketch import FrequentDirections, SlidingFrequentDirections
from fd_sketch.sklearn import FrequentDirectionsPCA

RANK, BATCH = 10, 200


@pytest.fixture(scope="module")
def images(data_dir):
    """Rows of pixels in 0..1, float32 [5000, 784], in the order of their classes: a stream that
    drifts from trousers to boots."""
    parts = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        file = data_dir / "fashion-mnist" / f"t10k-{kind}-ubyte.gz"
        parts.append(np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header))
    pixels, labels = parts
    X = pixels.reshape(-1, 784).astype(np.float32) / 255
    return X[np.argsort(labels, kind="stable")[::2]]


@pytest.fixture(scope="module")
def exact(images):
    """The scatter and its eigenpairs, by falling eigenvalue."""
    Y = images - images.mean(axis=0, dtype=np.float64)
    C = Y.T @ Y
    lam, V = np.linalg.eigh(C)
    return C, lam[::-1], V.T[::-1]


def order(images, drifting):
    return images if drifting else images[np.random.default_rng(0).permutation(len(images))]


def fed(estimator, X, batch=BATCH):
    for start in range(0, len(X), batch):
        estimator.partial_fit(X[start : start + batch])
    return estimator


def captured(components, C, lam):
    """The share of the largest possible energy that a subspace holds."""
    Q = np.linalg.qr(components.astype(np.float64).T)[0]
    return np.trace(Q.T @ C @ Q) / lam[: len(components)].sum()


@pytest.mark.parametrize("drifting", [False, True])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_certificate_holds_is_tight_and_far_below_the_worst_case(images, exact, size, drifting):
    C, lam, _ = exact
    sketch = fed(FrequentDirections(784, size, center=True), order(images, drifting))
    B = sketch.sketch().astype(np.float64)
    missing = np.linalg.eigvalsh(C - B.T @ B)
    Delta = sketch.error_bound()
    worst = min(lam[k:].sum() / (size + 1 - k) for k in range(size + 1))
    assert missing[0] >= -1e-6 * lam.sum()
    assert 0.99 * Delta <= missing[-1] <= Delta * (1 + 1e-6)
    assert Delta <= 0.55 * worst


@pytest.mark.parametrize("drifting", [False, True])
def test_the_subspace_is_nearly_the_best_and_variances_are_bounded(images, exact, drifting):
    C, lam, _ = exact
    X = order(images, drifting)
    ours = fed(FrequentDirectionsPCA(RANK, sketch_size=64), X)
    assert captured(ours.components_, C, lam) >= 0.9999
    true = lam[:RANK] / (len(X) - 1)
    assert np.all(ours.explained_variance_ <= true * (1 + 1e-5))
    assert np.all(true <= (ours.explained_variance_ + ours.error_bound_) * (1 + 1e-5))
    assert np.allclose(ours.mean_, X.mean(axis=0, dtype=np.float64), atol=1e-9)


def test_agrees_with_incremental_pca_where_both_have_room(images, exact):
    C, lam, V = exact
    ours, theirs = (fed(pca(64), images, 500) for pca in (FrequentDirectionsPCA, IncrementalPCA))
    # truncation keeps a little more of data that do not turn on it; both miss next to nothing
    for pca in (ours, theirs):
        assert captured(pca.components_[:RANK], C, lam) >= 0.9999
        assert np.all(np.abs(np.sum(pca.components_[:3] * V[:3], axis=1)) >= 0.999)
    both = ours.explained_variance_[:RANK], theirs.explained_variance_[:RANK]
    assert np.all(both[0] <= both[1])
    assert np.all(both[1] <= both[0] + ours.error_bound_)


@pytest.mark.parametrize("eps", [0.5, 0.3])
def test_the_certified_rank_loses_no_more_than_it_says(images, exact, eps):
    C, lam, _ = exact
    sketch = fed(FrequentDirections(784, 64, center=True), images)
    rank = sketch.energy_rank(eps)
    V = np.linalg.svd(sketch.sketch(), full_matrices=False)[2][:rank].astype(np.float64)
    assert rank < 64
    assert np.trace(C) - np.trace(V @ C @ V.T) <= eps * np.trace(C)
    # and is not far from the smallest rank there is
    best = int(np.argmax(lam.sum() - np.cumsum(lam) <= eps * lam.sum())) + 1
    assert rank <= 2 * best


def test_a_window_follows_the_classes(images):
    window, size = 1000, 32
    sketch = SlidingFrequentDirections(784, size, window)
    for end in range(BATCH, len(images) + 1, BATCH):
        sketch.partial_fit(images[end - BATCH : end])
        if end % 1000 == 600:
            X = images[max(0, end - window) : end].astype(np.float64)
            B, F = sketch.sketch().astype(np.float64), np.sum(X * X)
            spectrum = np.linalg.eigvalsh(X.T @ X - B.T @ B)
            assert spectrum[0] >= -sketch.excess_bound() - 1e-5 * F
            assert spectrum[-1] <= sketch.error_bound() + 1e-5 * F
            assert max(sketch.excess_bound(), sketch.error_bound()) <= F / size
    assert sketch.n_rows_stored <= 9 * size
