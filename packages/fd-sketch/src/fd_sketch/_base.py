"""What all sketches share: arguments, taking rows in, merging, moving, saving."""

from abc import ABC, abstractmethod
from typing import Any, Self

import array_api_compat as compat

from fd_sketch._arrays import (
    NUMPY,
    Array,
    clone,
    home_of,
    home_of_rows,
    move,
    to_state,
)
from fd_sketch._batch import read_batch
from fd_sketch._checks import (
    check_another,
    check_count,
    check_decay,
    check_flag,
    check_policy,
)
from fd_sketch._components import Components
from fd_sketch._format import Record, pack, unpack
from fd_sketch._rows import between
from fd_sketch._state import S, State, changed, nothing
from fd_sketch._torch import plain_arithmetic
from fd_sketch._updates import absorbed, check_home, joined, opened


class BaseSketch(Components[S], ABC):
    """The life of a covariance sketch; a method adds its store."""

    # for the representation
    _arguments: tuple[str, ...] = ("n_features", "center", "decay", "nonfinite")
    _common: tuple[str, ...] = ("n_features", "center")  # to all sketches of a merge

    def __init__(self, n_features: int, *, center: bool, decay: float, nonfinite: str) -> None:
        self._n_features = check_count(n_features, "n_features")
        self._center = check_flag(center, "center")
        self._decay = check_decay(decay)
        self._nonfinite = check_policy(nonfinite)
        self.reset()

    @abstractmethod
    def _empty_store(self, like: Array, dtype: str) -> S:
        """Return a store without rows, beside the rows `like` [N, d]."""

    @abstractmethod
    def _record(self) -> Record:
        """Return what the method saves of itself, without the common fields."""

    @classmethod
    @abstractmethod
    def _restored(cls, record: Record) -> tuple[Self, S]:
        """Return an empty sketch with the saved arguments, and the saved store."""

    def _set(self, state: State[S]) -> None:
        self._state, self._answer = state, None

    @property
    def n_features(self) -> int:
        """Number of columns d."""
        return self._n_features

    @property
    def center(self) -> bool:
        """Whether C is the scatter about the mean."""
        return self._center

    @property
    def decay(self) -> float:
        """Factor on all earlier weights at every call of `partial_fit`."""
        return self._decay

    @property
    def nonfinite(self) -> str:
        """What happens to non-finite rows: `skip` or `raise`."""
        return self._nonfinite

    def partial_fit(self, X: Array, sample_weight: Any = None) -> Self:
        """Take in rows and return the sketch itself.

        `C <- decay C + sum_i w_i x_i x_i'`. One call is one step of decay, also without rows.
        After an error the sketch is as it was.

        Args:
            X: Rows, [..., d], any number including none; leading dimensions are flattened. A
                sparse matrix of scipy, [N, d], is read as numpy rows, a few at a time. The first
                batch decides library and device. Up to 32 bits are kept as float32, 64 bits
                and integers as float64; a float64 batch turns a float32 sketch into a float64
                one.
            sample_weight: Weights of at least 0 in the shape of X without its last dimension,
                or one number for all rows (`1 / p` where rows were sampled with probability p).

        Raises:
            TypeError: `X` is no array of real numbers, or of another library than before.
            ValueError: wrong number of features, wrong device, bad weights, non-finite rows where
                `nonfinite="raise"`, or a mass beyond the range of the dtype.
        """
        home = home_of_rows(X)
        check_home(self._state, home, "X")
        with plain_arithmetic(home):
            X = to_state(X, home)
            batch = read_batch(X, sample_weight, self._n_features, self._center, self._nonfinite)
            state, store = opened(
                self._state, self._empty_store, between(batch.rows.X, 0, 0), home, batch.dtype
            )
            self._set(absorbed(state, store, batch, self._decay, self._center))
        return self

    def merge(self, other: Self) -> Self:
        """Take in what another sketch has taken in, and return the sketch itself.

        The result stands for `C_self + C_other` (centred sketches: for the scatter about the
        common mean), with an error bound of at least the sum of both. `other` is left as it was.
        Decay and policy stay those of `self`, whatever those of `other` are.

        Raises:
            TypeError: `other` is a sketch of another method, or holds arrays of another library.
            ValueError: the numbers of features, the centring, the shares `alpha` or the devices
                differ, or `other` is the sketch itself.
        """
        check_another(other, self, "sketch")
        if type(other) is not type(self):
            raise TypeError(f"other must be a {type(self).__name__}, got {type(other).__name__}")
        for name in self._common:
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ValueError(f"{name} must be equal in both sketches, got {mine} and {its}")
        theirs = other._state
        if theirs.store is not None:
            check_home(self._state, theirs.home, "other")
            with plain_arithmetic(theirs.home):
                like, home, dtype = theirs.store.rows, theirs.home, theirs.dtype
                state, store = opened(self._state, self._empty_store, like, home, dtype)
                self._set(joined(state, store, theirs.moments, theirs.store, self._center))
        return self

    def to(self, device: Any) -> Self:
        """Move the arrays to a device of their library and return the sketch itself.

        Before the first batch there is nothing to move: that batch decides the device.
        """
        state = self._state
        if state.store is not None:
            home = home_of(compat.to_device(self.mean, device))
            self._set(changed(state, lambda A: move(A, state.home, home), home))
        return self

    def copy(self) -> Self:
        """Return an independent sketch in the same state."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._set(changed(self._state, clone, self._state.home))
        return twin

    def __copy__(self) -> Self:
        # shared rows would be overwritten by both
        return self.copy()

    def reset(self) -> Self:
        """Forget all rows, keep the arguments, and return the sketch itself."""
        self._set(State(nothing(self._n_features)))
        return self

    def to_bytes(self) -> bytes:
        """Return the whole state: versioned, checksummed, the same on every machine.

        `from_bytes` restores it to the bit, so that the restored sketch goes on as this one would.
        """
        return pack(self._record())

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
        record = unpack(data, cls.__name__)
        sketch, store = cls._restored(record)
        if record.dtype:
            state = State(record.moments, store, NUMPY, record.dtype)
            sketch._set(changed(state, lambda A: move(A, NUMPY, home), home))
        return sketch

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._arguments)
        return f"<{type(self).__name__}({arguments}) of {self.n_samples_seen} rows>"
