"""From one state to the next: a batch comes in, or another sketch."""

from collections.abc import Callable

from fd_sketch._arrays import NUMPY, Array, Home, move
from fd_sketch._batch import Batch, total_limit
from fd_sketch._moments import Moments, combine
from fd_sketch._rows import Rows
from fd_sketch._state import S, State


def check_home(state: State[S], home: Home, name: str) -> None:
    """Refuse arrays from another place than the first ones.

    Raises:
        TypeError: the library is another.
        ValueError: the device is another.
    """
    mine = state.home
    if state.store is None or home == mine:
        return
    if home.library != mine.library:
        raise TypeError(f"{name} must be of {mine.library} like the data before, got {home}")
    raise ValueError(
        f"{name} must be on {mine.device} like the data before, got {home.device}; "
        "to(device) moves a sketch"
    )


def opened(
    state: State[S], empty: Callable[[Array, str], S], like: Array, home: Home, dtype: str
) -> tuple[State[S], S]:
    """Return the state and its store, ready for rows beside `like` [N, d] of a dtype."""
    if state.store is None:
        moments = state.moments.mapped(lambda A: move(A, NUMPY, home))
        store = empty(like, dtype)
        return State(moments, store, home, dtype), store
    if dtype in (state.dtype, "float32"):
        return state, state.store
    store = state.store.promoted(dtype)
    return state._replace(store=store, dtype=dtype), store


def absorbed(state: State[S], store: S, batch: Batch, decay: float, center: bool) -> State[S]:
    """Return the state after one step of decay and a batch."""
    before = state.moments.decayed(decay)
    moments, bridge = _combined(before, batch.moments, center, state.dtype)
    store = store.decayed(decay).appended(batch.rows, moments.total)
    return _closed(state, store, moments, bridge)


def joined(state: State[S], store: S, theirs: Moments, their_store: S, center: bool) -> State[S]:
    """Return the state of both sketches."""
    moments, bridge = _combined(state.moments, theirs, center, state.dtype)
    return _closed(state, store.merged(their_store, moments.total), moments, bridge)


def _combined(a: Moments, b: Moments, center: bool, dtype: str) -> tuple[Moments, Array | None]:
    """Return the moments of both; refuse a mass beyond the range of the rows."""
    moments, bridge = combine(a, b, center=center)
    limit = total_limit(dtype)
    if not moments.total <= limit:
        raise ValueError(
            f"the total mass must stay below {limit:.3g} in {dtype}, got {moments.total:.3g}; "
            "scale the rows down"
        )
    return moments, bridge


def _closed(state: State[S], store: S, moments: Moments, bridge: Array | None) -> State[S]:
    if bridge is not None:
        store = store.appended(Rows(bridge[None, :]), moments.total)
    return state._replace(moments=moments, store=store)
