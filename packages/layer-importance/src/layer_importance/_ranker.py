"""A ranking of units learned from other models: the ranks of cheap scores, weighed by a ridge."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from layer_importance._atomic import write_atomically
from layer_importance._validity import FEWEST, Values, spearman

Array = NDArray[np.float64]
SCHEMA = 1
PLACES = ("depth", "parameters")
"""What is known of a unit without any score: its place, and its share of the parameters."""
_SHIPPED = Path(__file__).with_name("learned_ranker.json")
_PULLS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How a ranker did on models it had not seen, beside the best single method.

    Attributes:
        ranker: mean rank correlation with the damage over the models held out.
        best: that of the single method whose mean over the same models is highest.
        method: which one that is.
        advantage: mean of the differences, model by model.
        standard_error: of ``advantage``.
    """

    ranker: float
    best: float
    method: str
    advantage: float
    standard_error: float

    @property
    def wins(self) -> bool:
        """Whether the ranker is better by more than its standard error."""
        return self.advantage > self.standard_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranker:
    """Coefficients of ranks, and what speaks for them.

    The estimate for a unit is ``1/2 + sum_m c_m (r_m - 1/2)``, with ``r_m`` its rank by method
    ``m`` among the units of the model, 0 to 1, and likewise by place (``depth``) and by share of
    the parameters. A method that scores nothing counts as undecided, ``r = 1/2``.

    Attributes:
        coefficients: by method, and for ``depth`` and ``parameters``.
        penalty: of the ridge that they were found with.
        held: what came out for models held out, by the way of holding out.
        record: how the coefficients came about: command, models, versions.
    """

    coefficients: Mapping[str, float]
    penalty: float
    held: Mapping[str, Held] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """The methods whose scores it reads."""
        return [name for name in self.coefficients if name not in PLACES]

    @property
    def refusal(self) -> str:
        """Why it is switched off; empty if it beat every single method on models held out."""
        if not self.held:
            return "the learned ranker is switched off: it was not tried on models held out"
        for way, one in self.held.items():
            if not one.wins:
                return (
                    f"the learned ranker is switched off: {way}, it does not beat the best single "
                    f"method, {one.ranker:.3f} against {one.best:.3f} of {one.method}, "
                    f"{one.advantage:+.3f} ± {one.standard_error:.3f}"
                )
        return ""

    def knows(self, scores: Mapping[str, Values]) -> bool:
        """Whether at least half of the methods that it reads have scores."""
        return 2 * sum(name in scores for name in self.methods) >= len(self.methods)

    def estimate(
        self, order: Sequence[str], scores: Mapping[str, Values], shares: Values
    ) -> dict[str, float]:
        """Returns the estimate for every unit, more is more important.

        Args:
            order: names of units, in order of execution.
            scores: values by unit, of each method.
            shares: parameters of each unit, in any unit of measure.
        """
        rows = features(order, scores, shares, self.methods)
        found = 0.5 + rows @ np.array([self.coefficients[n] for n in [*self.methods, *PLACES]])
        return dict(zip(order, found.tolist(), strict=True))

    def refitted(
        self, order: Sequence[str], scores: Mapping[str, Values], shares: Values, damage: Values
    ) -> "Ranker":
        """Returns a ranker drawn towards damages that were measured on the model at hand.

        ``c' = c + (X^T X + k I)^-1 X^T (y - X c)`` with the ranks ``X`` and ``y`` of the measured
        units; ``k``, or that nothing changes, is chosen by leaving out one unit at a time. With
        fewer than five measured units nothing changes.
        """
        names = [name for name in order if name in damage]
        if len(names) < FEWEST:
            return self
        places = [list(order).index(name) for name in names]
        rows = features(order, scores, shares, self.methods)[places]
        keys = [*self.methods, *PLACES]
        start = np.array([self.coefficients[key] for key in keys])
        left = centred([damage[name] for name in names]) - rows @ start
        pulls = {math.inf: float(np.square(left).sum())}
        pulls |= {pull: float(np.square(_left_out(rows, left, pull)).sum()) for pull in _PULLS}
        pull = min(pulls, key=lambda one: pulls[one])
        step = np.zeros(len(keys)) if math.isinf(pull) else _ridge(rows, pull) @ left
        found = dict(zip(keys, (start + step).tolist(), strict=True))
        return replace(self, coefficients=found)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, with the number of its schema."""
        return {
            "schema": SCHEMA,
            "penalty": self.penalty,
            "coefficients": dict(self.coefficients),
            "held_out": {
                way: {name: getattr(one, name) for name in Held.__slots__}
                for way, one in self.held.items()
            },
            "record": dict(self.record),
        }

    def save(self, path: str | Path) -> None:
        """Writes it as JSON, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_atomically(Path(path), f"{text}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> "Ranker":
        """Returns the ranker in a file.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: naming file and field, if it holds something else.
        """
        path = Path(path)
        try:
            return cls._from(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} holds no ranker, a field is missing or wrong: {error}"
            ) from error

    @classmethod
    def _from(cls, fields: Mapping[str, Any]) -> "Ranker":
        if fields["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, got {fields['schema']!r}")
        coefficients = {name: float(value) for name, value in fields["coefficients"].items()}
        if missing := [name for name in PLACES if name not in coefficients]:
            raise ValueError(f"coefficients must hold {', '.join(missing)}")
        if not all(map(math.isfinite, coefficients.values())):
            raise ValueError(f"coefficients must be finite, got {coefficients}")
        return cls(
            coefficients=coefficients,
            penalty=float(fields["penalty"]),
            held={way: Held(**one) for way, one in fields["held_out"].items()},
            record=dict(fields["record"]),
        )


@cache
def shipped() -> Ranker:
    """Returns the ranker that comes with the package."""
    return Ranker.load(_SHIPPED)


def left_out(
    ranker: Ranker,
    order: Sequence[str],
    scores: Mapping[str, Values],
    shares: Values,
    damage: Values,
) -> dict[str, float]:
    """Returns the estimate for every measured unit, drawn by the measurements of the others."""
    found: dict[str, float] = {}
    for name in damage:
        rest = {other: value for other, value in damage.items() if other != name}
        drawn = ranker.refitted(order, scores, shares, rest)
        found |= {n: v for n, v in drawn.estimate(order, scores, shares).items() if n == name}
    return found


def features(
    order: Sequence[str], scores: Mapping[str, Values], shares: Values, methods: Sequence[str]
) -> Array:
    """Returns ranks in -1/2..1/2, ``[units, methods + 2]``; 0 where a method has no score."""
    place = {name: float(index) for index, name in enumerate(order)}
    columns = [scores.get(name, {}) for name in methods] + [place, shares]
    return np.stack([_ranks(order, column) for column in columns], 1)


def _ranks(order: Sequence[str], values: Values) -> Array:
    known = [i for i, name in enumerate(order) if math.isfinite(values.get(name, math.nan))]
    found = np.zeros(len(order))
    found[known] = centred([values[order[i]] for i in known])
    return found


def centred(values: Sequence[float] | Array) -> Array:
    """Returns ranks, ties shared, from -1/2 for the least to 1/2."""
    if len(values) < 2:
        return np.zeros(len(values))
    return np.asarray((stats.rankdata(values) - 1) / (len(values) - 1) - 0.5, dtype=np.float64)


def agreement(estimates: Values, damage: Values) -> float:
    """Returns the rank correlation over the units of both; 0 where one side is constant."""
    names = [name for name in damage if name in estimates]
    found = spearman([estimates[n] for n in names], [damage[n] for n in names])
    return found if math.isfinite(found) else 0.0


def _ridge(rows: Array, penalty: float) -> Array:
    """``(X^T X + k I)^-1 X^T``."""
    gram = rows.T @ rows + penalty * np.eye(rows.shape[1])
    return np.asarray(np.linalg.solve(gram, rows.T), dtype=np.float64)


def _left_out(rows: Array, values: Array, penalty: float) -> Array:
    """What a ridge fitted without a row leaves of it, for every row (Allen's PRESS)."""
    hat = rows @ _ridge(rows, penalty)
    return np.asarray((values - hat @ values) / (1 - np.diag(hat)), dtype=np.float64)
