"""Frequent Directions of the newest rows: what is old is forgotten, and the bounds know it."""

from typing import Any, Self

import numpy as np

from fd_sketch._arrays import (
    NUMPY,
    Array,
    Home,
    cast,
    clone,
    home_of,
    move,
    to_numpy,
    to_state,
    to_user,
)
from fd_sketch._batch import read_batch
from fd_sketch._checks import check_count, check_policy
from fd_sketch._places import check_place
from fd_sketch._torch import plain_arithmetic
from fd_sketch._window import Window, bounds, empty_window, rotated, slid
from fd_sketch._window_format import WindowRecord, pack_window, unpack_window

BLOCK_ROWS = 1024  # rows weighed and widened at a time


class SlidingFrequentDirections:
    """A sketch B of the last `window` rows, with `-E I <= C_w - B'B <= Delta I`.

    `C_w = X_w'X_w` for the last `window` rows X_w. Decay forgets smoothly; a window forgets
    entirely: a stream that has moved on leaves nothing but E behind. `Delta = error_bound()` and
    `E = excess_bound()` are sums of what was seen, and hold for any stream. Where any `window`
    successive rows have a mass of at most F,

        E <= F / sketch_size        Delta <= 2 F / (sketch_size + 1)

    The method is that of DS-FD: a Frequent Directions sketch D of the stream, which a direction
    leaves as a row with a date when its energy exceeds a threshold theta. Here theta follows the
    mass M of what is kept, `theta = M / (4 sketch_size)`, and D is never restarted, because the
    window's moment is the difference of two moments of the stream.

    Stored are at most `8 sketch_size` rows for each time that theta doubles or halves within the
    window, `sketch_size` of D and `buffer_size` fresh ones: 5 to 9 `sketch_size` in all for rows
    of like norms once the window is full, whatever its length, and more while it fills up.

    The rows are not centred, and there is no argument for it: a mean that follows the window needs
    the rows that leave it, which are gone.

    Args:
        n_features: Number of columns d.
        sketch_size: Number of directions l that the residual D holds, and the accuracy.
        window: Number of rows N that count.
        buffer_size: Largest number of fresh rows, `2 l` if not given, and N at most.
        nonfinite: What to do with rows that are not finite, or whose squared norm leaves no room
            in the dtype: `skip` and count them, which takes no place in the window, or `raise`.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((5000, 20))
        >>> X[:4000, :10] *= 30.0  # the past was another world
        >>> sketch = SlidingFrequentDirections(20, 10, window=1000)
        >>> for batch in X.reshape(50, 100, 20):
        ...     _ = sketch.partial_fit(batch)
        >>> B, C = sketch.sketch(), X[-1000:].T @ X[-1000:]
        >>> error = np.linalg.eigvalsh(C - B.T @ B)
        >>> bool(error.max() <= sketch.error_bound() and error.min() >= -sketch.excess_bound())
        True

    References:
        Yin, Wen, Li, Wei, Zhang, Huang, Li, "Optimal Matrix Sketching over Sliding Windows", PVLDB
        17 (2024), section 4, for rows of one norm. For other rows it keeps one sketch for each
        power of two of theta, which bounds E by the mass of the window alone; here it is one, and
        the bound speaks of the windows before as well.
    """

    _window: Window | None  # none before the first batch
    _home: Home
    _dtype: str

    def __init__(
        self,
        n_features: int,
        sketch_size: int,
        window: int,
        *,
        buffer_size: int | None = None,
        nonfinite: str = "skip",
    ) -> None:
        self._n_features = check_count(n_features, "n_features")
        self._sketch_size = check_count(sketch_size, "sketch_size")
        self._length = check_count(window, "window")
        extra = 2 * self._sketch_size if buffer_size is None else buffer_size
        self._buffer_size = min(check_count(extra, "buffer_size"), self._length)
        self._nonfinite = check_policy(nonfinite)
        self.reset()

    @property
    def n_features(self) -> int:
        """Number of columns d."""
        return self._n_features

    @property
    def sketch_size(self) -> int:
        """Number of directions that the residual holds."""
        return self._sketch_size

    @property
    def window(self) -> int:
        """Number of rows that count."""
        return self._length

    @property
    def buffer_size(self) -> int:
        """Largest number of rows that gather before they are looked at."""
        return self._buffer_size

    @property
    def nonfinite(self) -> str:
        """What happens to non-finite rows: `skip` or `raise`."""
        return self._nonfinite

    @property
    def n_samples_seen(self) -> int:
        """Number of rows of the stream that were taken in."""
        return 0 if self._window is None else self._window.end

    @property
    def n_skipped(self) -> int:
        """Number of rows left out: not finite, or without room for their squared norm."""
        return self._n_skipped

    @property
    def n_rows_stored(self) -> int:
        """Number of rows in memory, [n_rows_stored, d] in all."""
        return 0 if self._window is None else len(self._window.rows)

    def partial_fit(self, X: Array, sample_weight: Any = None) -> Self:
        """Take in rows, forget those that are now out of the window, and return the sketch itself.

        After an error the sketch is as it was.

        Args:
            X: Rows, [..., d], any number including none, the oldest first; leading dimensions are
                flattened. The first batch decides library and device. Up to 32 bits are kept as
                float32, 64 bits and integers as float64.
            sample_weight: Weights of at least 0 in the shape of X without its last dimension, or
                one number for all rows.

        Raises:
            TypeError: `X` is no array of real numbers, or of another library than before.
            ValueError: wrong number of features, wrong device, bad weights, or non-finite rows
                where `nonfinite="raise"`.
        """
        home = home_of(X)
        check_place(None if self._window is None else self._home, home, "X")
        with plain_arithmetic(home):
            X = to_state(X, home)
            batch = read_batch(X, sample_weight, self._n_features, False, self._nonfinite)
            dtype = "float64" if "float64" in (self._dtype, batch.dtype) else "float32"
            window = self._window or empty_window(batch.rows.part(0, 0, dtype))
            window = window.mapped(lambda A: cast(A, dtype))
            n = batch.rows.X.shape[0]
            for start in range(0, n, BLOCK_ROWS):
                rows = batch.rows.part(start, min(n, start + BLOCK_ROWS), dtype)
                window = slid(window, rows, self._sketch_size, self._buffer_size, self._length)
        self._window, self._home, self._dtype = window, home, dtype
        self._n_skipped += batch.moments.n_skipped
        return self

    def sketch(self) -> Array:
        """Return B, [k, d], whose rows are orthogonal and ordered by falling norm.

        All that is kept of the window, so that k is the smaller of d and `n_rows_stored` at most.
        Before any data it is a numpy array of no rows.
        """
        if self._window is None:
            return np.zeros((0, self._n_features))
        with plain_arithmetic(self._home):
            return self._out(rotated(self._window.rows, self._window.mass)[1])

    def error_bound(self) -> float:
        """Return Delta, a bound on the largest eigenvalue of `C_w - B'B`: what B lacks."""
        return 0.0 if self._window is None else bounds(self._window, self._length)[1]

    def excess_bound(self) -> float:
        """Return E, a bound on the largest eigenvalue of `B'B - C_w`: what B has of older rows.

        It is 0 until the first row leaves the window.
        """
        return 0.0 if self._window is None else bounds(self._window, self._length)[0]

    def copy(self) -> Self:
        """Return an independent sketch in the same state."""
        twin = type(self)(
            self._n_features,
            self._sketch_size,
            self._length,
            buffer_size=self._buffer_size,
            nonfinite=self._nonfinite,
        )
        # a window is never written to
        twin._window, twin._home, twin._dtype = self._window, self._home, self._dtype
        twin._n_skipped = self._n_skipped
        return twin

    def reset(self) -> Self:
        """Forget all rows, keep the arguments, and return the sketch itself."""
        self._window, self._home, self._dtype, self._n_skipped = None, NUMPY, "", 0
        return self

    def to_bytes(self) -> bytes:
        """Return the whole state: versioned, checksummed, the same on every machine.

        `from_bytes` restores it to the bit, so that the restored sketch goes on as this one would.
        """
        sizes = (self._n_features, self._sketch_size, self._length, self._buffer_size)
        state = None if self._window is None else self._window.mapped(to_numpy)
        return pack_window(
            WindowRecord(*sizes, self._nonfinite, self._n_skipped, self._dtype, state)
        )

    @classmethod
    def from_bytes(cls, data: bytes, like: Array | None = None) -> Self:
        """Return the sketch that `to_bytes` saved.

        Args:
            data: What `to_bytes` returned.
            like: An array of the library and on the device that the sketch is to live in; numpy
                where it is missing.

        Raises:
            TypeError: `data` is not bytes, or `like` is no array.
            ValueError: the data are truncated, damaged, foreign, of a future version or of
                another method; the message names the field.
        """
        home = NUMPY if like is None else home_of(like, "like")
        record = unpack_window(data)
        sketch = cls(*record[:3], buffer_size=record.buffer_size, nonfinite=record.nonfinite)
        if record.state is not None:
            sketch._window = record.state.mapped(lambda A: move(A, NUMPY, home))
            sketch._home, sketch._dtype = home, record.dtype
            sketch._n_skipped = record.n_skipped
        return sketch

    def _out(self, A: Array) -> Array:
        return to_user(clone(A), self._home)

    def __repr__(self) -> str:
        sizes = f"n_features={self._n_features}, sketch_size={self._sketch_size}"
        return (
            f"<SlidingFrequentDirections({sizes}, window={self._length}) "
            f"of {self.n_samples_seen} rows>"
        )
