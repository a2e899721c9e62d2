"""The state of a sketch: exact moments and a store of second moments."""

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from fd_sketch._arrays import NUMPY, Array, Home, namespace, to_numpy
from fd_sketch._moments import Moments
from fd_sketch._rows import Rows


class Store(Protocol):
    """Second moments of rows: what a method has to bring along.

    Every method returns a new store and leaves the old one as it was. `mass` is an upper bound on
    the trace of what the new store stands for.
    """

    @property
    def rows(self) -> Array:
        """The array to save, [n, d]."""
        ...

    @property
    def delta(self) -> float:
        """A bound on `C - C~` for the second moment C~ that is stored."""
        ...

    def mapped(self, change: Callable[[Array], Array]) -> Self:
        """Return the store with its arrays changed."""
        ...

    def promoted(self, dtype: str) -> Self:
        """Return the store for rows of a dtype."""
        ...

    def decayed(self, decay: float) -> Self:
        """Return the store of `decay C`."""
        ...

    def appended(self, rows: Rows, mass: float) -> Self:
        """Return the store of `C + rows' rows`."""
        ...

    def merged(self, other: Self, mass: float) -> Self:
        """Return the store of the sum of both."""
        ...

    def quadratic(self, V: Array) -> Array:
        """Return `V C~ V'`, for V in float64 and the moment C~ that is stored, `B'B <= C~ <= C`."""
        ...

    def diagonal(self) -> Array:
        """Return the diagonal of C~, float64 [d]."""
        ...

    def flushed(self, mass: float) -> tuple[Array, float]:
        """Return B and Delta with `0 <= C - B'B <= Delta I`."""
        ...


S = TypeVar("S", bound=Store)


class State(NamedTuple, Generic[S]):
    """Everything that changes; replaced as a whole, so that a failed call changes nothing."""

    moments: Moments
    store: S | None = None  # none before the first batch
    home: Home = NUMPY
    dtype: str = ""  # of the rows kept


class Flushed(NamedTuple):
    """What `sketch` returns, and what the answers about it need."""

    B: Array  # [k, d]
    delta: float
    energies: np.ndarray  # [k] float64, squared norms of the rows
    diagonal: Array  # [d] float64, of B'B


def nothing(n_features: int) -> Moments:
    """Return the moments of no rows."""
    zero = np.zeros(n_features)
    return Moments(zero, zero, 0.0, 0.0, 0, 0)


def flush(state: State[S]) -> Flushed:
    """Return the sketch of a state."""
    if state.store is None:
        B, delta = np.zeros((0, state.moments.mean.shape[0])), 0.0
    else:
        B, delta = state.store.flushed(state.moments.total)
    xp = namespace(B)
    squares = xp.astype(B, xp.float64) ** 2
    energies = to_numpy(xp.sum(squares, axis=1))
    return Flushed(B, delta, energies, xp.sum(squares, axis=0))


def changed(state: State[S], change: Callable[[Array], Array], home: Home) -> State[S]:
    """Return the state with every array changed, at home somewhere."""
    store = None if state.store is None else state.store.mapped(change)
    return State(state.moments.mapped(change), store, home, state.dtype)
