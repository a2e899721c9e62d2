"""Every operating point worth having, in one sorted list."""

import math
from collections.abc import Iterator
from operator import index

import numpy as np

from rank_sched._core import Core, build_core
from rank_sched._errors import BudgetError
from rank_sched._fill import fill
from rank_sched._layers import Floats, Ints
from rank_sched._numbers import number
from rank_sched._point import OperatingPoint
from rank_sched._steps import Steps


class Frontier:
    """The operating points no other point beats, by rising cost and falling loss.

    Point 0 takes the cheapest choice of each layer; point i takes the i steps of highest gain per
    cost. No allocation of the same cost or less has less loss than `frontier[i]`, since it
    minimises loss + λ·cost for the λ where step i ends (Everett 1963, "Generalized Lagrange
    multiplier method", Operations Research 11).

    Made by `frontier`. Has a length, can be indexed and iterated; points are made when asked for.

    Attributes:
        costs: Cost of each point, `[len(self)]`, rising.
        losses: Loss of each point, `[len(self)]`, falling.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._taken_keys = _taken_keys(steps)
        self._last_core: tuple[int, Core | None] = (-1, None)
        self.costs = _costs(steps)
        self.losses = _losses(steps)

    def __len__(self) -> int:
        return len(self.costs)

    def __getitem__(self, i: int) -> OperatingPoint:
        i = range(len(self))[index(i)]
        return self._point(self._choices(i), loss=self.losses[i], cost=self.costs[i])

    def __iter__(self) -> Iterator[OperatingPoint]:
        steps, ranks = self._steps, dict(self[0].ranks)
        members: dict[int, list[int]] = {}
        for name, group in enumerate(steps.group.tolist()):
            members.setdefault(group, []).append(name)
        yield self[0]
        for i, step in enumerate(steps.order.tolist(), start=1):
            rank, layer = int(steps.ranks[steps.stop[step]]), steps.layer[step]
            ranks = {**ranks, **{steps.names[i]: rank for i in members[layer]}}
            yield OperatingPoint(ranks, float(self.losses[i]), float(self.costs[i]))

    def __repr__(self) -> str:
        return (
            f"<Frontier of {len(self)} points, {len(self._steps.names)} layers, "
            f"cost {self.min_cost:g}..{self.max_cost:g}, "
            f"loss {self.losses[0]:g}..{self.losses[-1]:g}>"
        )

    @property
    def min_cost(self) -> float:
        """The smallest feasible budget: the cost of the first point."""
        return float(self.costs[0])

    @property
    def max_cost(self) -> float:
        """The cost of the last point; a higher budget buys nothing."""
        return float(self.costs[-1])

    def at(self, budget: float) -> OperatingPoint:
        """Return the best point found within `budget`.

        A binary search for the last point of the frontier that fits, O(log S) for S steps. What is
        left of the budget then buys later steps and choices off the hull that still fit, best gain
        per cost first, with or without giving back one of the last steps. The result is never worse
        than the point found first, at most one step above the optimum (`lower_bound`), and its loss
        never rises with the budget.

        Args:
            budget: Upper limit of the cost, in the unit of the costs; may be infinite.

        Raises:
            BudgetError: `budget` is below `min_cost`.
        """
        budget = self._check_budget(budget)
        i = int(np.searchsorted(self.costs, budget, side="right")) - 1
        start, cost, loss = self._choices(i), float(self.costs[i]), float(self.losses[i])
        choices, cost = fill(self._steps, start, done=i, cost=cost, budget=budget)
        choices, cost = self._exact(choices, cost, done=i, budget=budget)
        if choices is not start:
            # point i+1 loses less than any cheaper point: rounding must not say otherwise
            loss = min(loss, max(self._loss(choices), float(self.losses[i + 1])))
        return self._point(choices, loss=loss, cost=cost)

    def _exact(self, choices: Ints, cost: float, *, done: int, budget: float) -> tuple[Ints, float]:
        """Return what dynamic programming makes of the rest, if that is better than `choices`."""
        if done + 1 == len(self) or self.costs[done] >= budget:
            return choices, cost
        start, core = self._choices(done), self._core(done)
        rest = budget - float(self.costs[done])
        if core is None or (state := core.best(rest)) < 0:
            return choices, cost
        start[core.layers] = core.table[state]
        found = float(self.costs[done]) + float(core.costs[state])
        return (start, found) if self._loss(start) < self._loss(choices) else (choices, cost)

    def _core(self, done: int) -> Core | None:
        # the last one is kept: `at_loss` asks for many budgets between the same two points; read
        # once and written once, since other threads may ask too
        last = self._last_core
        if last[0] != done:
            loss = float(self.losses[done + 1])
            core = build_core(self._steps, self._choices(done), done=done, loss=loss)
            self._last_core = last = (done, core)
        return last[1]

    def _loss(self, choices: Ints) -> float:
        return math.fsum(self._steps.losses[choices].tolist())

    def at_loss(self, max_loss: float) -> OperatingPoint:
        """Return the cheapest point that `at` finds with a predicted loss of at most `max_loss`.

        Raises:
            BudgetError: `max_loss` is below the loss of the last point.
        """
        max_loss = number("max_loss", max_loss)
        if max_loss < self.losses[-1]:
            raise BudgetError(
                f"max_loss must be at least {float(self.losses[-1])!r}, the smallest loss these "
                f"layers can reach, got {max_loss!r}"
            )
        i = int(np.searchsorted(-self.losses, -max_loss, side="left"))
        return self[i] if i == 0 else self._cheaper(i, max_loss)

    def lower_bound(self, budget: float) -> float:
        """Return a loss that no allocation within `budget` can go below.

        The frontier, drawn through: losses[i] - rate_i·(budget - costs[i]), the optimum of the
        linear relaxation (Sinha & Zoltners 1979, "The multiple-choice knapsack problem").

        Raises:
            BudgetError: `budget` is below `min_cost`.
        """
        return float(np.interp(self._check_budget(budget), self.costs, self.losses))

    def _check_budget(self, budget: float) -> float:
        budget = number("budget", budget)
        if budget < self.min_cost:
            raise BudgetError(
                f"budget must be at least {self.min_cost!r}, the smallest feasible cost, "
                f"got {budget!r}"
            )
        return budget

    def _cheaper(self, i: int, max_loss: float) -> OperatingPoint:
        # between the points i-1, too lossy, and i: 16 halvings leave little of the step
        low, best = float(self.costs[i - 1]), self[i]
        for _ in range(16):
            middle = (low + best.cost) / 2
            if not low < middle < best.cost:
                break
            point = self.at(middle)
            if point.loss <= max_loss:
                best = point
            else:
                low = middle
        return best

    def _choices(self, i: int) -> Ints:
        """Return the choice of each layer after the first `i` steps, `[L]`."""
        steps = self._steps
        count = len(steps.first)
        queries = np.arange(count) * (len(steps.order) + 1) + i
        before = steps.first - np.arange(count)  # steps of the layers in front
        taken = np.searchsorted(self._taken_keys, queries) - before
        return steps.vertices[steps.first + taken]

    def _point(self, choices: Ints, *, loss: float, cost: float) -> OperatingPoint:
        steps = self._steps
        ranks = dict(zip(steps.names, steps.ranks[choices[steps.group]].tolist(), strict=True))
        return OperatingPoint(ranks, float(loss), float(cost))


def _taken_keys(steps: Steps) -> Ints:
    # layer and place in the order as one rising number, so that one search counts, for all layers
    # at once, the steps that come before a given place
    place = np.empty_like(steps.order)
    place[steps.order] = np.arange(len(place))
    return steps.layer * (len(place) + 1) + place


def _costs(steps: Steps) -> Floats:
    costs = steps.costs.astype(np.longdouble)  # the sum of many steps, rounded once
    rises = (costs[steps.stop] - costs[steps.start])[steps.order]
    cheapest = costs[steps.vertices[steps.first]].sum()
    return _frozen(np.cumsum(np.append(cheapest, rises)))


def _losses(steps: Steps) -> Floats:
    # added up from the far end, where the losses are small: nothing cancels
    losses = steps.losses.astype(np.longdouble)
    drops = (losses[steps.start] - losses[steps.stop])[steps.order]
    last = np.append(steps.first[1:], len(steps.vertices)) - 1
    smallest = losses[steps.vertices[last]].sum()
    return _frozen(np.cumsum(np.append(smallest, drops[::-1]))[::-1])


def _frozen(values: np.ndarray) -> Floats:
    array = np.ascontiguousarray(values, dtype=np.float64)
    array.setflags(write=False)
    return array
