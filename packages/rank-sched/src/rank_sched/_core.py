"""The exact end of an allocation: dynamic programming over the few layers still in doubt."""

from typing import NamedTuple

import numpy as np

from rank_sched._layers import Floats, Ints
from rank_sched._steps import Steps


class _Effort(NamedTuple):
    """What bounds the time of one budget."""

    window: int  # steps before and beyond the last one taken whose layers may change
    layers: int  # of these, the layers with the cheapest way to change
    choices: int  # of each
    states: int  # partial sums kept after each layer


# up to _FEW layers a single step matters, and on random staircases of 3 to 40 layers this found the
# exact optimum; with more layers each step weighs less, and time more
_FEW = 64
_THOROUGH = _Effort(window=10**9, layers=16, choices=24, states=1000)
_QUICK = _Effort(window=32, layers=6, choices=8, states=100)
_NEGLIGIBLE = 3e-3  # a step that gains less, relative to the loss, is left to greedy spending


class Core(NamedTuple):
    """What the layers in doubt can make of the budget between two points of the frontier.

    State s changes the cost by `costs[s]` and the loss by `losses[s]`; costs rise, losses fall.
    """

    costs: Floats
    losses: Floats
    table: Ints  # [S, layers in doubt], the choice of each
    layers: Ints

    def best(self, rest: float) -> int:
        """Return the state of least loss that needs no more than `rest`, -1 if there is none."""
        return int(np.searchsorted(self.costs, rest, side="right")) - 1


def build_core(steps: Steps, choices: Ints, *, done: int, loss: float) -> Core | None:
    """Return the best changes to the first `done` steps for every budget short of the next point.

    With λ the rate of the next step, each change has an *excess* Δloss + λ·Δcost >= 0, because the
    choices taken so far minimise loss + λ·cost. A sum of changes that fits under the next point can
    only gain if its excesses add up to less than the gain of the next step; whatever exceeds that
    is dropped, and of the rest dominated sums (Dudziński & Walukiewicz 1987, "Exact methods for the
    knapsack problem and its generalizations"). What is kept depends on `done` alone, not on the
    budget, so that more budget never saves less.

    Args:
        steps: The sorted steps.
        choices: The choice of each layer after the first `done` steps, `[L]`.
        done: Steps already taken.
        loss: Loss after one more step.
    """
    if done >= len(steps.order):
        return None
    step = steps.order[done]
    width = float(steps.costs[steps.stop[step]] - steps.costs[steps.start[step]])
    gain = float(steps.losses[steps.start[step]] - steps.losses[steps.stop[step]])
    if width <= 0 or gain <= _NEGLIGIBLE * abs(loss):
        return None
    effort = _THOROUGH if len(steps.first) <= _FEW else _QUICK
    near = slice(max(done - effort.window, 0), done + effort.window)
    doubts = _doubts(steps, choices, near=near, rate=gain / width, most=gain, effort=effort)
    if not doubts:
        return None
    return _join(doubts, width=width, rate=gain / width, most=gain, states=effort.states)


class _Doubt(NamedTuple):
    """The choices one layer may still take, by rising excess: the present one is the first."""

    layer: int
    choices: Ints
    costs: Floats  # relative to the present choice
    excess: Floats


def _doubts(
    steps: Steps, choices: Ints, *, near: slice, rate: float, most: float, effort: _Effort
) -> list[_Doubt]:
    """Return the layers that can change at an excess below `most`, the cheapest changes first."""
    layer, own = steps.choices_of(np.unique(steps.layer[steps.order[near]]))
    present = choices[layer]
    costs = steps.costs[own] - steps.costs[present]
    excess = np.maximum(steps.losses[own] - steps.losses[present] + rate * costs, 0.0)
    excess[own == present] = -1.0  # first, whatever rounding says of the others
    kept = np.flatnonzero(excess < most)
    kept = kept[np.argsort(excess[kept], kind="stable")]
    changes = layer[kept[excess[kept] >= 0]]
    _, first = np.unique(changes, return_index=True)
    found = []
    for name in changes[np.sort(first)[: effort.layers]].tolist():
        mine = kept[layer[kept] == name][: effort.choices]
        found.append(_Doubt(name, own[mine], costs[mine], np.maximum(excess[mine], 0.0)))
    return found


def _join(doubts: list[_Doubt], *, width: float, rate: float, most: float, states: int) -> Core:
    costs, excess, table = np.zeros(1), np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    down = _reach([min(float(doubt.costs.min()), 0.0) for doubt in doubts])
    up = _reach([max(float(doubt.costs.max()), 0.0) for doubt in doubts])
    for place, doubt in enumerate(doubts, start=1):
        new_costs = np.add.outer(costs, doubt.costs).ravel()
        new_excess = np.add.outer(excess, doubt.excess).ravel()
        # what can still end between the two points, and gain there
        within = (new_costs + down[place] < width) & (new_costs + up[place] >= 0)
        kept = np.flatnonzero(within & (new_excess <= most))
        kept = _undominated(new_costs, new_excess, kept, rate=rate)
        costs, excess = new_costs[kept], new_excess[kept]
        most = min(most, _gap(costs, excess, width=width, rate=rate))
        least = _least(excess, most=most, states=states)
        old, own = np.divmod(kept[least], len(doubt.choices))
        costs, excess = costs[least], excess[least]
        table = np.column_stack([table[old], doubt.choices[own]])
    layers = np.array([doubt.layer for doubt in doubts])
    return Core(costs, excess - rate * costs, table, layers)


def _reach(extremes: list[float]) -> list[float]:
    # sums of what the layers from each place on can add
    return [*np.cumsum(extremes[::-1])[::-1].tolist(), 0.0]


def _undominated(costs: Floats, excess: Floats, kept: Ints, *, rate: float) -> Ints:
    kept = kept[np.argsort(costs[kept], kind="stable")]
    losses = excess[kept] - rate * costs[kept]
    return kept[np.append(True, losses[1:] < np.minimum.accumulate(losses)[:-1])]


def _gap(costs: Floats, excess: Floats, *, width: float, rate: float) -> float:
    """Return the most by which the sums found so far miss the lower bound, over all budgets.

    Before the cost of the next sum can be paid, a sum misses it by its excess and what is left. No
    sum of a larger excess than the worst of these can be of use.
    """
    usable = (costs >= 0) & (costs < width)
    costs, excess = costs[usable], excess[usable]
    left = np.append(costs[1:], width) - costs
    return float((excess + rate * left).max())


def _least(excess: Floats, *, most: float, states: int) -> Ints:
    kept = np.flatnonzero(excess <= most)
    if len(kept) > states:
        kept = np.sort(kept[np.argpartition(excess[kept], states)[:states]])
    return kept
