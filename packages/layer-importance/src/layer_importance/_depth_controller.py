"""How deep to run so that answers are in time."""

import itertools
import math
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np


class DepthController:
    """Chooses the level of an elastic model from the seconds its answers took.

    What has to stay below ``target_s`` is a quantile of the latest ``window`` answers at the level
    in force. Above it, the level goes up, as far as the relative ``costs`` of levels say is needed;
    where even the median is above, a third of the window is enough to tell. Where the quantile at
    the next level down is predicted to stay below ``(1 - headroom) target_s``, the level goes down
    by one. After each change the window begins anew: answers of two levels are never mixed, and
    between the two limits nothing moves.

    Safe under threads. :attr:`ceiling` bounds the level from above, whatever the load.

    Args:
        levels: the deepest level.
        target_s: seconds that an answer may take.
        costs: time of an answer at levels ``0..levels``, relative to each other, falling; as if
            all units cost the same if not given.
        quantile: of the answers, that must be in time.
        window: how many answers it is taken of.
        headroom: share of the target that must be free before the level goes down.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> controller = DepthController(4, target_s=0.1, window=3)
        >>> controller.observe(0.16)  # levels cost 1, 0.8, 0.6, 0.4, 0.2 of the time
        2
        >>> [controller.observe(0.096) for _ in range(3)]
        [2, 2, 2]
        >>> [controller.observe(0.04) for _ in range(3)]
        [2, 2, 1]
    """

    def __init__(
        self,
        levels: int,
        target_s: float,
        *,
        costs: Sequence[float] | None = None,
        quantile: float = 0.95,
        window: int = 20,
        headroom: float = 0.15,
    ) -> None:
        if levels < 0:
            raise ValueError(f"levels must be at least 0, got {levels}")
        if not 0 < target_s < math.inf:
            raise ValueError(f"target_s must be positive and finite, got {target_s}")
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must be inside 0..1, got {quantile}")
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if not 0 <= headroom < 1:
            raise ValueError(f"headroom must be in 0..1, got {headroom}")
        self.target_s, self.quantile, self.headroom = target_s, quantile, headroom
        self._costs = _falling(costs, levels)
        self._latest: deque[float] = deque(maxlen=window)
        self._level, self._ceiling = 0, levels
        self._lock = threading.Lock()

    @property
    def level(self) -> int:
        """The level in force."""
        return self._level

    @property
    def ceiling(self) -> int:
        """The deepest level that may be used."""
        return self._ceiling

    def limit(self, ceiling: int) -> None:
        """Bounds the level from now on.

        Raises:
            ValueError: if there is no such level.
        """
        if not 0 <= ceiling < len(self._costs):
            raise ValueError(f"ceiling must be in 0..{len(self._costs) - 1}, got {ceiling}")
        with self._lock:
            self._ceiling = ceiling
            self._move(min(self._level, ceiling))

    def observe(self, latency_s: float, *, level: int | None = None) -> int:
        """Takes the seconds of one answer into account and returns the level of the next.

        Args:
            latency_s: what it took.
            level: at which it was made; an answer of another level than the one in force, begun
                before a change, tells nothing. The one in force if not given.

        Raises:
            ValueError: if it is negative or not finite.
        """
        if not 0 <= latency_s < math.inf:
            raise ValueError(f"latency_s must be finite and at least 0, got {latency_s}")
        with self._lock:
            if level is None or level == self._level:
                self._latest.append(latency_s)
                self._move(self._wanted())
            return self._level

    def _wanted(self) -> int:
        window = self._latest.maxlen or 1
        overloaded = 3 * len(self._latest) >= window and self._at(0.5) > self.target_s
        if len(self._latest) < window and not overloaded:
            return self._level
        high = max(self._at(self.quantile), self._at(0.5))
        if high > self.target_s:
            return self._deep_enough(high)
        below = self._level - 1
        if below >= 0 and self._predicted(high, below) <= (1 - self.headroom) * self.target_s:
            return below
        return self._level

    def _deep_enough(self, seconds: float) -> int:
        """The first deeper level that is predicted to be in time; the deepest if none is."""
        for level in range(self._level + 1, self._ceiling + 1):
            if self._predicted(seconds, level) <= self.target_s:
                return level
        return self._ceiling

    def _predicted(self, seconds: float, level: int) -> float:
        return seconds * self._costs[level] / self._costs[self._level]

    def _at(self, quantile: float) -> float:
        return float(np.quantile(np.fromiter(self._latest, dtype=np.float64), quantile))

    def _move(self, level: int) -> None:
        if level != self._level:
            self._level = level
            self._latest.clear()


def _falling(costs: Sequence[float] | None, levels: int) -> list[float]:
    if costs is None:
        return [1 - level / (levels + 1) for level in range(levels + 1)]
    found = [float(cost) for cost in costs]
    falls = all(a >= b > 0 for a, b in itertools.pairwise(found))
    if len(found) != levels + 1 or not falls or not 0 < found[0] < math.inf:
        raise ValueError(
            f"costs must be {levels + 1} positive numbers, each at most the one before, got {found}"
        )
    return found
