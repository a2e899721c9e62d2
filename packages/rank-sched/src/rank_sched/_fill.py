"""Spending what the sorted steps leave over of a budget."""

from heapq import heappop, heappush
from typing import NamedTuple

from rank_sched._layers import Ints
from rank_sched._steps import Steps

# both bound the time of a new budget, whatever the number of layers; with 12 layers, twice as much
# of either was measured to lower the mean loss by less than a thousandth
WINDOW = 16  # steps looked at before and beyond the last one taken
UNDONE = 4  # steps given back, one at a time, to make room for others

Offer = tuple[float, int, int, int, int, int]  # -rate, tie, layer, from, to, end of the hull step


class _Spent(NamedTuple):
    gain: float  # loss saved since the start
    cost: float
    choices: Ints


def fill(
    steps: Steps, choices: Ints, *, done: int, cost: float, budget: float
) -> tuple[Ints, float]:
    """Return better choices within the budget, and their cost; the same if there are none.

    The rest of the budget is spent greedily, first on top of all steps taken, then with one of the
    last ones given back; the most gain wins. Each way starts from a state that depends on `done`
    alone and takes offers by falling gain per cost, so that more budget never saves less, and
    neither does the best of them.

    Args:
        steps: The sorted steps.
        choices: The choice of each layer after the first `done` steps, `[L]`.
        done: Steps already taken.
        cost: Cost of `choices`.
        budget: Limit of the cost.
    """
    offers = _next_steps(steps, done)
    if not offers or cost >= budget:
        return choices, cost
    best = _spend(steps, _Spent(0.0, cost, choices.copy()), offers.copy(), budget=budget)
    for step in _last_steps(steps, done):
        start = _give_back(steps, _Spent(0.0, cost, choices.copy()), step)
        room = _rest_of(steps, step, cost=start.cost, budget=budget)
        found = _spend(steps, start, sorted([*offers, *room]), budget=budget)
        best = max(best, found, key=lambda spent: spent.gain)
    return (best.choices, best.cost) if best.gain > 0 else (choices, cost)


def _spend(steps: Steps, spent: _Spent, offers: list[Offer], *, budget: float) -> _Spent:
    """Take the offers that fit, by falling gain per cost; changes the choices in place.

    An offer that does not fit makes room for the choices between its ends, which lie off the hull.
    """
    gain, cost, choices = spent
    while offers and cost < budget:
        _, tie, layer, here, there, end = heappop(offers)
        if choices[layer] != here:  # an earlier offer to this layer went otherwise
            continue
        new = cost + float(steps.costs[there] - steps.costs[here])
        if new <= budget:
            gain += float(steps.losses[here] - steps.losses[there])
            choices[layer], cost, here = there, new, there
        for offer in _between(steps, (tie, layer, here, end), cost=cost, budget=budget):
            heappush(offers, offer)
    return _Spent(gain, cost, choices)


def _next_steps(steps: Steps, done: int) -> list[Offer]:
    number = steps.order[done : done + WINDOW]
    stop = steps.stop[number].tolist()
    columns = (steps.layer[number].tolist(), steps.start[number].tolist(), stop, stop)
    return list(zip((-steps.rate[number]).tolist(), range(len(stop)), *columns, strict=True))


def _last_steps(steps: Steps, done: int) -> list[int]:
    """Return the last step of each of the layers served last; only a last one can be given back."""
    found: dict[int, int] = {}
    for step in steps.order[max(done - WINDOW, 0) : done][::-1].tolist():
        if len(found) == UNDONE:
            break
        found.setdefault(int(steps.layer[step]), step)
    return list(found.values())


def _give_back(steps: Steps, spent: _Spent, step: int) -> _Spent:
    start, stop = steps.start[step], steps.stop[step]
    spent.choices[steps.layer[step]] = start
    loss = float(steps.losses[start] - steps.losses[stop])
    return _Spent(-loss, spent.cost - float(steps.costs[stop] - steps.costs[start]), spent.choices)


def _rest_of(steps: Steps, step: int, *, cost: float, budget: float) -> list[Offer]:
    # what lies within the step given back is on offer, the step itself is not
    place = (-1, int(steps.layer[step]), int(steps.start[step]), int(steps.stop[step]))
    return _between(steps, place, cost=cost, budget=budget)


def _between(
    steps: Steps, place: tuple[int, int, int, int], *, cost: float, budget: float
) -> list[Offer]:
    """Return an offer of the best affordable choice strictly between two, or nothing."""
    tie, layer, here, end = place
    rises = steps.costs[here + 1 : end] - steps.costs[here]
    rises = rises[cost + rises <= budget]
    if not rises.size:
        return []
    rates = (steps.losses[here] - steps.losses[here + 1 : here + 1 + len(rises)]) / rises
    best = int(rates.argmax())
    return [(-float(rates[best]), tie, layer, here, here + 1 + best, end)]
