"""Oracles and laws: what allocators, controllers, policies, budgets and meters must satisfy.

The laws raise `AssertionError` where they are broken.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np

from rank_sched._budget_laws import check_budget as check_budget
from rank_sched._controller import ControllerState, RankController
from rank_sched._errors import BudgetError
from rank_sched._frontier import Frontier
from rank_sched._hull import undominated
from rank_sched._layers import Layer, Tables, read_layers
from rank_sched._meter import EnergyMeter
from rank_sched._point import OperatingPoint
from rank_sched._policy_laws import check_policy as check_policy
from rank_sched._several_oracle import multi_dynamic_program as multi_dynamic_program

_MOST_COMBINATIONS = 10**6


def brute_force(
    loss_curves: Tables, costs: Tables, budget: float, *, ranks: Tables | None = None
) -> OperatingPoint:
    """Return the best point within `budget`, found by trying all combinations of choices.

    Raises:
        BudgetError: No combination fits.
        ValueError: There are more than a million combinations.

    >>> brute_force({"a": [3, 1], "b": [5, 0]}, {"a": [0, 2], "b": [0, 3]}, budget=4)
    OperatingPoint(ranks={'a': 0, 'b': 1}, loss=3.0, cost=3.0)
    """
    layers = read_layers(loss_curves, costs, ranks)
    shape = [len(layer.costs) for layer in layers]
    if np.prod(shape, dtype=float) > _MOST_COMBINATIONS:
        raise ValueError(f"choices must make at most {_MOST_COMBINATIONS} combinations")
    grids = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    table = np.stack([grid.ravel() for grid in grids])  # [L, combinations]
    cost = sum(layer.costs[row] for layer, row in zip(layers, table, strict=True))
    loss = sum(layer.losses[row] for layer, row in zip(layers, table, strict=True))
    return _best(layers, table, np.asarray(loss), np.asarray(cost), budget)


def dynamic_program(
    loss_curves: Tables, costs: Tables, budget: float, *, ranks: Tables | None = None
) -> OperatingPoint:
    """Return the best point within `budget`, exact for tables of any shape.

    Layers are joined one by one, and of all partial sums those that another one beats are dropped
    (Nemhauser & Ullmann 1969). Fast where many sums coincide, such as costs on a coarse grid; with
    costs that never coincide the number of sums can double with every layer.

    Raises:
        BudgetError: Nothing fits.
    """
    layers = read_layers(loss_curves, costs, ranks)
    cost, loss, table = np.zeros(1), np.zeros(1), np.zeros((0, 1), dtype=np.int64)
    for layer in layers:
        own = undominated(layer.costs, layer.losses)
        cost = np.add.outer(cost, layer.costs[own]).ravel()
        loss = np.add.outer(loss, layer.losses[own]).ravel()
        table = np.vstack([table.repeat(len(own), axis=1), np.tile(own, table.shape[1])])
        kept = undominated(cost, loss)
        kept = kept[cost[kept] <= max(budget, cost.min())]
        cost, loss, table = cost[kept], loss[kept], table[:, kept]
    return _best(layers, table, loss, cost, budget)


def check_allocation(
    point: OperatingPoint,
    loss_curves: Tables,
    costs: Tables,
    budget: float,
    *,
    ranks: Tables | None = None,
) -> None:
    """Assert that a point is within the budget and says the truth about its loss and cost.

    The ranks of one layer must differ, or a rank would not tell which choice it means.
    """
    layers = read_layers(loss_curves, costs, ranks)
    assert list(point.ranks) == [layer.name for layer in layers], "one rank per layer, in order"
    chosen = [layer.ranks.tolist().index(point.ranks[layer.name]) for layer in layers]
    loss = sum(float(layer.losses[k]) for layer, k in zip(layers, chosen, strict=True))
    cost = sum(float(layer.costs[k]) for layer, k in zip(layers, chosen, strict=True))
    assert point.cost <= budget, f"cost {point.cost} is above the budget {budget}"
    np.testing.assert_allclose(point.cost, cost, rtol=1e-12, err_msg="cost is not the sum")
    scale = sum(float(np.abs(layer.losses).max()) for layer in layers)
    np.testing.assert_allclose(
        point.loss, loss, rtol=1e-12, atol=1e-14 * scale, err_msg="loss is not the sum"
    )


def check_frontier(
    points: Frontier, loss_curves: Tables, costs: Tables, *, ranks: Tables | None = None
) -> None:
    """Assert that points are in order, true, and each the optimum of its own Lagrangian.

    With λ the slope towards a neighbour, point i must reach Σ_l min_k loss_l(k) + λ·cost_l(k), the
    minimum over everything; then nothing that costs as much or less can lose less.
    """
    layers = read_layers(loss_curves, costs, ranks)
    assert len(points) == len(points.costs) == len(points.losses) >= 1, "lengths differ"
    assert (np.diff(points.costs) >= 0).all(), "costs fall"
    assert (np.diff(points.losses) <= 0).all(), "losses rise"
    for point in points:
        check_allocation(point, loss_curves, costs, point.cost, ranks=ranks)
    for i, (left, right) in enumerate(pairwise(zip(points.costs, points.losses, strict=True))):
        if left[0] == right[0]:  # a step too small for the sum to show
            continue
        slope = (left[1] - right[1]) / (right[0] - left[0])
        least = sum(float((layer.losses + slope * layer.costs).min()) for layer in layers)
        scale = abs(left[1]) + slope * abs(right[0])
        for cost, loss in (left, right):
            assert loss + slope * cost <= least + 1e-9 * scale, f"step {i} is not optimal"


def check_controller(
    controller: RankController,
    start: int,
    targets: Iterable[tuple[int, int]],
    *,
    update: Callable[..., ControllerState] | None = None,
) -> list[int]:
    """Assert the laws of control for a run of (grow_to, shrink_to); return the ranks taken.

    Ranks stay in range; no change exceeds its step or comes within the cool-down; a change goes
    towards the dead zone and never through it, to a multiple or a limit; the same input gives the
    same output.

    Args:
        controller: The rules.
        start: The first rank.
        targets: One pair per step.
        update: Stands in for `controller.update`, to try another implementation.
    """
    update = update or controller.update
    state, ranks, changes = controller.init(start), [start], []
    for step, (grow_to, shrink_to) in enumerate(targets):
        new = update(state, step, grow_to=grow_to, shrink_to=shrink_to)
        assert new == update(state, step, grow_to=grow_to, shrink_to=shrink_to), "not pure"
        assert controller.r_min <= new.rank <= controller.r_max, f"{new.rank} is out of range"
        change = new.rank - state.rank
        assert -controller.shrink_step <= change <= controller.grow_step, f"{change} is too far"
        if change:
            allowed = new.rank in (controller.r_min, controller.r_max)
            allowed |= new.rank % controller.multiple_of == 0
            assert allowed, f"{new.rank} is no multiple of {controller.multiple_of}"
        if change > 0:
            assert state.rank < shrink_to, "grew without need"
            assert new.rank < grow_to + controller.multiple_of, "grew through the dead zone"
        if change < 0:
            assert state.rank > grow_to, "shrank without room"
            assert new.rank >= shrink_to, "shrank through the dead zone"
        changes += [step] if change else []
        ranks.append(new.rank)
        state = new
    assert all(b - a >= controller.cooldown for a, b in pairwise(changes)), "cool-down broken"
    return ranks


def check_meter(meter: EnergyMeter, work: Callable[[], object]) -> float:
    """Assert that a meter has a name and gives a sound window around `work`; return the joules."""
    assert isinstance(meter, EnergyMeter), "not an EnergyMeter"
    assert meter.name, "a meter must say what it is"
    with meter.measure() as window:
        work()
    assert window.meter == meter.name, "the window names another meter"
    assert np.isfinite(window.energy_j), "energy is not finite"
    assert window.energy_j >= 0, "energy is negative"
    assert window.duration_s > 0, "no time has passed"
    return window.energy_j


def _best(
    layers: list[Layer], table: np.ndarray, loss: np.ndarray, cost: np.ndarray, budget: float
) -> OperatingPoint:
    fits = np.flatnonzero(cost <= budget)
    if not fits.size:
        raise BudgetError(f"budget must be at least {float(cost.min())!r}, got {budget!r}")
    best = fits[np.lexsort((cost[fits], loss[fits]))[0]]
    ranks = {x.name: int(x.ranks[k]) for x, k in zip(layers, table[:, best], strict=True)}
    return OperatingPoint(ranks, float(loss[best]), float(cost[best]))
