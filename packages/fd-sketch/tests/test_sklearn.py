"""The face of scikit-learn: its own checks, and the truth about the variances."""

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fd_sketch.sklearn import FrequentDirectionsPCA

X = np.random.default_rng(0).standard_normal((300, 12)) * np.arange(12, 0, -1) + 5.0


# exact sizes: among the checks is one that weights give what repeated rows do, to the last digits
@parametrize_with_checks(
    [FrequentDirectionsPCA(), FrequentDirectionsPCA(1, sketch_size=10, batch_size=7)]
)
def test_is_an_estimator_of_scikit_learn(estimator, check):
    check(estimator)


def test_is_exact_pca_while_the_sketch_has_as_many_rows_as_there_are_features():
    ours, theirs = FrequentDirectionsPCA(4, sketch_size=12, batch_size=50).fit(X), PCA(4).fit(X)
    signs = np.sign(np.sum(ours.components_ * theirs.components_, axis=1))[:, None]
    assert np.allclose(ours.components_, signs * theirs.components_, atol=1e-8)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "mean_"):
        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)
    assert np.allclose(ours.var_, X.var(axis=0, ddof=1))
    assert np.allclose(ours.transform(X), theirs.transform(X) * signs.T, atol=1e-8)
    assert ours.error_bound_ == 0.0


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))
def test_every_variance_lies_between_the_estimate_and_the_bound(k, extra, batch):
    pca = FrequentDirectionsPCA(k, sketch_size=k + extra - 1)
    for start in range(0, len(X), batch):
        pca.partial_fit(X[start : start + batch])
    true = np.linalg.eigvalsh(np.cov(X.T))[::-1][:k]
    assert np.all(pca.explained_variance_ <= true + 1e-9)
    assert np.all(true <= pca.explained_variance_ + pca.error_bound_ + 1e-9)
    assert np.allclose(pca.components_ @ pca.components_.T, np.eye(k), atol=1e-9)
    assert pca.n_samples_seen_ == 300


def test_takes_batches_smaller_than_the_number_of_components():
    with pytest.raises(ValueError, match="n_components"):
        IncrementalPCA(5).partial_fit(X[:2])
    pca = FrequentDirectionsPCA(5)
    for row in X[:3]:
        pca.partial_fit(row[None])
    assert pca.transform(X).shape == (300, 5)
    # three rows about their mean span two directions
    assert np.count_nonzero(pca.explained_variance_) == 2
    assert np.all(pca.components_[2:] == 0.0)
    assert np.allclose(pca.inverse_transform(pca.transform(X[:3])), X[:3])


def test_goes_back_to_the_rows_along_the_components():
    pca = FrequentDirectionsPCA(12).fit(X)
    assert np.allclose(pca.inverse_transform(pca.transform(X)), X)
    few = FrequentDirectionsPCA(3).fit(X)
    back = few.inverse_transform(few.transform(X))
    lost = np.sum((X - back) ** 2) / np.sum((X - X.mean(axis=0)) ** 2)
    assert lost <= 1.0 - few.explained_variance_ratio_.sum() + 1e-12


def test_weights_stand_for_rows():
    w = np.random.default_rng(0).integers(0, 4, 300)
    heavy = FrequentDirectionsPCA(4).fit(X, sample_weight=w)
    often = FrequentDirectionsPCA(4).fit(np.repeat(X, w, axis=0))
    assert np.allclose(heavy.mean_, often.mean_)
    assert np.allclose(heavy.explained_variance_, often.explained_variance_)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \[300\], got \[3\]"):
        FrequentDirectionsPCA(4).fit(X, sample_weight=np.ones(3))


def test_merged_sketches_go_on_as_one():
    one, two = FrequentDirectionsPCA(4).fit(X[:100]), FrequentDirectionsPCA(4).fit(X[100:299])
    one.sketch_.merge(two.sketch_)
    one.partial_fit(X[299:])
    assert np.allclose(one.mean_, X.mean(axis=0))
    assert one.n_samples_seen_ == 300


def test_works_in_a_pipeline_and_is_cloned_and_pickled():
    pipeline = make_pipeline(StandardScaler(), FrequentDirectionsPCA(3)).fit(X)
    names = pipeline.get_feature_names_out()
    assert list(names) == [f"frequentdirectionspca{i}" for i in range(3)]
    pca = pipeline[-1]
    again = pickle.loads(pickle.dumps(pca))
    assert np.array_equal(again.transform(X), pca.transform(X))
    assert clone(pca).get_params() == pca.get_params()


def test_keeps_the_dtype_of_the_rows():
    pca = FrequentDirectionsPCA(3).fit(X.astype(np.float32))
    assert pca.components_.dtype == pca.transform(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    "arguments, what",
    [
        ({"n_components": 13}, r"n_components must be in 1..12 \(n_features\), got 13"),
        ({"n_components": 0}, "n_components must be at least 1, got 0"),
        ({"n_components": 4, "sketch_size": 3}, "sketch_size must be at least n_components, 4"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"buffer_size": 0}, "buffer_size must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, what):
    with pytest.raises(ValueError, match=what):
        FrequentDirectionsPCA(**arguments).fit(X)


@pytest.mark.parametrize("total", [1e-3, 1.0, 1.99])
def test_weights_that_sum_to_less_than_two_rows_are_shares(total):
    plain = FrequentDirectionsPCA(4).fit(X)
    shares = FrequentDirectionsPCA(4).fit(X, sample_weight=total / len(X))
    for name in ("explained_variance_", "explained_variance_ratio_", "var_", "error_bound_"):
        assert np.allclose(getattr(shares, name), getattr(plain, name), rtol=1e-9)
    assert np.allclose(shares.explained_variance_, shares.sketch_.explained_variance_[:4])


def test_the_variance_of_two_rows_is_the_same_from_both_sides():
    counts = FrequentDirectionsPCA(1).fit(X[:2], sample_weight=[1.0, 1.0])
    shares = FrequentDirectionsPCA(1).fit(X[:2], sample_weight=[1.0 - 1e-9, 1.0 - 1e-9])
    want = np.linalg.eigvalsh(np.cov(X[:2].T))[-1]
    assert counts.explained_variance_[0] == pytest.approx(want)
    assert shares.explained_variance_[0] == pytest.approx(want)
    one = FrequentDirectionsPCA(1).fit(X[:1], sample_weight=0.3)
    assert one.explained_variance_.tolist() == [0.0]


def test_a_first_batch_without_weight_is_refused_and_a_later_one_is_not():
    pca = FrequentDirectionsPCA(4)
    with pytest.raises(ValueError, match="sample_weight must be positive for some row"):
        pca.partial_fit(X, sample_weight=np.zeros(300))
    assert not hasattr(pca, "sketch_")
    assert not hasattr(pca, "n_features_in_")
    pca.partial_fit(X[:100])
    before = pca.explained_variance_
    after = pca.partial_fit(X, sample_weight=np.zeros(300)).explained_variance_
    assert np.allclose(after, before, rtol=1e-12)


@pytest.mark.parametrize(
    "changes", [{"sketch_size": 6}, {"buffer_size": 50}, {"sketch_size": None, "n_components": 5}]
)
def test_a_sketch_keeps_its_size_from_batch_to_batch(changes):
    pca = FrequentDirectionsPCA(4, sketch_size=8).partial_fit(X[:100])
    saved = pca.sketch_.to_bytes()
    pca.set_params(**changes)
    with pytest.raises(ValueError, match="must stay 8 and 16 from batch to batch, got"):
        pca.partial_fit(X[100:])
    assert pca.sketch_.to_bytes() == saved
    assert pca.fit(X).n_samples_seen_ == 300
    pca.set_params(n_components=3, sketch_size=pca.sketch_.sketch_size)
    assert pca.partial_fit(X).transform(X).shape == (300, 3)


@pytest.mark.parametrize("shape", [(4, 2), (4, 6), ()])
def test_coordinates_are_checked(shape):
    pca = FrequentDirectionsPCA(n_components=3).fit(np.random.default_rng(0).random((30, 6)))
    with pytest.raises(ValueError, match=re.escape(f"must have shape [N, 3], got {list(shape)}")):
        pca.inverse_transform(np.ones(shape))
