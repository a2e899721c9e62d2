import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import BudgetError, energy_fraction, frontier, uniform
from rank_sched.testing import check_allocation


@st.composite
def problems(draw):
    """Falling loss curves and rising costs, with the ranks they stand for."""
    loss_curves, costs, ranks = {}, {}, {}
    for name in draw(st.sampled_from(["a", "ab", "abc"])):
        size = draw(st.integers(1, 6))
        drops = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
        loss_curves[name] = np.cumsum(drops[::-1])[::-1].astype(float)
        costs[name] = np.arange(size) * draw(st.integers(1, 9))
        ranks[name] = np.sort(draw(st.permutations(range(20)))[:size])
    return loss_curves, costs, ranks


def uniform_reference(loss_curves, costs, ranks, budget):
    points = []
    for t in np.linspace(0, 1, 401):
        choice = {
            name: np.searchsorted(
                own, own[0] + t * (own[-1] - own[0]) + 1e-9, side="right"
            ) - 1
            for name, own in ranks.items()
        }  # fmt: skip
        points.append(totals(loss_curves, costs, choice))
    return min((loss, cost) for loss, cost in points if cost <= budget)


def energy_reference(loss_curves, costs, budget):
    shares = {1 - f / (curve[0] or 1) for curve in loss_curves.values() for f in curve}
    points = []
    for q in shares:
        # a layer that cannot retain so much retains what it can
        choice = {
            name: int(np.argmax(curve <= max((1 - q) * curve[0], curve.min()) + 1e-9))
            for name, curve in loss_curves.items()
        }
        points.append(totals(loss_curves, costs, choice))
    return min((loss, cost) for loss, cost in points if cost <= budget)


def totals(loss_curves, costs, choice):
    loss = sum(loss_curves[name][k] for name, k in choice.items())
    return loss, sum(costs[name][k] for name, k in choice.items())


@given(problems(), st.floats(0, 1))
def test_uniform_is_the_best_of_all_common_fractions(problem, share):
    loss_curves, costs, ranks = problem
    budget = share * sum(cost[-1] for cost in costs.values())
    point = uniform(loss_curves, costs, budget, ranks=ranks)
    check_allocation(point, loss_curves, costs, budget, ranks=ranks)
    loss, _ = uniform_reference(loss_curves, costs, ranks, budget)
    assert point.loss == loss


@given(problems(), st.floats(0, 1))
def test_energy_fraction_is_the_best_of_all_common_shares(problem, share):
    loss_curves, costs, _ = problem
    budget = share * sum(cost[-1] for cost in costs.values())
    point = energy_fraction(loss_curves, costs, budget)
    check_allocation(point, loss_curves, costs, budget)
    assert point.loss == energy_reference(loss_curves, costs, budget)[0]


@given(problems(), st.floats(0, 1))
def test_no_baseline_goes_below_the_bound(problem, share):
    loss_curves, costs, _ = problem
    points = frontier(loss_curves, costs)
    budget = share * sum(cost[-1] for cost in costs.values())
    for baseline in (uniform, energy_fraction):
        assert baseline(loss_curves, costs, budget).loss >= points.lower_bound(budget) - 1e-9


def test_with_room_for_all_both_lose_nothing():
    loss_curves, costs = {"a": [4, 1, 0], "b": [9, 6, 0]}, {"a": [0, 1, 2], "b": [0, 5, 10]}
    for baseline in (uniform, energy_fraction):
        assert baseline(loss_curves, costs, 12).loss == 0


def test_of_two_choices_with_one_rank_the_cheaper_counts():
    # rank 4 as two factors for 9, or dense for 6
    point = uniform({"a": [5, 2, 0, 0]}, {"a": [0, 4, 9, 6]}, 7, ranks={"a": [0, 2, 4, 4]})
    assert (point.ranks, point.cost) == ({"a": 4}, 6)


@pytest.mark.parametrize("baseline", [uniform, energy_fraction])
def test_a_budget_below_every_fraction_says_the_cheapest(baseline):
    with pytest.raises(BudgetError, match=r"at least 5\.0, .* got 4\.0"):
        baseline({"a": [4, 1], "b": [4, 1]}, {"a": [2, 4], "b": [3, 5]}, 4)


def test_a_share_of_a_negative_loss_has_no_meaning():
    with pytest.raises(ValueError, match=r"loss_curves\['a'\] must not be negative"):
        energy_fraction({"a": [1.0, -1.0]}, {"a": [0, 1]}, 1)


@pytest.mark.parametrize("baseline", [uniform, energy_fraction])
def test_several_costs_are_refused_by_name(baseline):
    costs = {"latency_s": {"a": [0, 1]}, "memory_bytes": {"a": [0, 8]}}
    with pytest.raises(TypeError, match="of one kind for .*, got several: latency_s, memory_b"):
        baseline({"a": [1.0, 0.0]}, costs, 1)
