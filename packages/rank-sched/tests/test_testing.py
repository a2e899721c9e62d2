"""The laws themselves: each must notice what it is there to notice."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import (
    BudgetError,
    ControllerState,
    EnergyWindow,
    EstimatedMeter,
    OperatingPoint,
    RankController,
    frontier,
)
from rank_sched.testing import (
    brute_force,
    check_allocation,
    check_controller,
    check_frontier,
    check_meter,
    dynamic_program,
)

CURVES = {"a": [9.0, 4.0, 1.0], "b": [5.0, 4.0, 0.0]}
COSTS = {"a": [0, 1, 2], "b": [0, 2, 4]}


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_both_oracles_agree(seed, share):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=rng.integers(1, 5))
    loss_curves = {str(i): rng.integers(0, 30, size) for i, size in enumerate(sizes)}
    costs = {str(i): rng.integers(0, 30, size) for i, size in enumerate(sizes)}
    low, high = (sum(f(cost) for cost in costs.values()) for f in (min, max))
    budget = low + share * (high - low)
    exact, tried = (oracle(loss_curves, costs, budget) for oracle in (dynamic_program, brute_force))
    assert (exact.loss, exact.cost) == (tried.loss, tried.cost)
    for point in (exact, tried):
        check_allocation(point, loss_curves, costs, budget)


@pytest.mark.parametrize("oracle", [brute_force, dynamic_program])
def test_oracles_know_what_cannot_be_afforded(oracle):
    with pytest.raises(BudgetError, match=r"at least 3\.0, got 2"):
        oracle({"a": [1, 0], "b": [1, 0]}, {"a": [1, 5], "b": [2, 5]}, 2)


def test_brute_force_refuses_to_run_for_ever():
    table = {str(i): [0, 1] for i in range(30)}
    with pytest.raises(ValueError, match="at most 1000000 combinations"):
        brute_force(table, table, 3)


@pytest.mark.parametrize(
    "point, message",
    [
        (OperatingPoint({"a": 1, "b": 1}, loss=8.0, cost=3.0), "above the budget"),
        (OperatingPoint({"a": 1, "b": 0}, loss=8.0, cost=1.0), "loss is not the sum"),
        (OperatingPoint({"a": 1, "b": 0}, loss=9.0, cost=0.5), "cost is not the sum"),
        (OperatingPoint({"b": 0, "a": 1}, loss=9.0, cost=1.0), "one rank per layer"),
    ],
)
def test_a_point_that_lies_is_found_out(point, message):
    with pytest.raises(AssertionError, match=message):
        check_allocation(point, CURVES, COSTS, budget=2)


def test_a_frontier_of_other_layers_is_found_out():
    points = frontier(CURVES, COSTS)
    check_frontier(points, CURVES, COSTS)
    assert all(point.ranks["b"] != 1 for point in points)
    with pytest.raises(AssertionError, match="is not optimal"):
        # a better choice, of which these points know nothing
        check_frontier(points, CURVES | {"b": [5.0, 1.0, 0.0]}, COSTS)


def tampered(change):
    """An update that goes wrong in one way."""
    controller = RankController(4, 64, grow_step=8, shrink_step=8, cooldown=2)

    def update(state, step, **targets):
        return change(state, step, controller.update(state, step, **targets))

    return controller, update


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda old, step, new: ControllerState(70, step), "out of range"),
        (lambda old, step, new: ControllerState(old.rank + 9, step), "too far"),
        (lambda old, step, new: ControllerState(old.rank + 1, step), "grew without need|cool-down"),
        (lambda old, step, new: ControllerState(old.rank - 1, step), "shrank without room"),
        (lambda old, step, new: new._replace(changed_at=None), "cool-down broken"),
    ],
)
def test_a_controller_that_breaks_a_law_is_found_out(change, message):
    controller, update = tampered(change)
    with pytest.raises(AssertionError, match=message):
        check_controller(controller, 16, [(40, 36)] * 6, update=update)


def test_a_change_to_no_multiple_is_found_out():
    controller = RankController(4, 64, grow_step=8, multiple_of=8)
    check_controller(controller, 15, [(40, 36)] * 6)
    with pytest.raises(AssertionError, match="23 is no multiple of 8"):
        check_controller(
            controller,
            15,
            [(40, 36)] * 6,
            update=lambda state, step, **_: ControllerState(state.rank + 8, step),
        )


def test_a_controller_with_a_memory_of_its_own_is_found_out():
    calls = iter(range(100))
    controller, update = tampered(lambda old, step, new: new._replace(changed_at=next(calls)))
    with pytest.raises(AssertionError, match="not pure"):
        check_controller(controller, 16, [(40, 36)] * 6, update=update)


def test_a_meter_that_gives_energy_back_is_found_out():
    class Perpetual(EstimatedMeter):
        @contextmanager
        def measure(self):
            window = EnergyWindow("estimated")
            yield window
            window.close(energy_j=-1.0, duration_s=1.0)

    with pytest.raises(AssertionError, match="energy is negative"):
        check_meter(Perpetual("v100"), lambda: None)
    with pytest.raises(AssertionError, match="not an EnergyMeter"):
        check_meter(object(), lambda: None)
