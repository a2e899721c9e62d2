"""What a set of units may cost, guessed from the sets that were tried."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)


class Surrogate:
    """Damage of a set as effects of its members, their pairs and triples; a Gaussian process.

    With ``|R ∩ S| = m`` the kernel is ``m + r² C(m, 2) + r⁴ C(m, 3)``: independent effects of
    members, pairs and triples, each order ``r`` times as strong as the one before, which is chosen
    by the likelihood of what was seen. Members and pairs may have a common mean beside.

    Args:
        members: who can be in a set.
        seen: damages of the sets that were tried, by set.
    """

    def __init__(self, members: Sequence[str], seen: Mapping[frozenset[str], float]) -> None:
        self._place = {name: i for i, name in enumerate(members)}
        sets = [names for names, damage in seen.items() if math.isfinite(damage)]
        self._rows = self._indicators(sets)
        values = np.array([seen[names] for names in sets], dtype=np.float64)
        self._scale = float(np.sqrt(np.mean(np.square(values)))) if len(values) else 1.0
        self._scale = self._scale or 1.0
        self._values = values / self._scale
        self._strength = max(_STRENGTHS, key=self._likelihood) if len(sets) else 1.0
        if len(sets):
            kernel = self._kernel(self._rows, self._rows, self._strength)
            self._factor = _factor(kernel)
            self._weights = self._solve(self._factor, self._values)

    def predict(self, sets: Sequence[frozenset[str]]) -> tuple[Array, Array]:
        """Returns the expected damage of each set and its standard deviation."""
        rows = self._indicators(sets)
        own = self._diagonal(rows)
        if not len(self._values):
            return np.zeros(len(sets)), np.sqrt(own)
        cross = self._kernel(rows, self._rows, self._strength)
        inner = np.linalg.solve(self._factor, cross.T)
        variance = np.clip(own - np.square(inner).sum(0), 0, None)
        return cross @ self._weights * self._scale, np.sqrt(variance) * self._scale * self._spread

    @property
    def _spread(self) -> float:
        """Scale of the effects, from how well they explain what was seen."""
        return float(np.sqrt(self._values @ self._weights / len(self._values)))

    def _indicators(self, sets: Sequence[frozenset[str]]) -> Array:
        rows = np.zeros((len(sets), len(self._place)))
        for row, names in zip(rows, sets, strict=True):
            row[[self._place[name] for name in names]] = 1
        return rows

    def _kernel(self, a: Array, b: Array, strength: float) -> Array:
        own = _effects(a @ b.T, strength)
        sizes = a.sum(1)[:, None], b.sum(1)[None, :]
        pairs = [size * (size - 1) / 2 for size in sizes]
        common = sizes[0] * sizes[1] + strength**2 * pairs[0] * pairs[1]
        return np.asarray(own + common)

    def _diagonal(self, rows: Array) -> Array:
        sizes = rows.sum(1)
        pairs = sizes * (sizes - 1) / 2
        common = np.square(sizes) + self._strength**2 * np.square(pairs)
        return np.asarray(_effects(sizes, self._strength) + common)

    def _likelihood(self, strength: float) -> float:
        """Of what was seen, with the best scale."""
        kernel = self._kernel(self._rows, self._rows, strength)
        factor = _factor(kernel)
        weights = self._solve(factor, self._values)
        count = len(kernel)
        fit = math.log(max(float(self._values @ weights) / count, 1e-300))
        return -0.5 * count * fit - float(np.log(np.diag(factor)).sum())

    @staticmethod
    def _solve(factor: Array, values: Array) -> Array:
        return np.asarray(np.linalg.solve(factor.T, np.linalg.solve(factor, values)))


def _factor(kernel: Array) -> Array:
    return np.asarray(np.linalg.cholesky(kernel + 1e-6 * np.eye(len(kernel))), dtype=np.float64)


def _effects(shared: Array, strength: float) -> Array:
    pairs = shared * (shared - 1) / 2
    triples = pairs * (shared - 2) / 3
    return np.asarray(shared + strength**2 * pairs + strength**4 * triples)
