"""Frequent Directions as pure functions: a state and rows in, a new state out.

Shapes depend on shapes alone and nothing is written in place, so that the functions run inside
`torch.compile(fullgraph=True)`, as one graph for all batches of a shape, inside `jax.jit`, and on
numpy arrays. Leading dimensions make a bank: all sketches of it are updated by one batched product
and one batched eigendecomposition.

The laws are those of `FrequentDirections`, whose rows are shrunk at the same moments. What it has
beyond them - centring, checks of the values, extreme masses, other precisions later on, files - is
left to it. Rows that are not finite, or whose squared norm leaves no room, become rows of zeros and
are counted. A weight that is negative or not finite is refused where its value is known; inside a
compiled graph it is not, and its row is counted among those.

Under autocast, TF32 or jax without `jax_enable_x64` products are less than exact, and the bound
is: switch them off around the calls, as `FrequentDirections` and `SketchBank` do by themselves.

Example:
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((100, 20))
    >>> state = fd_init(20, 8, like=X)
    >>> for start in range(0, 100, 25):
    ...     state = fd_update(state, X[start : start + 25])
    >>> B, Delta = fd_sketch(state), fd_error_bound(state)
    >>> missing = np.linalg.eigvalsh(X.T @ X - B.T @ B)
    >>> bool(missing[0] > -1e-9 and missing[-1] <= Delta + 1e-9)
    True
"""

from typing import Any, NamedTuple

import numpy as np

from fd_sketch._arrays import Array
from fd_sketch._buffer import FOLD_BELOW
from fd_sketch._checks import check_count, check_factor
from fd_sketch._pure import library, shrunk, taken, zeros
from fd_sketch._pure_rows import rows_of, weighed

__all__ = ["FDState", "fd_init", "fd_update", "fd_merge", "fd_sketch", "fd_error_bound"]


class FDState(NamedTuple):
    """Rows with `0 <= C - scale^2 Z'Z <= delta I` for `Z = [kept; fresh]`, and what is exact.

    The shapes hold the sizes: `l` rows stay when the rows are shrunk, `b` more join them before.
    """

    kept: Array  # [..., l, d]
    fresh: Array  # [..., b, d]
    used: Array  # [] int64, rows in use of both; the others are zero
    scale: Array  # [] float64, factor of the rows
    delta: Array  # [...] float64
    diagonal: Array  # [..., d] float64, of C; its sum is the total mass
    n_seen: Array  # [...] int64, rows taken in
    n_skipped: Array  # [...] int64, rows left out


def fd_init(
    n_features: int,
    sketch_size: int,
    *,
    buffer_size: int | None = None,
    like: Array | None = None,
    batch_shape: tuple[int, ...] = (),
) -> FDState:
    """Return the state of no rows.

    Args:
        n_features: Number of columns d.
        sketch_size: Number of rows l of the sketch.
        buffer_size: Number of rows b gathered beside it before it is shrunk, `2 l` if not given.
        like: An array of the library, on the device and of the dtype that the rows are to have,
            float32 or float64; numpy and float64 where it is missing.
        batch_shape: Leading dimensions of a bank of sketches.

    Raises:
        TypeError: a count is no int, or `like` no array of float32 or float64.
        ValueError: a count is less than 1.
    """
    d, size = check_count(n_features, "n_features"), check_count(sketch_size, "sketch_size")
    extra = check_count(2 * size if buffer_size is None else buffer_size, "buffer_size")
    like = np.empty(0) if like is None else like
    xp = library(like, "like")
    if like.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"like must be of float32 or float64, got {like.dtype}")

    def none(*shape: int, dtype: Any = xp.float64) -> Array:
        return zeros(like, (*batch_shape, *shape), dtype)

    return FDState(
        kept=none(size, d, dtype=like.dtype),
        fresh=none(extra, d, dtype=like.dtype),
        used=zeros(like, (), xp.int64),
        scale=zeros(like, (), xp.float64) + 1.0,
        delta=none(),
        diagonal=none(d),
        n_seen=none(dtype=xp.int64),
        n_skipped=none(dtype=xp.int64),
    )


def fd_update(
    state: FDState, X: Array, *, sample_weight: Array | None = None, decay: Any = 1.0
) -> FDState:
    """Return the state of `decay C + sum_i w_i x_i x_i'`.

    Traced by a compiler, every `b` rows cost one eigendecomposition, whether the rows are full or
    not, and the graph has as many; otherwise only full rows are shrunk.

    Args:
        state: The state before.
        X: Rows, [..., N, d], with the leading dimensions of the state, in its library and on its
            device. They are taken in its dtype; autograd ends here.
        sample_weight: Weights of at least 0, [..., N], or one number for all rows.
        decay: Factor in (0, 1] on all earlier weights, a number or an array of no dimensions,
            whose value is not checked.

    Raises:
        TypeError: `state` is no `FDState`, `X` or the weights are arrays of another library than
            it, or none, or `decay` is neither a number nor an array.
        ValueError: the shapes do not fit, a number `decay` is outside of (0, 1], or a weight whose
            value is known is negative or not finite.
    """
    X, decay = rows_of(X, _known(state).kept), check_factor(decay, "decay")
    state = _decayed(state, decay)
    X, squares, good = weighed(X, sample_weight, state.kept.dtype)
    xp = library(X)
    n_good = xp.sum(xp.astype(good, xp.int64), axis=-1)
    state = state._replace(
        diagonal=state.diagonal + xp.sum(squares, axis=-2),
        n_seen=state.n_seen + n_good,
        n_skipped=state.n_skipped + (X.shape[-2] - n_good),
    )
    return _appended(state, xp.astype(X / state.scale, state.kept.dtype))


def fd_merge(a: FDState, b: FDState) -> FDState:
    """Return the state of `C_a + C_b`, of the smaller sketch size and the buffer size of `a`.

    Raises:
        TypeError: the states are of two libraries, or one is no `FDState`.
        ValueError: their numbers of features or their leading dimensions differ.
    """
    rows = rows_of(_all(_known(b, "b")), _known(a, "a").kept, "b")
    xp = library(rows)
    size = min(a.kept.shape[-2], b.kept.shape[-2])
    merged = a._replace(
        delta=a.delta + b.delta,
        diagonal=a.diagonal + b.diagonal,
        n_seen=a.n_seen + b.n_seen,
        n_skipped=a.n_skipped + b.n_skipped,
    )
    if size < a.kept.shape[-2]:
        empty = a._replace(kept=a.kept[..., :size, :] * 0, fresh=a.fresh * 0, used=a.used * 0)
        merged = merged._replace(kept=empty.kept, fresh=empty.fresh, used=empty.used)
        merged = _appended(merged, _all(a))
    return _appended(merged, xp.astype(rows * (b.scale / a.scale), a.kept.dtype))


def fd_sketch(state: FDState) -> Array:
    """Return B, [..., l, d], orthogonal rows by falling norm, the last of them perhaps zero."""
    xp = library(_known(state).kept)
    B, _ = shrunk(_all(state), state.kept.shape[-2])
    return xp.astype(B * state.scale, B.dtype)


def fd_error_bound(state: FDState) -> Array:
    """Return Delta, [...], float64, with `0 <= C - B'B <= Delta I` for B = `fd_sketch(state)`."""
    _, delta = shrunk(_all(_known(state)), state.kept.shape[-2])
    return state.delta + delta * state.scale**2


def _known(state: Any, name: str = "state") -> FDState:
    """Return `state`, which is one."""
    if not isinstance(state, FDState):
        raise TypeError(f"{name} must be an FDState, got {type(state).__name__}")
    return state


def _all(state: FDState) -> Array:
    return library(state.kept).concat([state.kept, state.fresh], axis=-2)


def _decayed(state: FDState, decay: Any) -> FDState:
    """Return the state of `decay C`; the rows are multiplied only where the scale gets small."""
    if isinstance(decay, float) and decay == 1.0:
        return state
    xp = library(state.kept)
    decay = _widened(decay)
    scale = state.scale * decay**0.5
    small = scale < FOLD_BELOW
    factor = xp.where(small, scale, scale * 0.0 + 1.0)
    return state._replace(
        kept=xp.astype(state.kept * factor, state.kept.dtype),
        fresh=xp.astype(state.fresh * factor, state.fresh.dtype),
        scale=scale / factor,
        delta=state.delta * decay,
        diagonal=state.diagonal * decay,
    )


def _widened(decay: Any) -> Any:
    """Return a decay in float64, without its autograd: its rounded root would drift from it."""
    if isinstance(decay, np.generic):
        return float(decay)
    if isinstance(decay, int | float):
        return decay
    decay = decay.detach() if hasattr(decay, "detach") else decay
    return library(decay, "decay").astype(decay, library(decay).float64)


def _appended(state: FDState, rows: Array) -> FDState:
    """Return the state with rows of its scale and dtype, shrunk as often as it is full."""
    size, extra = state.kept.shape[-2], state.fresh.shape[-2]
    Z, used, delta = _all(state), state.used, state.delta
    for start in range(0, rows.shape[-2], extra):
        part = rows[..., start : start + extra, :]
        Z, used, gained = taken(Z, used, part, size)
        delta = delta + gained * state.scale**2
    return state._replace(kept=Z[..., :size, :], fresh=Z[..., size:, :], used=used, delta=delta)
