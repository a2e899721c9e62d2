"""Principal components from a sketch, for pipelines of scikit-learn.

A module of its own because it imports scikit-learn: `pip install fd-sketch[sklearn]`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fd_sketch._checks import check_count
from fd_sketch._frequent_directions import FrequentDirections
from fd_sketch._weights import check_some_weight, freedom_of, row_weights

__all__ = ["FrequentDirectionsPCA"]
DTYPES = (np.float64, np.float32)


class FrequentDirectionsPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal components of a stream, with a certificate.

    The rows go into a centred `FrequentDirections` sketch B, and the components are its right
    singular vectors. Against `IncrementalPCA`: batches of any size, one row among them; a
    direction that is weak in every batch is found in the end; and all variances are bounded,

        explained_variance_[i] <= lambda_i <= explained_variance_[i] + error_bound_

    for the eigenvalues lambda of the covariance of all rows. It is their scatter over W - 1, where
    W is the sum of the weights, which count rows; of weights that sum to less than 2, which cannot
    be counts, the unit is of no account, and it is the scatter over W (n - 1) / n for n rows.

    Args:
        n_components: Number of components; `sketch_size`, or the number of features where that
            is smaller, if not given.
        sketch_size: Number of rows of the sketch, at least `n_components`; 4 times
            `n_components`, or 64, if not given. From the number of features on all is exact.
        buffer_size: Number of rows gathered beside the sketch, twice its size if not given.
        batch_size: Number of rows that `fit` reads at a time; all at once if not given.

    Attributes:
        components_: Directions, [n_components_, n_features_in_], orthonormal, by falling
            variance; rows of zeros where the data have fewer directions. The largest entry of
            each is positive.
        explained_variance_: Variance along them within the sketch, [n_components_].
        explained_variance_ratio_: Its share in the total variance, which is exact.
        singular_values_: Singular values of the sketch, [n_components_].
        error_bound_: The most that any variance is underestimated by.
        mean_: Mean of all rows, [n_features_in_].
        var_: Variance of each feature, exact, [n_features_in_].
        n_components_: Number of components.
        n_samples_seen_: Number of rows taken in.
        sketch_: The sketch itself, for its other answers and for `merge`.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((500, 20)) * np.arange(20, 0, -1)
        >>> pca = FrequentDirectionsPCA(n_components=3)
        >>> for batch in np.array_split(X, 250):  # two rows at a time
        ...     _ = pca.partial_fit(batch)
        >>> pca.transform(X).shape
        (500, 3)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        sketch_size: int | None = None,
        buffer_size: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.sketch_size = sketch_size
        self.buffer_size = buffer_size
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Forget everything, take in the rows X, [N, d], and return the estimator.

        Raises:
            ValueError: X is no finite matrix, or an argument does not fit it.
        """
        del y
        with self._unchanged_by_errors():
            X = validate_data(self, X, dtype=DTYPES)
            w = row_weights(sample_weight, len(X))
            step = len(X) if self.batch_size is None else check_count(self.batch_size, "batch_size")
            sketch = self._new_sketch(X.shape[1])
            for start in range(0, len(X), step):
                part = slice(start, start + step)
                sketch.partial_fit(X[part], None if w is None else w[part])
            check_some_weight(sketch)
        return self._answered(sketch)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Take in more rows X, [N, d], and return the estimator.

        Raises:
            ValueError: X is no finite matrix, or has another number of features than before; the
                arguments ask for another sketch than before; the first rows weigh nothing.
        """
        del y
        first = not hasattr(self, "sketch_")
        with self._unchanged_by_errors():
            X = validate_data(self, X, dtype=DTYPES, reset=first)
            new = self._new_sketch(X.shape[1])  # whose arguments are checked here, also later on
            sketch = new if first else self._same_sketch(new)
            sketch.partial_fit(X, row_weights(sample_weight, len(X)))
            if first:
                check_some_weight(sketch)
        return self._answered(sketch)

    def transform(self, X: Any) -> np.ndarray:
        """Return the coordinates of rows along the components, [N, n_components_]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        return (X - self.mean_.astype(X.dtype)) @ self.components_.T.astype(X.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the rows of given coordinates, [N, n_features_in_].

        Raises:
            ValueError: the last dimension of X is not `n_components_`.
        """
        check_is_fitted(self)
        X = np.asarray(X)
        if X.ndim < 1 or X.shape[-1] != self.n_components_:
            shape = f"[N, {self.n_components_}]"
            raise ValueError(f"X must have shape {shape}, got {list(X.shape)}")
        return X @ self.components_ + self.mean_

    @contextmanager
    def _unchanged_by_errors(self) -> Iterator[None]:
        """Put back what validating the rows of a call that fails has set."""
        names = ("n_features_in_", "feature_names_in_")
        before = {name: getattr(self, name) for name in names if hasattr(self, name)}
        try:
            yield
        except BaseException:
            for name in names:
                self.__dict__.pop(name, None)
            self.__dict__.update(before)
            raise

    def _new_sketch(self, n_features: int) -> FrequentDirections:
        """Return an empty sketch for the arguments, which are checked here and not before."""
        k = None if self.n_components is None else check_count(self.n_components, "n_components")
        if k is not None and k > n_features:
            raise ValueError(f"n_components must be in 1..{n_features} (n_features), got {k}")
        if self.sketch_size is not None:
            size = check_count(self.sketch_size, "sketch_size")
        else:
            size = 64 if k is None else 4 * k
        if k is not None and size < k:
            raise ValueError(f"sketch_size must be at least n_components, {k}, got {size}")
        return FrequentDirections(
            n_features, size, buffer_size=self.buffer_size, center=True, nonfinite="raise"
        )

    def _same_sketch(self, new: FrequentDirections) -> FrequentDirections:
        """Return the sketch so far, if the arguments still ask for one of its sizes."""
        sizes = new.sketch_size, new.buffer_size
        if sizes != self._sizes:
            raise ValueError(
                "sketch_size and buffer_size must stay {} and {} from batch to batch, "
                "got {} and {}; fit starts anew".format(*self._sizes, *sizes)
            )
        return self.sketch_

    def _answered(self, sketch: FrequentDirections) -> Self:
        """Set the attributes from the sketch."""
        if sketch is not getattr(self, "sketch_", None):
            # a merge changes those of the sketch
            self._sizes = sketch.sketch_size, sketch.buffer_size
        self.sketch_, d = sketch, self.n_features_in_
        B = sketch.sketch()
        n = min(sketch.sketch_size, d) if self.n_components is None else self.n_components
        sigma = np.linalg.norm(B[:n].astype(np.float64), axis=1)
        V = np.zeros((n, d), dtype=B.dtype)
        V[: len(sigma)] = B[:n] / sigma[:, None]
        largest = V[np.arange(n), np.abs(V).argmax(axis=1)]
        self.components_ = V * np.where(largest < 0, -1, 1).astype(V.dtype)[:, None]
        self.singular_values_ = np.concatenate([sigma, np.zeros(n - len(sigma))])
        freedom = freedom_of(sketch)
        self.explained_variance_ = self.singular_values_**2 / freedom
        self.error_bound_ = sketch.error_bound() / freedom
        mass = sketch.total_mass()
        self.explained_variance_ratio_ = self.singular_values_**2 / (mass if mass > 0 else 1.0)
        self.mean_, self.var_ = sketch.mean, sketch.diagonal() / freedom
        self.n_components_, self.n_samples_seen_ = n, sketch.n_samples_seen
        return self

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
