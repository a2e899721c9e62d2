"""The buffer of Frequent Directions: rows come in, and are shrunk when it is full."""

import math
from collections.abc import Callable
from typing import NamedTuple

from fd_sketch._arrays import Array, cast, clone, namespace, place
from fd_sketch._rows import Rows
from fd_sketch._shrink import shrink

FOLD_BELOW = 2.0**-10  # rows are divided by the scale, which must leave room for them


class Buffer(NamedTuple):
    """Rows with `0 <= C - scale^2 Z'Z <= delta I`.

    Every method returns a new buffer. Rows are written in place only where the old buffer has
    none, so that one left behind by an error is as it was.

    Decay multiplies the scale, not the rows: float32 rows multiplied at every call by the rounded
    root of the decay would drift away from the exact mass.
    """

    Z: Array  # [capacity or fewer, d], free from row `used` on
    used: int
    size: int  # rows that remain after shrinking
    extra: int  # rows that fit beside them
    dtype: str  # of the rows
    delta: float = 0.0
    scale: float = 1.0
    alpha: float = 1.0  # share of the rows that are lowered by shrinking

    @property
    def spared(self) -> int:
        """Number of first rows that shrinking leaves whole."""
        # the product may be a rounding error above a whole number
        return self.size - math.ceil(self.alpha * self.size - 1e-9)

    @property
    def room(self) -> int:
        """Number of rows it holds at most."""
        return self.size + self.extra

    @property
    def rows(self) -> Array:
        """The rows in use, without the scale."""
        return self.Z[: self.used, :]

    def mapped(self, change: Callable[[Array], Array]) -> "Buffer":
        """Return the buffer with its rows changed."""
        return self._replace(Z=change(self.rows))

    def promoted(self, dtype: str) -> "Buffer":
        """Return the buffer with rows of a dtype."""
        return self.mapped(lambda Z: cast(Z, dtype))._replace(dtype=dtype)

    def decayed(self, decay: float) -> "Buffer":
        """Return the buffer of `decay C`."""
        if decay == 1.0:
            return self
        scale, delta = self.scale * math.sqrt(decay), self.delta * decay
        if scale >= FOLD_BELOW:
            return self._replace(scale=scale, delta=delta)
        return self._replace(Z=self.rows * scale, scale=1.0, delta=delta)

    def appended(self, rows: Rows, mass: float) -> "Buffer":
        """Return the buffer of `C + rows' rows`, whose mass is at most `mass`."""
        buffer, start, n = self, 0, rows.X.shape[0]
        fresh = False  # whether writing over used rows harms nobody
        while start < n:
            if buffer.used >= self.room:
                buffer, fresh = buffer._shrunk(mass, fresh), True
            elif buffer.Z.shape[0] != self.room:
                buffer, fresh = buffer._fitted(), True
            stop = min(n, start + buffer.Z.shape[0] - buffer.used)
            part = rows.part(start, stop, self.dtype, 1.0 / buffer.scale)
            end = buffer.used + stop - start
            buffer.Z[buffer.used : end, :] = part
            buffer, start = buffer._replace(used=end), stop
        return buffer

    def merged(self, other: "Buffer", mass: float) -> "Buffer":
        """Return the buffer of the sum of both, of the smaller size if there is anything to add."""
        size = min(self.size, other.size) if other.used or other.delta else self.size
        buffer = self._replace(delta=self.delta + other.delta).resized(size, self.extra, mass)
        return buffer.appended(Rows(cast(other.rows, "float64") * other.scale), mass)

    def resized(self, size: int, extra: int, mass: float) -> "Buffer":
        """Return the buffer of another size, shrunk if the rows do not fit."""
        buffer = self._replace(size=size, extra=extra)
        return buffer._shrunk(mass, False) if self.used > buffer.room else buffer

    def flushed(self, mass: float) -> tuple[Array, float]:
        """Return at most `size` rows B, by falling norm, and Delta with `0 <= C - B'B <= Delta`."""
        B, delta = shrink(
            self.rows,
            self.size,
            spared=self.spared,
            scale=self.scale,
            mass=mass,
            dtype=self.dtype,
        )
        return B, self.delta + delta

    def quadratic(self, V: Array) -> Array:
        """Return `V (scale^2 Z'Z) V'`, [k, k], for V in float64."""
        P = (V @ cast(self.rows, "float64").T) * self.scale
        return P @ P.T

    def diagonal(self) -> Array:
        """Return the diagonal of `scale^2 Z'Z`, float64 [d]."""
        xp = namespace(self.Z)
        return xp.sum(cast(self.rows, "float64") ** 2, axis=0) * self.scale**2

    def _fitted(self) -> "Buffer":
        xp, d = namespace(self.Z), self.Z.shape[1]
        Z = xp.empty((self.room, d), dtype=self.Z.dtype, device=place(self.Z))
        Z[: self.used, :] = self.rows
        return self._replace(Z=Z)

    def _shrunk(self, mass: float, fresh: bool) -> "Buffer":
        B, delta = self.flushed(mass)
        shape = (self.room, B.shape[1])
        Z = self.Z if fresh else namespace(B).empty(shape, dtype=B.dtype, device=place(B))
        Z[: B.shape[0], :] = B
        return self._replace(Z=Z, used=B.shape[0], delta=delta, scale=1.0)


def empty_buffer(like: Array, dtype: str, size: int, extra: int, alpha: float) -> Buffer:
    """Return a buffer without rows, beside the rows `like` [N, d]."""
    return Buffer(clone(cast(like[:0, :], dtype)), 0, size, extra, dtype, alpha=alpha)
