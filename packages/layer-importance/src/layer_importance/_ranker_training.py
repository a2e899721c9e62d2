"""Learning a ranker from models whose damages are known, and trying it on models held out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layer_importance._ranker import PLACES, Array, Held, Ranker, agreement, centred, features
from layer_importance._validity import FEWEST, Values

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedModel:
    """One model: what cheap methods say of its units, and what these are worth.

    Attributes:
        model: what it is called.
        family: models alike, which are held out together.
        order: names of units, in order of execution.
        scores: values by unit, of each method that claims a direction.
        shares: parameters of each unit.
        damage: of leaving each unit out, best measured on other data.
    """

    model: str
    family: str
    order: tuple[str, ...]
    scores: Mapping[str, Values]
    shares: Values
    damage: Values


def train_ranker(
    examples: Sequence[RankedModel], record: Mapping[str, Any] | None = None
) -> Ranker:
    """Returns a ranker learned from all examples, with what came out for models held out.

    Minimised is ``sum_models mean_units (y - X c)^2 + penalty * models * |c|^2`` with ranks ``X``
    of scores and ``y`` of damages in each model. The penalty is the one under which models left out
    one at a time are ranked best. For the figures one model, and then one family, is held out, and
    all is done anew without it, the choice of the penalty too; beside stands the single method
    whose mean over all of these models is highest, which favours the method.

    Raises:
        ValueError: if there are fewer than three models or two families, or one has no units with
            a damage.

    Source: Hoerl and Kennard (1970); Wolpert, Stacked generalization (1992).
    """
    _check(examples)
    methods = _methods(examples)
    tables = [_Table.of(one, methods) for one in examples]
    penalty = _penalty(tables)
    found = dict(zip([*methods, *PLACES], _fit(tables, penalty).tolist(), strict=True))
    held = {
        "one model held out": _held(examples, lambda one: one.model),
        "one family held out": _held(examples, lambda one: one.family),
    }
    return Ranker(coefficients=found, penalty=penalty, held=held, record=record or {})


@dataclass(frozen=True, slots=True)
class _Table:
    """Ranks of the units with a damage, of one model, and their mean products."""

    rows: Array
    values: Array
    gram: Array
    moment: Array

    @classmethod
    def of(cls, one: RankedModel, methods: Sequence[str]) -> "_Table":
        places = [i for i, name in enumerate(one.order) if name in one.damage]
        values = centred([one.damage[one.order[i]] for i in places])
        rows = features(one.order, one.scores, one.shares, methods)[places]
        return cls(rows, values, rows.T @ rows / len(rows), rows.T @ values / len(rows))

    def agreement(self, coefficients: Array) -> float:
        """Rank correlation of the estimates with the damages; 0 where one side is constant."""
        estimates = centred(self.rows @ coefficients)
        size = math.sqrt(float(estimates @ estimates) * float(self.values @ self.values))
        return float(estimates @ self.values) / size if size > 0 else 0.0


def _fit(tables: Sequence[_Table], penalty: float) -> Array:
    gram = sum((table.gram for table in tables), penalty * len(tables) * np.eye(_width(tables)))
    moment = sum((table.moment for table in tables), np.zeros(_width(tables)))
    return np.asarray(np.linalg.solve(gram, moment), dtype=np.float64)


def _width(tables: Sequence[_Table]) -> int:
    return len(tables[0].moment)


def _penalty(tables: Sequence[_Table]) -> float:
    """The one under which models left out are ranked best; the larger of two alike."""

    def worth(penalty: float) -> float:
        rest = ([t for t in tables if t is not table] for table in tables)
        fits = (_fit(others, penalty) for others in rest if others)
        return sum(t.agreement(c) for t, c in zip(tables, fits, strict=False))

    return max(reversed(PENALTIES), key=worth)


def held_out(examples: Sequence[RankedModel], group: Callable[[RankedModel], str]) -> list[float]:
    """Returns the agreement with each example of a ranker learned without its group."""
    methods = _methods(examples)
    tables = [_Table.of(one, methods) for one in examples]
    found = []
    for one, table in zip(examples, tables, strict=True):
        rest = [t for t, e in zip(tables, examples, strict=True) if group(e) != group(one)]
        found.append(table.agreement(_fit(rest, _penalty(rest))))
    return found


def _held(examples: Sequence[RankedModel], group: Callable[[RankedModel], str]) -> Held:
    found = held_out(examples, group)
    method, alone = best_single(examples)
    gains = np.array(found) - np.array(alone)
    return Held(
        ranker=float(np.mean(found)),
        best=float(np.mean(alone)),
        method=method,
        advantage=float(gains.mean()),
        standard_error=float(gains.std(ddof=1) / len(gains) ** 0.5),
    )


def _methods(examples: Sequence[RankedModel]) -> list[str]:
    return list(dict.fromkeys(name for one in examples for name in one.scores))


def best_single(examples: Sequence[RankedModel]) -> tuple[str, list[float]]:
    """Returns the method of highest mean agreement, and its agreement with each model.

    Of those that score units in every model.
    """
    everywhere = [n for n in examples[0].scores if all(n in one.scores for one in examples)]
    found = {n: [agreement(one.scores[n], one.damage) for one in examples] for n in everywhere}
    best = max(found, key=lambda name: float(np.mean(found[name])))
    return best, found[best]


def _check(examples: Sequence[RankedModel]) -> None:
    names = {one.model for one in examples}
    if len(names) < 3 or len(names) != len(examples):
        raise ValueError(f"examples must be at least 3 different models, got {sorted(names)}")
    if len(families := {one.family for one in examples}) < 2:
        raise ValueError(f"examples must be of at least 2 families, got {sorted(families)}")
    for one in examples:
        known = sum(name in one.damage for name in one.order)
        if known < FEWEST:
            raise ValueError(f"{one.model} must have at least {FEWEST} damages, got {known}")
    if not [n for n in examples[0].scores if all(n in one.scores for one in examples)]:
        raise ValueError("examples must have at least one method in common")
