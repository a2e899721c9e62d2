"""Many sketches of one shape, updated together."""

from typing import Any, Self

import array_api_compat as compat

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
    working_dtype,
)
from fd_sketch._bank_format import BankRecord, pack_bank, unpack_bank
from fd_sketch._batch import read_weights
from fd_sketch._checks import check_another, check_count, check_decay
from fd_sketch._places import check_place
from fd_sketch._torch import plain_arithmetic
from fd_sketch.functional import FDState, fd_error_bound, fd_init, fd_merge, fd_sketch, fd_update


class SketchBank:
    """Sketches of `n_sketches` streams: one batched product and one eigendecomposition for all.

    Each of them is what a `FrequentDirections` of the same arguments would be, to rounding: sketch
    i keeps `0 <= C_i - B_i'B_i <= Delta_i I` and both bounds of the theorem. For the layers of a
    network, the heads of an attention, the users of a service. What a bank gains over a loop is
    overhead: it is large where the sketches are small, and on a GPU.

    The rows of a bank are not centred, and there is no argument for it: the mean, which moves with
    every batch, is no part of the functional core. Streams about their means want a
    `FrequentDirections` each.

    Args:
        n_sketches: Number of streams k.
        n_features: Number of columns d of each.
        sketch_size: Number of rows l of each sketch.
        buffer_size: Number of rows gathered beside each sketch, `2 l` if not given.
        decay: Factor in (0, 1] on all earlier weights at every call of `partial_fit`.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((4, 300, 20))
        >>> bank = SketchBank(4, 20, 8).partial_fit(X)
        >>> bank.sketches().shape, bank.error_bounds().shape
        ((4, 8, 20), (4,))
        >>> B, Delta = bank.sketches()[2], bank.error_bounds()[2]
        >>> missing = np.linalg.eigvalsh(X[2].T @ X[2] - B.T @ B)
        >>> bool(missing[0] > -1e-9 and missing[-1] <= Delta + 1e-9)
        True
    """

    _state: FDState
    _home: Home | None  # none before the first batch

    def __init__(
        self,
        n_sketches: int,
        n_features: int,
        sketch_size: int,
        *,
        buffer_size: int | None = None,
        decay: float = 1.0,
    ) -> None:
        self._n_sketches = check_count(n_sketches, "n_sketches")
        self._n_features = check_count(n_features, "n_features")
        self._sketch_size = check_count(sketch_size, "sketch_size")
        extra = 2 * self._sketch_size if buffer_size is None else buffer_size
        self._buffer_size = check_count(extra, "buffer_size")
        self._decay = check_decay(decay)
        self.reset()

    @property
    def n_sketches(self) -> int:
        """Number of streams k."""
        return self._n_sketches

    @property
    def n_features(self) -> int:
        """Number of columns d."""
        return self._n_features

    @property
    def sketch_size(self) -> int:
        """Largest number of rows of each sketch; a merge with a smaller bank lowers it."""
        return int(self._state.kept.shape[-2])

    @property
    def buffer_size(self) -> int:
        """Number of rows gathered beside each sketch before it is shrunk."""
        return self._buffer_size

    @property
    def decay(self) -> float:
        """Factor on all earlier weights at every call of `partial_fit`."""
        return self._decay

    @property
    def n_samples_seen(self) -> Array:
        """Number of rows taken in by each sketch, int64 [k]."""
        return self._out(self._state.n_seen)

    @property
    def n_skipped(self) -> Array:
        """Number of rows left out by each sketch, not finite or too large, int64 [k]."""
        return self._out(self._state.n_skipped)

    def partial_fit(self, X: Array, sample_weight: Any = None) -> Self:
        """Take in rows of every stream and return the bank itself.

        `C_i <- decay C_i + sum_j w_ij x_ij x_ij'`. After an error the bank is as it was.

        Args:
            X: Rows, [k, N, d], any number N including none. The first batch decides library and
                device. Up to 32 bits are kept as float32, 64 bits and integers as float64.
            sample_weight: Weights of at least 0, [k, N], or one number for all rows.

        Raises:
            TypeError: `X` is no array of real numbers, or of another library than before.
            ValueError: wrong shape, wrong device or bad weights.
        """
        home = home_of(X)
        check_place(self._home, home, "X")
        with plain_arithmetic(home):
            X = to_state(X, home)
            state = self._opened(X, home, working_dtype(X))
            if X.ndim != 3 or tuple(X.shape[::2]) != (self._n_sketches, self._n_features):
                shape = f"[{self._n_sketches}, N, {self._n_features}]"
                raise ValueError(f"X must have shape {shape}, got {list(X.shape)}")
            w = sample_weight
            if w is not None:
                w = read_weights(w, tuple(X.shape[:2]), X).reshape(X.shape[:2])
            state = fd_update(state, X, sample_weight=w, decay=self._decay)
        self._state, self._home = state, home
        return self

    def merge(self, other: Self) -> Self:
        """Take in what another bank has taken in, sketch by sketch, and return the bank itself.

        The sketch size becomes the smaller one; buffer size and decay stay. `other` is left as it
        was.

        Raises:
            TypeError: `other` is no bank, or holds arrays of another library.
            ValueError: the numbers of sketches or of features differ, or `other` is the bank
                itself.
        """
        check_another(other, self, "bank")
        if not isinstance(other, SketchBank):
            raise TypeError(f"other must be a SketchBank, got {type(other).__name__}")
        for name in ("n_sketches", "n_features"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ValueError(f"{name} must be equal in both banks, got {mine} and {its}")
        home = other._home
        if home is None:
            return self
        check_place(self._home, home, "other")
        with plain_arithmetic(home):
            rows = other._state.kept
            state = self._opened(rows, home, working_dtype(rows))
            self._state, self._home = fd_merge(state, other._state), home
        return self

    def sketches(self) -> Array:
        """Return all B, [k, l, d], rows orthogonal and by falling norm; missing ones are zero."""
        with plain_arithmetic(self._home or NUMPY):
            return self._out(fd_sketch(self._state))

    def error_bounds(self) -> Array:
        """Return all Delta, float64 [k]."""
        with plain_arithmetic(self._home or NUMPY):
            return self._out(fd_error_bound(self._state))

    def total_masses(self) -> Array:
        """Return the traces of all C, float64 [k]."""
        return self._out(self._state.diagonal.sum(-1))

    def diagonals(self) -> Array:
        """Return the exact diagonals of all C, float64 [k, d]."""
        return self._out(self._state.diagonal)

    def to(self, device: Any) -> Self:
        """Move the arrays to a device of their library and return the bank itself."""
        if self._home is not None:
            home = home_of(compat.to_device(self.error_bounds(), device))
            self._state = FDState(*(move(A, self._home, home) for A in self._state))
            self._home = home
        return self

    def copy(self) -> Self:
        """Return an independent bank in the same state."""
        twin = type(self)(
            self._n_sketches,
            self._n_features,
            self._sketch_size,
            buffer_size=self._buffer_size,
            decay=self._decay,
        )
        twin._state, twin._home = self._state, self._home  # a state is never written to
        return twin

    def reset(self) -> Self:
        """Forget all rows, keep the arguments, and return the bank itself."""
        self._state, self._home = self._empty(None), None
        return self

    def to_bytes(self) -> bytes:
        """Return the whole state: versioned, checksummed, the same on every machine.

        `from_bytes` restores it to the bit, so that the restored bank goes on as this one would.
        """
        sizes = (self._n_sketches, self._n_features, self.sketch_size, self._buffer_size)
        state = None if self._home is None else FDState(*map(to_numpy, self._state))
        return pack_bank(BankRecord(*sizes, self._decay, state))

    @classmethod
    def from_bytes(cls, data: bytes, like: Array | None = None) -> Self:
        """Return the bank that `to_bytes` saved.

        Args:
            data: What `to_bytes` returned.
            like: An array of the library and on the device that the bank is to live in; numpy
                where it is missing.

        Raises:
            TypeError: `data` is not bytes, or `like` is no array.
            ValueError: the data are truncated, damaged, foreign, of a future version or of
                another method, or claim more than memory holds; the message names the field.
        """
        home = NUMPY if like is None else home_of(like, "like")
        record = unpack_bank(data)
        try:
            bank = cls(*record[:3], buffer_size=record.buffer_size, decay=record.decay)
        except (MemoryError, OverflowError, ValueError):
            raise ValueError(f"data: sizes must leave room, got {list(record[:4])}") from None
        if record.state is not None:
            bank._state = FDState(*(move(A, NUMPY, home) for A in record.state))
            bank._home = home
        return bank

    def _empty(self, like: Array | None) -> FDState:
        return fd_init(
            self._n_features,
            self._sketch_size,
            buffer_size=self._buffer_size,
            like=like,
            batch_shape=(self._n_sketches,),
        )

    def _opened(self, X: Array, home: Home, dtype: str) -> FDState:
        """Return the state, ready for rows beside `X` of a dtype."""
        state = self._state
        if self._home is None:
            return self._empty(cast(X[:0], dtype))
        if dtype == "float64":
            state = state._replace(kept=cast(state.kept, dtype), fresh=cast(state.fresh, dtype))
        return state

    def _out(self, A: Array) -> Array:
        return to_user(clone(A), self._home or NUMPY)
