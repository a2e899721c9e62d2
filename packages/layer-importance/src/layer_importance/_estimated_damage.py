"""The damage of every unit, as far as measurement and consensus together tell."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import brentq

from layer_importance._consensus import Consensus
from layer_importance._scores import MethodScores
from layer_importance._validity import DAMAGE, FEWEST, finite_or_zero


def estimated_damage(methods: Mapping[str, MethodScores], found: Consensus) -> dict[str, float]:
    """Returns the damage of every unit, as far as measurement and consensus together tell.

    The consensus predicts damage by a line through the measured units; each measurement ``D_b`` is
    drawn towards its prediction ``p_b`` by how unsure it is,
    ``(D_b / e_b² + p_b / t²) / (1 / e_b² + 1 / t²)``, with its standard error ``e_b`` and the
    prediction's own error ``t``. The line has weights ``1 / (e_b² + t²)``, and ``t`` is where
    ``sum_b (D_b - p_b)² / (e_b² + t²)`` is the number of units less two, so that what is measured
    badly says little about either. Units whose damage is not measured have the prediction; without
    any measured damage, the scores of the consensus are handed on.

    Source: Fay and Herriot, JASA 1979.
    """
    if DAMAGE not in methods:
        return dict(found.scores)
    measured = {n: s for n, s in methods[DAMAGE].items() if math.isfinite(s.value)}
    both = [n for n in measured if n in found.scores]
    if len(both) < FEWEST:
        return {n: s.value for n, s in measured.items()}
    x, y = (np.array([f(n) for n in both]) for f in (found.scores.get, lambda n: measured[n].value))
    errors = np.array([finite_or_zero(measured[n].standard_error) for n in both])
    own = _own_variance(x, y, np.square(errors))
    slope, intercept = _line(x, y, 1 / (np.square(errors) + own))
    result = {n: intercept + slope * score for n, score in found.scores.items()}
    for name, one in measured.items():
        noise = finite_or_zero(one.standard_error) ** 2
        if name not in result or noise == 0:
            result[name] = one.value
        else:
            result[name] = (one.value * own + result[name] * noise) / (own + noise)
    return result


def _own_variance(x: Any, y: Any, noise: Any) -> float:
    """What damages scatter around the line beyond their errors; never quite 0."""
    total = float(np.square(y - y.mean()).sum())
    least = max(1e-9 * total, 1e-300)

    def excess(own: float) -> float:
        weights = 1 / (noise + own)
        slope, intercept = _line(x, y, weights)
        return float(weights @ np.square(y - intercept - slope * x)) - (len(y) - 2)

    # falls with the variance, and is below 0 where each term is below 1 / len(y)
    if excess(least) <= 0:
        return least
    return float(brentq(excess, least, least + len(y) * total))


def _line(x: Any, y: Any, weights: Any) -> tuple[float, float]:
    """Slope, never downwards, and intercept of the weighted least squares line."""
    weights = weights / weights.sum()
    left, below = x - weights @ x, y - weights @ y
    spread = float(weights @ np.square(left))
    slope = max(float(weights @ (left * below)) / spread, 0.0) if spread > 0 else 0.0
    return slope, float(weights @ y - slope * (weights @ x))
