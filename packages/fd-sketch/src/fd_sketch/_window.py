"""Second moments of a sliding window: directions leave the sketch with a date, and expire.

Rows gather in a residual D, whose energy stays small in every direction: at the end of each epoch
a direction of more than theta, `1 / (4 size)` of the mass that is kept, leaves D as a row with the
time of that end. For two ends s < t

    C(s, t] = S(s, t] + D_t'D_t - D_s'D_s + L(s, t]

with S the rows that left in between and L, 0 <= L <= (Delta_t - Delta_s) I, what shrinking D has
lost. Nothing else is known of the past, and nothing else is needed: `D_s'D_s <= residual_s I`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fd_sketch._arrays import Array, cast, namespace, place
from fd_sketch._shrink import eigen, power_of_two


class Epoch(NamedTuple):
    """Rows up to a time, after those of the epoch before."""

    end: int  # number of rows of the stream up to here
    mass: float  # of its rows
    residual: float  # largest eigenvalue of D'D at its end
    delta: float  # Delta of the stream up to its end
    rows: Array  # [k, d], what left D at its end, or at the ends of epochs it has taken in
    energy: float  # of these rows


class Window(NamedTuple):
    """What is kept of the stream; arrays are never written to."""

    epochs: tuple[Epoch, ...]  # whose end is in the window
    before: Epoch  # the last one whose end is not; its rows are gone
    D: Array  # [r, d], r <= size
    fresh: Array  # [p, d], rows since the end of the last epoch
    fresh_mass: float
    end: int  # number of rows of the stream
    grain: float  # largest mass of an epoch of more than one row

    @property
    def rows(self) -> Array:
        """All rows that are kept, [n, d]."""
        parts = [*(epoch.rows for epoch in self.epochs), self.D, self.fresh]
        return namespace(self.D).concat(parts, axis=0)

    @property
    def mass(self) -> float:
        """An upper bound on the squared norm of what is kept."""
        rows = cast(self.D, "float64")
        held = float(namespace(rows).sum(rows * rows)) + self.fresh_mass
        return held + sum(epoch.energy for epoch in self.epochs)

    def mapped(self, change: Callable[[Array], Array]) -> "Window":
        """Return the window with every array changed."""
        epochs = tuple(epoch._replace(rows=change(epoch.rows)) for epoch in self.epochs)
        before = self.before._replace(rows=change(self.before.rows))
        return self._replace(
            epochs=epochs, before=before, D=change(self.D), fresh=change(self.fresh)
        )


def empty_window(like: Array) -> Window:
    """Return the window of no rows, beside the rows `like` [N, d]."""
    none = like[:0, :] + 0
    return Window((), Epoch(0, 0.0, 0.0, 0.0, none, 0.0), none, none, 0.0, 0, 0.0)


def slid(window: Window, X: Array, size: int, extra: int, length: int) -> Window:
    """Return the window after further rows, [n, d].

    An epoch ends before its mass exceeds the grain, or its rows `extra`; a heavier row is an epoch
    of its own, so that a window starts before or after it, and never within.
    """
    xp = namespace(X)
    Y = cast(X, "float64")
    energies = np.asarray(_host(xp.sum(Y * Y, axis=1)))
    start, n = 0, len(energies)
    while start < n:
        room = extra - window.fresh.shape[0]
        # summed row by row, as if they came one by one
        filled = np.cumsum([window.fresh_mass, *energies[start : start + room]])[1:]
        take = int(np.searchsorted(filled, window.grain, side="right"))
        if take == 0 and window.fresh.shape[0]:
            window = closed(window, size, length)
            continue
        take = max(1, take)
        fresh = xp.concat([window.fresh, X[start : start + take, :]], axis=0)
        mass, start = float(filled[take - 1]), start + take
        window = window._replace(fresh=fresh, fresh_mass=mass, end=window.end + take)
        if fresh.shape[0] >= extra or mass > window.grain:
            window = closed(window, size, length)
    return expired(window, length)


def closed(window: Window, size: int, length: int) -> Window:
    """Return the window with its fresh rows in an epoch of their own, which ends now."""
    window = expired(window, length)
    mass = window.mass
    Z = namespace(window.D).concat([window.D, window.fresh], axis=0)
    lam, R = rotated(Z, mass)
    k = int(np.count_nonzero(lam > mass / (4 * size)))
    delta = float(lam[k + size]) if k + size < len(lam) else 0.0
    kept = lam[k : k + size]
    kept = kept[kept > delta]
    D = _scaled(R[k : k + len(kept), :], np.sqrt((kept - delta) / kept))
    last = window.epochs[-1] if window.epochs else window.before
    epoch = Epoch(
        end=window.end,
        mass=window.fresh_mass,
        residual=float(kept[0] - delta) if len(kept) else 0.0,
        delta=last.delta + delta,
        rows=R[:k, :],
        energy=float(lam[:k].sum()),
    )
    epochs = window.epochs
    grain = (sum(epoch.mass for epoch in epochs) + epoch.mass) / (4 * size)
    if epochs and epochs[-1].mass + epoch.mass <= grain:
        epochs, epoch = epochs[:-1], joined(epochs[-1], epoch)
    none = window.fresh[:0, :]
    return window._replace(epochs=(*epochs, epoch), D=D, fresh=none, fresh_mass=0.0, grain=grain)


def joined(a: Epoch, b: Epoch) -> Epoch:
    """Return two epochs as one: light ones need no date of their own."""
    rows = namespace(a.rows).concat([a.rows, b.rows], axis=0)
    return b._replace(mass=a.mass + b.mass, rows=rows, energy=a.energy + b.energy)


def expired(window: Window, length: int) -> Window:
    """Return the window without the epochs that end before it starts."""
    gone = sum(epoch.end <= window.end - length for epoch in window.epochs)
    if not gone:
        return window
    last = window.epochs[gone - 1]
    return window._replace(
        epochs=window.epochs[gone:], before=last._replace(rows=last.rows[:0, :], energy=0.0)
    )


def bounds(window: Window, length: int) -> tuple[float, float]:
    """Return (E, Delta) with `-E I <= C - B'B <= Delta I`, B all rows kept and C of the window."""
    before, epochs = window.before, window.epochs
    # rows of the first epoch may lie before the window; without epochs all rows are fresh
    outside = epochs[0].mass if epochs and before.end < window.end - length else 0.0
    last = epochs[-1] if epochs else before
    return before.residual + outside, last.delta - before.delta


def rotated(Z: Array, mass: float) -> tuple[np.ndarray, Array]:
    """Return lam [n], falling, and orthogonal R [n, d] with `R'R = Z'Z` and `|R_i|^2 = lam_i`."""
    xp, (r, d) = namespace(Z), Z.shape
    if r == 0:
        return np.zeros(0), Z
    dtype = "float32" if Z.dtype == xp.float32 else "float64"
    unit = power_of_two(mass, dtype)
    Y = Z if unit == 1.0 else Z * unit
    lam, U = eigen(Y @ Y.T if r <= d else Y.T @ Y)
    # what is left of an exact zero after rounding
    k = int(np.count_nonzero(lam > lam[0] * len(lam) * np.finfo(np.float64).eps))
    lam, U = lam[:k], U[:, :k]
    if r <= d:
        R = cast(U.T, dtype) @ Z
    else:
        R = cast(_scaled(U.T, np.sqrt(lam) / unit), dtype)
    return lam / unit / unit, R


def _scaled(R: Array, factors: np.ndarray) -> Array:
    """Return the rows times factors of float64, in their dtype."""
    xp = namespace(R)
    return xp.astype(R * xp.asarray(factors[:, None], device=place(R)), R.dtype)


def _host(A: Array) -> Array:
    return A if isinstance(A, np.ndarray) else A.cpu().numpy()
