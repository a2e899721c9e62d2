"""One ranking of many: methods weighted by how far they can be trusted, or the best alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from scipy import stats

from layer_importance._ranker import Ranker, left_out
from layer_importance._scores import MethodScores
from layer_importance._validity import (
    DAMAGE,
    FEWEST,
    MethodValidity,
    Values,
    against,
    finite_or_zero,
    values_of,
)

PREFERRED = (
    "skip_attribution",
    "layer_correlation",
    "neuron_activation",
    "attribution_patching",
    "block_influence",
    "gradient_flow",
    "snip",
    "fisher_information",
    "empirical_fisher",
    "gradient_based",
    "shapley",
)
"""Methods in the order in which they are taken where no damage is measured.

On nets with redundancy planted at random depths, the mean absolute skip attribution ranked units
best among all that one sweep gives, similarity of input and output and the relative size of a
unit's branch came next, and gradients of parameters in any form last.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """One score a unit.

    Attributes:
        scores: more is more important; in units of ranks, 0 to 1, or those of the one method.
        weights: what each method counts; they sum to 1.
        validity: of the scores themselves, each unit judged with weights that the others gave;
            NaN where no damage is measured.
        why: how the weights came about.
    """

    scores: Mapping[str, float]
    weights: Mapping[str, float]
    validity: MethodValidity = field(default_factory=MethodValidity)
    why: str = ""

    @property
    def ranking(self) -> list[str]:
        """Names, least important first."""
        return sorted(self.scores, key=lambda name: self.scores[name])

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON (NaN as null)."""
        return {
            "scores": dict(self.scores),
            "weights": dict(self.weights),
            "validity": self.validity.to_dict(),
            "why": self.why,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Consensus":
        """Returns what :meth:`to_dict` was taken of."""
        rest = {key: fields[key] for key in ("scores", "weights", "why")}
        return cls(**rest, validity=MethodValidity.from_dict(fields["validity"]))


def consensus(
    methods: Mapping[str, MethodScores],
    order: Sequence[str],
    reliability: Mapping[str, float] = MappingProxyType({}),
    *,
    shares: Values = MappingProxyType({}),
    ranker: Ranker | None = None,
) -> Consensus:
    """Returns one score a unit from those of many methods.

    Where the damage of leaving one out is measured for at least five units, every method that
    claims a direction is weighted by ``reliability x max(partial, 0)``: the rank correlation of two
    halves of the data, and that with the damage given depth. A method whose reliability is not
    known counts with the lowest that is. The weighted mean of ranks is taken if it ranks better
    than the best single method, each unit judged by the weights, or the best method, that the
    others gave; else that method alone. A plain mean of ranks is never taken: it is worse than its
    best member. Without measured damage the first of :data:`PREFERRED` that ran is taken, alone.

    Args:
        methods: scores by method.
        order: names of all units, in order of execution.
        reliability: by method.
        shares: parameters of each unit, for the ranker.
        ranker: what other models taught.

    Raises:
        ValueError: if no method that claims a direction scored any unit.
    """
    cheap = {
        name: scores
        for name, scores in methods.items()
        if name != DAMAGE and scores.direction == "importance" and values_of(scores)
    }
    damage = values_of(methods[DAMAGE]) if DAMAGE in methods else {}
    if not cheap:
        if damage:
            return Consensus(scores=damage, weights={DAMAGE: 1.0}, why="only damage was measured")
        raise ValueError("methods must hold scores with a direction, got none")
    values = {name: values_of(scores) for name, scores in cheap.items()}
    taught = None if ranker is None or ranker.refusal or not ranker.knows(values) else ranker
    if len(damage) < FEWEST:
        if taught is not None:
            return _learned(taught.estimate(order, values, shares), len(damage))
        return _preferred(cheap, len(damage))
    found = _weighted(cheap, damage, order, _reliabilities(cheap, reliability))
    if taught is None:
        return found
    return _more(taught, found, order, values, shares, damage)


def _learned(scores: Values, measured: int) -> Consensus:
    why = (
        f"the learned ranker: the damage of {measured} units is measured, weights need {FEWEST}; "
        "it is first by what is known of other models"
    )
    return Consensus(scores=scores, weights={"learned_ranker": 1.0}, why=why)


def _more(
    ranker: Ranker,
    found: Consensus,
    order: Sequence[str],
    values: Mapping[str, Values],
    shares: Values,
    damage: Values,
) -> Consensus:
    """What the ranker says where that agrees more with the damage; else what was found."""
    place = {name: index for index, name in enumerate(order)}
    held = against(left_out(ranker, order, values, shares, damage), damage, place)
    if not finite_or_zero(held.spearman) > finite_or_zero(found.validity.spearman):
        return found
    why = (
        f"the learned ranker, drawn to {len(damage)} measured units: more agreement, "
        f"{held.spearman:.2f} against {finite_or_zero(found.validity.spearman):.2f}, each unit "
        "judged by the others"
    )
    scores = ranker.refitted(order, values, shares, damage).estimate(order, values, shares)
    return Consensus(scores=scores, weights={"learned_ranker": 1.0}, validity=held, why=why)


def _preferred(cheap: Mapping[str, MethodScores], measured: int) -> Consensus:
    best = next((name for name in PREFERRED if name in cheap), next(iter(cheap)))
    why = (
        f"{best} alone: the damage of {measured} units is measured, weights need {FEWEST}; it is "
        "first by what is known of other models"
    )
    return Consensus(scores=values_of(cheap[best]), weights={best: 1.0}, why=why)


def _weighted(
    cheap: Mapping[str, MethodScores],
    damage: Values,
    order: Sequence[str],
    reliability: Mapping[str, float],
) -> Consensus:
    place = {name: index for index, name in enumerate(order)}
    values = {name: values_of(scores) for name, scores in cheap.items()}
    weights = _weights(values, reliability, damage, place)
    best = _best(values, damage, place)
    if not weights:
        why = f"{best} alone: no method agrees with the measured damage beyond depth"
        return _single(best, values, against(values[best], damage, place), why)
    mean: dict[str, float] = {}
    single: dict[str, float] = {}
    for left in damage:
        rest = {name: value for name, value in damage.items() if name != left}
        mean |= _of(left, values, _weights(values, reliability, rest, place) or weights)
        single |= _of(left, values, {_best(values, rest, place): 1.0})
    held, alone = against(mean, damage, place), against(single, damage, place)
    told = f"{held.spearman:.2f} against {alone.spearman:.2f}, each unit judged by the others"
    if finite_or_zero(held.spearman) < finite_or_zero(alone.spearman):
        why = f"{best} alone: the weighted mean of {len(weights)} methods agrees less, {told}"
        return _single(best, values, alone, why)
    why = f"ranks of {len(weights)} methods weighted: more agreement than {best} alone, {told}"
    return Consensus(scores=_combined(values, weights), weights=weights, validity=held, why=why)


def _of(unit: str, values: Mapping[str, Values], weights: Mapping[str, float]) -> dict[str, float]:
    """The combined score of one unit, if it has one."""
    found = _combined({name: values[name] for name in weights}, weights)
    return {unit: found[unit]} if unit in found else {}


def _best(values: Mapping[str, Values], damage: Values, place: Mapping[str, int]) -> str:
    """The method that agrees most with the damage."""
    return max(
        values, key=lambda name: finite_or_zero(against(values[name], damage, place).spearman)
    )


def _single(name: str, values: Mapping[str, Values], found: MethodValidity, why: str) -> Consensus:
    return Consensus(scores=values[name], weights={name: 1.0}, validity=found, why=why)


def _reliabilities(
    cheap: Mapping[str, MethodScores], known: Mapping[str, float]
) -> dict[str, float]:
    found = {n: known[n] for n in cheap if n in known and math.isfinite(known[n])}
    lowest = max(min(found.values(), default=1.0), 0.0)
    return {name: max(found.get(name, lowest), 0.0) for name in cheap}


def _weights(
    values: Mapping[str, Values],
    reliability: Mapping[str, float],
    damage: Values,
    place: Mapping[str, int],
) -> dict[str, float]:
    raw = {
        name: reliability[name] * max(finite_or_zero(against(one, damage, place).partial), 0.0)
        for name, one in values.items()
    }
    total = sum(raw.values())
    return {name: one / total for name, one in raw.items() if one > 0} if total > 0 else {}


def _combined(values: Mapping[str, Values], weights: Mapping[str, float]) -> dict[str, float]:
    """Weighted mean of ranks scaled to 0..1, over the methods that score a unit."""
    sums: dict[str, list[float]] = {}
    for method, weight in weights.items():
        names = list(values[method])
        ranks = stats.rankdata([values[method][n] for n in names])
        for name, rank in zip(names, (ranks - 1) / max(len(names) - 1, 1), strict=True):
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += weight * float(rank)
            total[1] += weight
    return {name: above / below for name, (above, below) in sums.items()}
