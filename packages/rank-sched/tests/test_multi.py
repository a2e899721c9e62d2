"""Several budgets at once, against the exact answer."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import BudgetError, MultiPoint, allocate, frontier
from rank_sched.testing import brute_force, dynamic_program, multi_dynamic_program

CURVES = {"a": [9.0, 4.0, 1.0], "b": [7.0, 3.0, 0.0]}
COSTS = {
    "latency_s": {"a": [1, 2, 5], "b": [1, 3, 4]},
    "memory_bytes": {"a": [0, 40, 10], "b": [0, 10, 50]},
}


def draw(seed, *, layers, most=9):
    rng = np.random.default_rng(seed)
    curves, seconds, bytes_ = {}, {}, {}
    for i in range(layers):
        size = int(rng.integers(1, most))
        drops = rng.exponential(size=size) * 10 ** rng.uniform(-1, 1)
        tread = int(rng.integers(1, 4))
        curves[str(i)] = np.append(np.cumsum(drops[::-1])[::-1], 0.0)
        stairs = np.ceil(np.arange(size + 1) / tread) * rng.integers(1, 12)
        seconds[str(i)] = stairs + rng.integers(0, 3, size + 1)
        bytes_[str(i)] = np.arange(size + 1.0) * rng.integers(1, 12)
        if rng.random() < 0.4:  # dense: less time, no less memory
            seconds[str(i)][-1] = np.floor(seconds[str(i)][-1] * 0.6)
    return curves, {"latency_s": seconds, "memory_bytes": bytes_}


def within(costs, shares):
    low = {k: sum(min(c) for c in t.values()) for k, t in costs.items()}
    high = {k: sum(max(c) for c in t.values()) for k, t in costs.items()}
    return {k: low[k] + s * (high[k] - low[k]) for (k, s) in zip(costs, shares, strict=True)}


def check(point, curves, costs, budgets):
    assert isinstance(point, MultiPoint)
    for name, table in costs.items():
        total = sum(float(table[layer][rank]) for layer, rank in point.ranks.items())
        assert point.costs[name] == pytest.approx(total)
        assert point.costs[name] <= budgets.get(name, math.inf)
    loss = math.fsum(float(curves[layer][rank]) for layer, rank in point.ranks.items())
    assert point.loss == pytest.approx(loss, rel=1e-9, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.05, 1), st.floats(0.05, 1))
def test_two_budgets_are_kept_and_filled_to_a_two_hundredth(seed, layers, first, second):
    curves, costs = draw(seed, layers=layers)
    budgets = within(costs, (first, second))
    try:
        exact = multi_dynamic_program(curves, costs, budgets)
    except BudgetError:
        with pytest.raises(BudgetError, match="must be at least .* within the other budgets"):
            allocate(curves, costs, budgets)
        return
    point = allocate(curves, costs, budgets)
    check(point, curves, costs, budgets)
    assert point.loss <= 1.005 * exact.loss + 1e-9
    assert frontier(curves, costs).lower_bound(budgets) <= exact.loss + 1e-9


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_budget_that_does_not_bind_changes_nothing(seed, share):
    curves, costs = draw(seed, layers=4)
    budgets = within(costs, (share, 1.0))
    alone = dynamic_program(curves, costs["latency_s"], budgets["latency_s"]).loss
    points = frontier(curves, costs)
    for limits in (
        budgets,
        {"latency_s": budgets["latency_s"]},
        budgets | {"memory_bytes": math.inf},
    ):
        assert points.at(limits).loss == pytest.approx(alone, rel=5e-3, abs=1e-9)
    free = frontier(curves, costs).at({})
    assert free.loss == pytest.approx(sum(min(curve) for curve in curves.values()))


@pytest.mark.parametrize("unit", [1e-9, 1.0, 3e12])
def test_the_unit_of_a_cost_means_nothing(unit):
    curves, costs = draw(5, layers=6)
    scaled = costs | {"latency_s": {k: v * unit for k, v in costs["latency_s"].items()}}
    budgets = within(costs, (0.4, 0.5))
    limits = budgets | {"latency_s": budgets["latency_s"] * unit * (1 + 1e-12)}
    assert allocate(curves, scaled, limits).ranks == allocate(curves, costs, budgets).ranks


def test_three_budgets_are_kept_at_once():
    curves, costs = draw(7, layers=5, most=6)
    costs["energy_j"] = {k: np.sqrt(np.arange(float(len(v)))) for k, v in curves.items()}
    budgets = within(costs, (0.6, 0.6, 0.6))
    point = allocate(curves, costs, budgets)
    check(point, curves, costs, budgets)
    assert point.loss <= 1.005 * multi_dynamic_program(curves, costs, budgets).loss


def test_floors_ceilings_and_ties_hold_under_several_budgets():
    curves, costs = draw(11, layers=4)
    bounds = {"r_min": {"0": 1}, "r_max": 5, "tied": [("1", "2")]}
    points = frontier(curves, costs, **bounds)
    for share in (0.3, 0.6, 1.0):
        ranks = points.at(within(costs, (share, 1.0))).ranks
        assert ranks["0"] >= 1
        assert max(ranks.values()) <= 5
        assert ranks["1"] == ranks["2"]


def test_a_thousand_layers_come_within_a_thousandth_of_the_bound():
    curves, costs = draw(0, layers=1000, most=40)
    points = frontier(curves, costs)
    budgets = within(costs, (0.3, 0.35))
    point = points.at(budgets)
    check(point, curves, costs, budgets)
    assert point.loss <= 1.001 * points.lower_bound(budgets)


def test_the_oracle_agrees_with_brute_force_where_one_budget_binds():
    curves, costs = draw(3, layers=4, most=5)
    for share in (0.1, 0.5, 0.9):
        budgets = within(costs, (share, 1.0))
        tried = brute_force(curves, costs["latency_s"], budgets["latency_s"])
        assert multi_dynamic_program(curves, costs, budgets).loss == pytest.approx(tried.loss)
    with pytest.raises(BudgetError, match="no choice of ranks is within"):
        multi_dynamic_program(curves, costs, {"latency_s": -1.0})


def test_a_budget_below_the_least_says_that_value():
    with pytest.raises(BudgetError, match=r"budget\['latency_s'\] must be at least 2.0, .* got 1"):
        allocate(CURVES, COSTS, {"latency_s": 1})
    # each can be met alone, not together
    costs = {"s": {"a": [1, 4]}, "bytes": {"a": [9, 2]}}
    with pytest.raises(BudgetError, match=r"budget\['s'\] must be at least 4.0, .* got 3.0"):
        allocate({"a": [1.0, 0.0]}, costs, {"s": 3, "bytes": 5})


@pytest.mark.parametrize(
    "budget, error, message",
    [
        ({"seconds": 1.0}, ValueError, "must name one of .*'latency_s'.* got 'seconds'"),
        (5.0, TypeError, "budget must map latency_s, memory_bytes to numbers, got 5.0"),
        ({"latency_s": math.nan}, ValueError, r"budget\['latency_s'\] must be a number, got nan"),
        ({"latency_s": "9"}, TypeError, r"budget\['latency_s'\] must be a number"),
    ],
)
def test_budgets_of_another_kind_are_refused(budget, error, message):
    with pytest.raises(error, match=message):
        allocate(CURVES, COSTS, budget)


def test_tables_of_several_costs_are_checked_like_one():
    with pytest.raises(ValueError, match="costs must name the layers of loss_curves"):
        allocate(CURVES, COSTS | {"energy_j": {"a": [1, 2, 3]}}, {})
    with pytest.raises(TypeError, match="budget must be a number"):
        allocate(CURVES, COSTS["latency_s"], {"latency_s": 9.0})


def test_what_is_shown_says_how_many_layers_and_costs():
    text = repr(frontier(CURVES, COSTS))
    assert text == "<MultiFrontier of 2 layers, latency_s from 2, memory_bytes from 0>"
