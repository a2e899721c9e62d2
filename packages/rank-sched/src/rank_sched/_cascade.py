"""Which of two operating points each input is worth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rank_sched._errors import BudgetError
from rank_sched._numbers import number, whole

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
_NEVER = -np.inf


@dataclass(frozen=True)
class CascadeRule:
    """Run one operating point, and a second one where the first was not confident enough.

    Attributes:
        first: Index of the operating point that every input runs at.
        second: Index of the one that inputs with `confidence < threshold` run at afterwards;
            the same as `first` where none does.
        threshold: The confidence below which an input goes on; minus infinity for none.
        cost: Mean cost of an input, both runs counted.
        quality: Mean quality of the answers.
    """

    first: int
    second: int
    threshold: float
    cost: float
    quality: float

    def escalates(self, confidence: ArrayLike) -> NDArray[np.bool_]:
        """Return which inputs go on to the second point, `[N]`.

        Not-a-number counts as unsure, infinity as sure, as where the threshold was found.

        >>> rule = CascadeRule(0, 1, threshold=0.5, cost=1.5, quality=0.9)
        >>> rule.escalates([0.9, 0.1, float("nan"), float("inf")])
        array([False,  True,  True, False])
        """
        values = np.asarray(confidence, dtype=np.float64)
        goes_on: NDArray[np.bool_] = ~(values >= self.threshold)
        return goes_on if self.first != self.second else np.zeros_like(goes_on)


class CascadeFrontier:
    """The rules no other rule beats, by rising cost and rising quality.

    Made by `cascade_frontier`. Has a length, can be indexed and iterated.
    """

    def __init__(self, rules: list[CascadeRule]) -> None:
        self._rules = rules
        self._costs = [rule.cost for rule in rules]

    def __len__(self) -> int:
        return len(self._rules)

    def __getitem__(self, i: int) -> CascadeRule:
        return self._rules[i]

    def __iter__(self) -> Iterator[CascadeRule]:
        return iter(self._rules)

    def at(self, budget: float) -> CascadeRule:
        """Return the rule of highest quality whose mean cost is at most `budget`.

        Raises:
            BudgetError: The budget is below the cheapest rule's cost.
        """
        budget = number("budget", budget)
        i = int(np.searchsorted(self._costs, budget, side="right")) - 1
        if i < 0:
            raise BudgetError(f"budget must be at least {self._costs[0]:g}, got {budget:g}")
        return self._rules[i]


def cascade_frontier(
    confidence: ArrayLike,
    quality: ArrayLike,
    costs: ArrayLike,
    *,
    steps: int = 64,
    lead: float = 0.0,
) -> CascadeFrontier:
    """Return the best rules of the form "run `first`; where it is unsure, run `second` as well".

    Every pair of operating points is tried with thresholds at `steps` quantiles of the first one's
    confidence. An input that goes on costs both runs, so a rule costs
    c_first + P(confidence < threshold)·c_second. Each operating point alone is among the rules:
    on the inputs given, the frontier is nowhere worse than the best fixed point of the same cost.
    (Cascades by confidence: Viola & Jones 2001; Wang et al. 2022, "Wisdom of Committees".)

    Many rules are tried on few inputs, so that the one that looks best often does by chance. With
    `lead`, a rule of two points is taken only where it is ahead of the single points by so many
    standard errors of the difference, input by input. Where none costs what the rule costs, the
    best lottery between two of them stands for it: right where more points lie in between, as on a
    frontier of ranks.

    Args:
        confidence: How sure operating point k is of its answer for input i, `[K, N]`; any scale.
            Not-a-number counts as unsure.
        quality: How good its answer is, `[K, N]`: 1 and 0 for right and wrong, or agreement with
            the full model, or minus a loss.
        costs: Cost of one input at each point, `[K]`, positive.
        steps: Number of thresholds tried for a pair.
        lead: Standard errors by which two points must lead one; 0 takes all rules.

    Raises:
        ValueError: Shapes that do not fit, no input, a quality or cost that is not finite, a cost
            that is not positive, or a negative `lead`.

    >>> sure = [[0.9, 0.2, 0.8, 0.1], [0.9, 0.9, 0.9, 0.9]]
    >>> right = [[1, 0, 1, 0], [1, 1, 1, 1]]  # the cheap point errs where it is unsure
    >>> rules = cascade_frontier(sure, right, [1.0, 4.0])
    >>> rules.at(3.0)
    CascadeRule(first=0, second=1, threshold=0.8, cost=3.0, quality=1.0)
    """
    table, good, price = _read(confidence, quality, costs)
    steps, lead = whole("steps", steps, at_least=1), number("lead", lead)
    if lead < 0:
        raise ValueError(f"lead must not be negative, got {lead}")
    rules = [
        CascadeRule(k, k, _NEVER, float(price[k]), float(good[k].mean())) for k in range(len(price))
    ]
    for first, second in permutations(range(len(price)), 2):
        rules += _pair(first, second, table[first], good, price, steps, lead)
    return CascadeFrontier(_undominated(rules))


def _pair(
    first: int,
    second: int,
    confidence: Floats,
    good: Floats,
    price: Floats,
    steps: int,
    lead: float,
) -> list[CascadeRule]:
    """Return the rules of one pair, at quantiles of the confidence, that lead the single points."""
    order = np.argsort(confidence, kind="stable")
    ranked, count = confidence[order], len(order)
    # a threshold lies at the first of equal values: all of them stay, or all go on
    starts = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
    if not len(starts):
        return []
    wanted = np.linspace(0, len(starts) - 1, min(steps, len(starts))).round().astype(int)
    gain = np.cumsum((good[second] - good[first])[order])
    base = good[first].mean()
    going = starts[wanted]
    costs = price[first] + going / count * price[second]
    if not lead:
        ahead = np.ones(len(going), dtype=bool)
    else:
        mean, error = _lead(
            good[first, order], good[second, order], good[:, order], price, going, costs
        )
        ahead = (mean > 0) & (mean >= lead * error)
    quality = base + gain[going - 1] / count
    return [
        CascadeRule(first, second, float(ranked[n]), float(cost), float(q))
        for n, cost, q in zip(going[ahead], costs[ahead], quality[ahead], strict=True)
    ]


def _lead(
    staying: Floats, going: Floats, good: Floats, price: Floats, counts: Counts, costs: Floats
) -> tuple[Floats, Floats]:
    """Return how far rules are ahead of single points at their cost, and its standard error.

    In each rule the first `counts` inputs go on. The rival is the upper concave hull of the single
    points: two of its corners `a` and `b`, with weight `w` on `b`.
    """
    hull = _hull(price, good.mean(1))
    at = np.clip(np.searchsorted(price[hull], costs, side="right") - 1, 0, len(hull) - 1)
    mean, square = np.empty(len(costs)), np.empty(len(costs))
    for corner in np.unique(at):
        here = at == corner
        a, b = good[hull[corner]], good[hull[min(corner + 1, len(hull) - 1)]]
        ends = price[hull[corner]], price[hull[min(corner + 1, len(hull) - 1)]]
        w = (costs[here] - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.0

        def of(f: Callable[[Floats], Floats], n: Counts = counts[here]) -> Floats:
            """Mean of `f` of a rule's quality."""
            gone, stayed = f(going), f(staying)
            total: Floats = stayed.sum() + np.cumsum(gone - stayed)[n - 1]
            return total / len(staying)

        mean[here] = of(lambda q: q) - (1 - w) * a.mean() - w * b.mean()
        rival = (
            (1 - w) ** 2 * (a * a).mean() + w**2 * (b * b).mean() + 2 * w * (1 - w) * (a * b).mean()
        )
        cross = (1 - w) * of(lambda q, a=a: q * a) + w * of(lambda q, b=b: q * b)  # type: ignore[misc]
        square[here] = of(lambda q: q * q) - 2 * cross + rival
    spread = np.maximum(square - mean**2, 0.0)
    return mean, np.sqrt(spread / max(len(staying) - 1, 1))


def _hull(price: Floats, quality: Floats) -> Counts:
    """Return the points on the upper concave hull, by rising cost and quality."""
    kept: list[int] = []
    for k in np.lexsort((-quality, price)).tolist():
        if kept and quality[k] <= quality[kept[-1]]:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1], price, quality) <= _slope(
            kept[-2], k, price, quality
        ):
            kept.pop()
        kept.append(k)
    return np.array(kept)


def _slope(a: int, b: int, price: Floats, quality: Floats) -> float:
    return float((quality[b] - quality[a]) / (price[b] - price[a]))


def _undominated(rules: list[CascadeRule]) -> list[CascadeRule]:
    """Return the rules by rising cost, each of higher quality than all before."""
    kept: list[CascadeRule] = []
    for rule in sorted(rules, key=lambda rule: (rule.cost, -rule.quality)):
        if not kept or rule.quality > kept[-1].quality:
            kept.append(rule)
    return kept


def _read(
    confidence: ArrayLike, quality: ArrayLike, costs: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    table = np.asarray(confidence, dtype=np.float64)
    good = np.asarray(quality, dtype=np.float64)
    price = np.asarray(costs, dtype=np.float64)
    if price.ndim != 1 or not price.size:
        raise ValueError(f"costs must have shape [K], got {list(price.shape)}")
    if not (np.isfinite(price).all() and (price > 0).all()):
        raise ValueError(f"costs must be positive and finite, got {price.tolist()}")
    for name, array in (("confidence", table), ("quality", good)):
        if array.ndim != 2 or array.shape[0] != len(price) or not array.shape[1]:
            raise ValueError(
                f"{name} must have shape [{len(price)}, N] with N > 0, got {list(array.shape)}"
            )
    if table.shape != good.shape:
        raise ValueError(
            f"quality must have the shape of confidence {list(table.shape)}, got {list(good.shape)}"
        )
    if not np.isfinite(good).all():
        raise ValueError("quality must be finite, got NaN or infinity")
    return np.nan_to_num(table, nan=_NEVER, posinf=np.inf, neginf=_NEVER), good, price
