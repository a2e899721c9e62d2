"""Frequent Directions: the best deterministic sketch of a stream of rows."""

from typing import Self

from fd_sketch._arrays import Array, to_numpy
from fd_sketch._base import BaseSketch
from fd_sketch._buffer import Buffer, empty_buffer
from fd_sketch._checks import check_count, check_fraction
from fd_sketch._format import Record
from fd_sketch._torch import plain_arithmetic


class FrequentDirections(BaseSketch[Buffer]):
    """A sketch B of at most `sketch_size` rows with `0 <= C - B'B <= Delta I`.

    C is `X'X` for all rows X of the stream, weighted, decayed and centred as asked. For F, the
    trace of C, and A_k, the best approximation of rank k to the rows A,

        (sketch_size + 1) Delta <= F - ||B||_F^2
        Delta <= ||A - A_k||_F^2 / (sketch_size + 1 - k)      for every k <= sketch_size

    whatever the order of the rows, the batches or the merges. Memory is
    `(sketch_size + buffer_size) d`, independent of the number of rows.

    With `alpha < 1` only the last `ceil(alpha sketch_size)` singular values are lowered when the
    sketch is shrunk, so that the first directions lose nothing. Delta stays what the sketch lacks
    at most; what is known of it beforehand is weaker. For s, the number of values lowered,

        (s + 1) Delta <= F - ||B||_F^2
        Delta <= ||A - A_k||_F^2 / (s + 1 - k)                for every k <= s

    `alpha=0` is the truncated singular value decomposition, updated whenever the buffer is full:
    better on rows that stay as they are, and without a bound but `Delta <= F` on those that do not.

    Args:
        n_features: Number of columns d.
        sketch_size: Number of rows l of the sketch.
        buffer_size: Number of rows gathered beside the sketch before it is shrunk, `2 l` if not
            given. More rows cost memory and lower the error.
        alpha: Share in [0, 1] of the singular values that are lowered by shrinking.
        center: Sketch the scatter about the running mean, `C = sum w (x - mu)(x - mu)'`.
        decay: Factor in (0, 1] on all earlier weights at every call of `partial_fit`.
        nonfinite: What to do with rows that are not finite, or whose squared norm leaves no room
            in the dtype (above 2^200 in float32, 2^960 in float64): `skip` and count them, or
            `raise`.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((1000, 20))
        >>> sketch = FrequentDirections(20, 10).partial_fit(X)
        >>> B = sketch.sketch()
        >>> B.shape
        (10, 20)
        >>> error = np.linalg.eigvalsh(X.T @ X - B.T @ B)
        >>> bool(error.min() > -1e-9 and error.max() <= sketch.error_bound() + 1e-9)
        True

    References:
        Liberty, "Simple and Deterministic Matrix Sketching", KDD 2013. Ghashami, Liberty,
        Phillips, Woodruff, "Frequent Directions: Simple and Deterministic Matrix Sketching", SIAM
        J. Comput. 45 (2016), Theorem 1.1 and section 3 (merging). Desai, Ghashami, Phillips,
        "Improved Practical Matrix Sketching with Guarantees", IEEE TKDE 28 (2016), for alpha.
    """

    _arguments = (
        *("n_features", "sketch_size", "buffer_size", "alpha"),
        *("center", "decay", "nonfinite"),
    )
    _common = ("n_features", "center", "alpha")

    def __init__(
        self,
        n_features: int,
        sketch_size: int,
        *,
        buffer_size: int | None = None,
        alpha: float = 1.0,
        center: bool = False,
        decay: float = 1.0,
        nonfinite: str = "skip",
    ) -> None:
        self._sketch_size = check_count(sketch_size, "sketch_size")
        extra = 2 * self._sketch_size if buffer_size is None else buffer_size
        self._buffer_size = check_count(extra, "buffer_size")
        self._alpha = check_fraction(alpha, "alpha")
        super().__init__(n_features, center=center, decay=decay, nonfinite=nonfinite)

    @property
    def sketch_size(self) -> int:
        """Largest number of rows of the sketch; a merge with a smaller one lowers it."""
        store = self._state.store
        return self._sketch_size if store is None else store.size

    @property
    def buffer_size(self) -> int:
        """Number of rows gathered beside the sketch before it is shrunk."""
        return self._buffer_size

    @property
    def alpha(self) -> float:
        """Share of the singular values that are lowered by shrinking."""
        return self._alpha

    def resize(self, sketch_size: int, *, buffer_size: int | None = None) -> Self:
        """Take another number of rows from here on, and return the sketch itself.

        The certificate goes on. A smaller sketch may lose something at once, a larger one keeps
        what is there. The bounds that are known beforehand are those of the smallest size since
        the first row.

        Args:
            sketch_size: New number of rows of the sketch.
            buffer_size: New number of rows beside it; in the old proportion if not given.

        Raises:
            TypeError: a size is no int.
            ValueError: a size is below 1.
        """
        size, state = check_count(sketch_size, "sketch_size"), self._state
        extra = (
            -(-self._buffer_size * size // self.sketch_size) if buffer_size is None else buffer_size
        )
        extra = check_count(extra, "buffer_size")
        if state.store is not None:
            with plain_arithmetic(state.home):
                store = state.store.resized(size, extra, state.moments.total)
            state = state._replace(store=store)
        self._sketch_size, self._buffer_size = size, extra
        self._set(state)
        return self

    def _empty_store(self, like: Array, dtype: str) -> Buffer:
        return empty_buffer(like, dtype, self._sketch_size, self._buffer_size, self._alpha)

    def _record(self) -> Record:
        state, store = self._state, self._state.store
        record = Record(
            method="FrequentDirections",
            dtype=state.dtype,
            center=self.center,
            nonfinite=self.nonfinite,
            decay=self.decay,
            moments=state.moments.mapped(to_numpy),
            rows=to_numpy(self._flush().B[:0, :] if store is None else store.rows),
            sketch_size=self.sketch_size,
            buffer_size=self.buffer_size,
            alpha=self.alpha,
        )
        if store is None:
            return record
        return record._replace(delta=store.delta, scale=store.scale)

    @classmethod
    def _restored(cls, record: Record) -> tuple[Self, Buffer]:
        size, extra, alpha = record.sketch_size, record.buffer_size, record.alpha
        sketch = cls(
            record.rows.shape[1],
            size,
            buffer_size=extra,
            alpha=alpha,
            center=record.center,
            decay=record.decay,
            nonfinite=record.nonfinite,
        )
        rows, dtype = record.rows, record.dtype
        return sketch, Buffer(
            rows, len(rows), size, extra, dtype, record.delta, record.scale, alpha
        )
