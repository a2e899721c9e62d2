"""How far scores can be trusted: against measured damage, against depth, against themselves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import stats

from layer_importance._scores import MethodScores

DAMAGE = "layer_ablation"
"""The method whose scores are the damage that others are held against."""
FEWEST = 5
"""Units below which a rank correlation says nothing."""
Values = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodValidity:
    """How well one method ranks units.

    Attributes:
        spearman: rank correlation with the damage of leaving one out; NaN where it is not measured
            for enough units.
        partial: the same with what position in the model explains taken out of both.
        reliability: rank correlation of the scores of two halves of the data, stepped up to all of
            it (Spearman and Brown); NaN where there are no halves.
        units: how many units ``spearman`` rests on.
    """

    spearman: float = math.nan
    partial: float = math.nan
    reliability: float = math.nan
    units: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """Returns plain numbers for JSON (NaN as null)."""
        named = {name: getattr(self, name) for name in ("spearman", "partial", "reliability")}
        plain = {name: v if math.isfinite(v) else None for name, v in named.items()}
        return {**plain, "units": self.units}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "MethodValidity":
        """Returns what :meth:`to_dict` was taken of."""
        named = ("spearman", "partial", "reliability")
        known = {name: math.nan if (v := fields[name]) is None else v for name in named}
        return cls(**known, units=int(fields["units"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Every method held against damage, with what bounds it from below and above.

    Attributes:
        methods: by method.
        depth: what position alone achieves: that the last unit matters least. A method that does no
            better knows nothing but depth.
        ceiling: reliability of the damage itself: what another measurement of it on as much data
            would achieve; NaN where it has no halves.
        measured: how many units' damage is measured.
    """

    methods: Mapping[str, MethodValidity] = field(default_factory=dict)
    depth: MethodValidity = MethodValidity()
    ceiling: float = math.nan
    measured: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON (NaN as null)."""
        return {
            "methods": {name: found.to_dict() for name, found in self.methods.items()},
            "depth": self.depth.to_dict(),
            "ceiling": None if math.isnan(self.ceiling) else self.ceiling,
            "measured": self.measured,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Validity":
        """Returns what :meth:`to_dict` was taken of."""
        ceiling = fields["ceiling"]
        return cls(
            methods={
                name: MethodValidity.from_dict(found) for name, found in fields["methods"].items()
            },
            depth=MethodValidity.from_dict(fields["depth"]),
            ceiling=math.nan if ceiling is None else ceiling,
            measured=fields["measured"],
        )


def validity(
    methods: Mapping[str, MethodScores],
    order: Sequence[str],
    halves: Mapping[str, tuple[Values, Values]] = MappingProxyType({}),
) -> Validity:
    """Returns how well methods rank units, held against ``layer_ablation`` where that ran.

    Args:
        methods: scores by method.
        order: names of all units, in order of execution.
        halves: scores on two halves of the data, by method; where there are none, the columns
            ``even`` and ``odd`` among a method's extras.

    Example:
        >>> from layer_importance import MethodScores, Score
        >>> def scores(name, values):
        ...     each = {str(i): Score(v) for i, v in enumerate(values)}
        ...     return MethodScores(method=name, measure="1", direction="importance", scores=each)
        >>> found = validity({"layer_ablation": scores("layer_ablation", [5, 1, 4, 2, 3]),
        ...                   "other": scores("other", [50, 10, 40, 20, 30])}, list("01234"))
        >>> round(found.methods["other"].spearman, 6), round(found.depth.spearman, 6)
        (1.0, 0.3)
    """
    damage = values_of(methods[DAMAGE]) if DAMAGE in methods else {}
    place = {name: index for index, name in enumerate(order)}
    depth = {name: float(-index) for name, index in place.items()}
    found = {
        name: against(values_of(scores), damage, place, halves.get(name, halves_of(scores)))
        for name, scores in methods.items()
    }
    ceiling = found[DAMAGE].reliability if DAMAGE in found else math.nan
    return Validity(
        methods={name: one for name, one in found.items() if name != DAMAGE},
        depth=against(depth, damage, place),
        ceiling=ceiling,
        measured=len(damage),
    )


def against(
    values: Values,
    damage: Values,
    place: Mapping[str, int],
    halves: tuple[Values, Values] | None = None,
) -> MethodValidity:
    """Returns how well ``values`` rank the units whose ``damage`` is known."""
    names = [name for name in damage if name in values and name in place]
    reliability = math.nan if halves is None else split_half(*halves)
    if len(names) < FEWEST:
        return MethodValidity(reliability=reliability, units=len(names))
    score, truth = ([source[n] for n in names] for source in (values, damage))
    return MethodValidity(
        spearman=spearman(score, truth),
        partial=partial_spearman(score, truth, [place[n] for n in names]),
        reliability=reliability,
        units=len(names),
    )


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the rank correlation; NaN where one side is constant or there is one pair."""
    return _pearson(stats.rankdata(a), stats.rankdata(b))


def partial_spearman(a: Sequence[float], b: Sequence[float], given: Sequence[float]) -> float:
    """Returns the rank correlation of what a third ranking does not explain of either.

    ``(r_ab - r_ac r_bc) / sqrt((1 - r_ac²)(1 - r_bc²))``; 0 where ``a`` is nothing but the third,
    NaN where ``b`` is.
    """
    ab, ac, bc = spearman(a, b), spearman(a, given), spearman(b, given)
    if any(map(math.isnan, (ab, ac, bc))) or 1 - bc**2 < 1e-12:
        return math.nan
    if 1 - ac**2 < 1e-12:
        return 0.0
    return (ab - ac * bc) / math.sqrt((1 - ac**2) * (1 - bc**2))


def split_half(first: Values, second: Values) -> float:
    """Returns the reliability of scores from those of both halves: ``2 r / (1 + r)``.

    A negative ``r`` is handed on as it is: halves that contradict each other add up to nothing.

    Source: Spearman (1910); Brown (1910).
    """
    names = [name for name in first if name in second]
    if len(names) < FEWEST:
        return math.nan
    r = spearman([first[n] for n in names], [second[n] for n in names])
    return 2 * r / (1 + r) if r > 0 else r


def values_of(scores: MethodScores) -> dict[str, float]:
    """Returns the finite values of a method by unit."""
    return {n: s.value for n, s in scores.items() if math.isfinite(s.value)}


def halves_of(scores: MethodScores) -> tuple[Values, Values] | None:
    """Returns a method's scores on two halves of the data; ``None`` if it has none."""
    if not {"even", "odd"} <= set(scores.extras):
        return None
    even, odd = ({n: v for n, v in scores.extras[k].items() if v == v} for k in ("even", "odd"))
    return even, odd


def _pearson(a: Any, b: Any) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def finite_or_zero(value: float) -> float:
    """Returns a value, 0 for one that is not finite."""
    return value if math.isfinite(value) else 0.0
