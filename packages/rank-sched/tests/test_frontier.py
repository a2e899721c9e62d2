"""Frontier and allocation against brute force, on tables small enough for it."""

import math

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from rank_sched import BudgetError, Frontier, OperatingPoint, allocate, frontier
from rank_sched.testing import brute_force, check_allocation, check_frontier

WHOLE = st.integers(0, 12)  # ties, zeros and equal layers are frequent, and sums are exact
REAL = st.floats(0, 1e3, allow_subnormal=False)


@st.composite
def tables(draw, values=WHOLE):
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    size = {name: draw(st.integers(1, 5)) for name in names}
    lists = lambda name: st.lists(values, min_size=size[name], max_size=size[name])  # noqa: E731
    return {n: draw(lists(n)) for n in names}, {n: draw(lists(n)) for n in names}


def budgets(points: Frontier, share: float) -> float:
    return points.min_cost + share * (points.max_cost - points.min_cost)


def best_losses(loss_curves, costs, at):
    return [brute_force(loss_curves, costs, cost).loss for cost in at]


@given(tables() | tables(REAL))
def test_every_point_obeys_the_laws(given_tables):
    check_frontier(frontier(*given_tables), *given_tables)


@given(tables())
def test_every_point_is_the_optimum_for_its_own_cost(given_tables):
    points = frontier(*given_tables)
    np.testing.assert_array_equal(points.losses, best_losses(*given_tables, points.costs))


@given(tables(), st.floats(0, 1.2))
def test_at_lies_between_the_oracle_and_the_last_point_that_fits(given_tables, share):
    points = frontier(*given_tables)
    budget = budgets(points, share)
    found = points.at(budget)
    check_allocation(found, *given_tables, budget)
    before = int(np.searchsorted(points.costs, budget, side="right")) - 1
    assert brute_force(*given_tables, budget).loss <= found.loss <= points.losses[before]


@given(tables(), st.floats(0, 1.2))
def test_the_lower_bound_is_below_the_oracle_by_less_than_a_step(given_tables, share):
    points = frontier(*given_tables)
    budget = budgets(points, share)
    before = int(np.searchsorted(points.costs, budget, side="right")) - 1
    after = min(before + 1, len(points) - 1)
    bound, best = points.lower_bound(budget), brute_force(*given_tables, budget).loss
    assert bound <= best + 1e-9
    assert points.at(budget).loss - bound <= points.losses[before] - points.losses[after] + 1e-9


@given(tables() | tables(REAL))
def test_more_budget_never_loses_more(given_tables):
    points = frontier(*given_tables)
    scan = np.linspace(points.min_cost, points.max_cost, 60)
    losses = [points.at(budget).loss for budget in np.sort(np.append(scan, points.costs))]
    assert (np.diff(losses) <= 1e-12 * max(map(abs, losses))).all()


@given(tables() | tables(REAL))
def test_a_point_is_found_again_at_its_own_cost_and_loss(given_tables):
    points = frontier(*given_tables)
    for i, point in enumerate(points):
        assert points.at(point.cost).loss <= point.loss
        assert points.at_loss(point.loss).cost <= point.cost
        assert points[i] == point == points[i - len(points)]


@given(tables(), st.floats(0, 1))
def test_at_loss_is_within_the_limit_and_nearly_the_cheapest_that_at_knows(given_tables, share):
    points = frontier(*given_tables)
    limit = points.losses[-1] + share * (points.losses[0] - points.losses[-1])
    found = points.at_loss(limit)
    check_allocation(found, *given_tables, found.cost)
    assert found.loss <= limit
    for cheaper in np.linspace(points.min_cost, found.cost, 20, endpoint=False):
        assert found.cost == points.min_cost or points.at(cheaper).loss > limit


@given(tables())
def test_the_last_point_has_the_least_loss_of_all(given_tables):
    points = frontier(*given_tables)
    assert points.losses[-1] == sum(min(curve) for curve in given_tables[0].values())
    assert points.at(math.inf) == points[len(points) - 1]


@given(tables())
def test_dominated_choices_are_never_taken(given_tables):
    loss_curves, costs = given_tables
    points = frontier(loss_curves, costs)
    scan = np.linspace(points.min_cost, points.max_cost, 30)
    for point in [*points, *(points.at(budget) for budget in scan)]:
        for name, k in point.ranks.items():
            own = costs[name][k], loss_curves[name][k]
            for other in zip(costs[name], loss_curves[name], strict=True):
                assert not (other[0] <= own[0] and other[1] <= own[1] and other != own)


@given(tables(), st.integers(-60, 60), st.integers(-60, 60))
def test_scaling_by_a_power_of_two_changes_no_rank(given_tables, loss_power, cost_power):
    loss_curves, costs = given_tables
    scaled = frontier(
        {name: np.ldexp(np.array(curve, float), loss_power) for name, curve in loss_curves.items()},
        {name: np.ldexp(np.array(curve, float), cost_power) for name, curve in costs.items()},
    )
    points = frontier(loss_curves, costs)
    assert [p.ranks for p in scaled] == [p.ranks for p in points]
    np.testing.assert_array_equal(scaled.costs, np.ldexp(points.costs, cost_power))
    np.testing.assert_array_equal(scaled.losses, np.ldexp(points.losses, loss_power))


@given(tables(), st.floats(0, 1))
def test_new_names_change_nothing_else(given_tables, share):
    new = {name: f"block.{name}" for name in given_tables[0]}
    renamed = [{new[name]: curve for name, curve in table.items()} for table in given_tables]
    budget = budgets(frontier(*given_tables), share)
    before, after = allocate(*given_tables, budget), allocate(*renamed, budget)
    assert after.ranks == {new[name]: rank for name, rank in before.ranks.items()}
    assert (after.loss, after.cost) == (before.loss, before.cost)


@given(tables())
def test_the_order_of_the_choices_of_a_layer_means_nothing(given_tables):
    loss_curves, costs = ({n: c[::-1] for n, c in table.items()} for table in given_tables)
    points, turned = frontier(*given_tables), frontier(loss_curves, costs)
    np.testing.assert_array_equal(points.costs, turned.costs)
    np.testing.assert_array_equal(points.losses, turned.losses)


@given(tables())
def test_a_constant_on_a_layer_moves_all_points_alike(given_tables):
    loss_curves, costs = given_tables
    name = next(iter(costs))
    moved = costs | {name: [value + 7 for value in costs[name]]}
    points, shifted = frontier(loss_curves, costs), frontier(loss_curves, moved)
    assert [p.ranks for p in points] == [p.ranks for p in shifted]
    np.testing.assert_array_equal(points.costs + 7, shifted.costs)


@given(tables())
@example(({"a": [3, 1]}, {"a": [0, 2]}))
def test_ranks_are_those_the_choices_stand_for(given_tables):
    loss_curves, costs = given_tables
    ranks = {name: 8 * np.arange(len(curve)) + 3 for name, curve in loss_curves.items()}
    for plain, named in zip(
        frontier(loss_curves, costs), frontier(loss_curves, costs, ranks=ranks), strict=True
    ):
        assert named.ranks == {name: 8 * k + 3 for name, k in plain.ranks.items()}


@given(tables(), st.floats(0, 1.2))
def test_allocate_is_one_question_to_the_frontier(given_tables, share):
    points = frontier(*given_tables)
    assert allocate(*given_tables, budgets(points, share)) == points.at(budgets(points, share))


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 9)),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 3000),
)
def test_convex_curves_with_linear_costs_are_filled_like_water(layers, level):
    # with a threshold on gain per cost, a layer takes all ranks whose gain is above it
    gains = [sorted(drops, reverse=True) for drops, _ in layers]
    loss_curves = {
        str(i): np.append(np.cumsum(drops[::-1])[::-1], 0) for i, drops in enumerate(gains)
    }
    costs = {str(i): np.arange(len(drops) + 1) * price for i, (drops, price) in enumerate(layers)}
    threshold = level / 60
    wanted = {
        str(i): sum(drop / layers[i][1] > threshold for drop in drops)
        for i, drops in enumerate(gains)
    }
    budget = sum(costs[name][rank] for name, rank in wanted.items())
    assert allocate(loss_curves, costs, budget).ranks == wanted


def test_a_cheap_dense_choice_ends_the_low_ranks_before_it():
    # ranks 0..4 cost 3 each; dense is exact and costs 7, less than rank 3
    loss_curves = {"w": [16.0, 9.0, 5.0, 3.0, 2.0, 0.0]}
    costs = {"w": [0, 3, 6, 9, 12, 7]}
    ranks = {"w": [0, 1, 2, 3, 4, 64]}
    points = frontier(loss_curves, costs, ranks=ranks)
    assert [point.ranks["w"] for point in points] == [0, 1, 64]
    assert points.at(6.5).ranks["w"] == 2  # off the hull, bought with what is left
    assert points.at(100).ranks["w"] == 64


def test_what_is_left_buys_later_steps_that_fit():
    loss_curves = {"big": [20.0, 0.0], "small": [3.0, 1.0]}
    costs = {"big": [0, 10], "small": [0, 2]}
    point = allocate(loss_curves, costs, budget=9)
    assert point == OperatingPoint({"big": 0, "small": 1}, loss=21.0, cost=2.0)


def test_a_small_step_is_given_back_for_a_large_one():
    loss_curves = {"small": [6.0, 0.0], "large": [20.0, 0.0]}
    costs = {"small": [0, 2], "large": [0, 10]}
    assert allocate(loss_curves, costs, budget=9).ranks == {"small": 1, "large": 0}
    assert allocate(loss_curves, costs, budget=10).ranks == {"small": 0, "large": 1}


def test_layers_with_a_dense_choice_come_within_a_hundredth_of_the_optimum_on_average():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(60):
        loss_curves, costs = {}, {}
        for name in "abcd":
            drops = np.sort(rng.exponential(size=8) ** 2)
            loss_curves[name] = np.append(np.cumsum(drops)[::-1], 0)
            costs[name] = np.append(np.arange(8), 7) * int(rng.integers(1, 6))
        budget = rng.uniform(0.1, 0.8) * sum(cost[-1] for cost in costs.values())
        best = brute_force(loss_curves, costs, budget).loss
        ratios.append(allocate(loss_curves, costs, budget).loss / best)
    assert np.mean(ratios) < 1.01


def test_equal_layers_are_served_in_the_order_given():
    same = {name: [4.0, 1.0, 0.0] for name in ("first", "second", "third")}
    cost = {name: [0, 1, 2] for name in same}
    ranks = [tuple(point.ranks.values()) for point in frontier(same, cost)]
    steps = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2)]
    assert ranks == steps


def test_equal_gains_stay_single_steps_despite_rounding():
    curve = np.cumsum(np.full(200, 0.1))[::-1]  # a flat spectrum; the differences vary by rounding
    points = frontier({"flat": curve}, {"flat": np.arange(200) * 0.3})
    assert len(points) == 200


@pytest.mark.parametrize(
    "loss_curve, cost, length",
    [
        ([5.0], [3.0], 1),  # one choice
        ([0.0, 0.0, 0.0], [0, 1, 2], 1),  # nothing to gain
        ([5.0, 3.0, 1.0], [0, 0, 0], 1),  # nothing to pay
        ([5.0, 3.0, 1.0], [2, 1, 0], 1),  # the best is the cheapest
        ([1.0, 2.0, 3.0], [0, 1, 2], 1),  # more rank, more loss
        ([-1.0, -3.0], [0, 1], 2),  # losses may be negative
    ],
)
def test_degenerate_layers_have_the_obvious_frontier(loss_curve, cost, length):
    points = frontier({"x": loss_curve}, {"x": cost})
    assert len(points) == length
    assert points[0].cost == min(cost)
    assert points[length - 1].loss == min(loss_curve)


def test_small_losses_survive_beside_huge_ones():
    loss_curves = {"huge": [1e200, 1e-200], "tiny": [2e-200, 1e-200]}
    points = frontier(loss_curves, {"huge": [0, 1e150], "tiny": [0, 1e-150]})
    assert points.losses.tolist() == [1e200, 3e-200, 2e-200]
    assert [tuple(point.ranks.values()) for point in points] == [(0, 0), (1, 0), (1, 1)]


def test_gains_per_cost_beyond_the_largest_float_still_order_a_layer():
    points = frontier({"x": [1e300, 1.0, 0.0]}, {"x": [0.0, 1e-300, 2e-300]})
    assert [point.ranks["x"] for point in points] == [0, 1, 2]


def test_a_budget_below_the_smallest_cost_says_that_cost():
    with pytest.raises(BudgetError, match=r"budget must be at least 7\.0, .* got 6\.5"):
        allocate({"a": [1, 0], "b": [1, 0]}, {"a": [3, 9], "b": [4, 5]}, 6.5)


def test_a_loss_below_the_smallest_says_that_loss():
    with pytest.raises(BudgetError, match=r"max_loss must be at least 2\.0, .* got 1\.0"):
        frontier({"a": [5, 2]}, {"a": [0, 1]}).at_loss(1)


@pytest.mark.parametrize("method", ["at", "at_loss", "lower_bound"])
def test_a_limit_must_be_a_number(method):
    ask = getattr(frontier({"a": [5, 2]}, {"a": [0, 1]}), method)
    with pytest.raises(ValueError, match="must be a number, got nan"):
        ask(math.nan)
    with pytest.raises(TypeError, match="must be a number, got '3'"):
        ask("3")
    with pytest.raises(TypeError, match="must be a number, got None"):
        ask(None)


def test_points_are_indexed_like_a_list():
    points = frontier({"a": [5, 2]}, {"a": [0, 1]})
    assert len(points) == 2
    assert points[-1] == points[1] == list(points)[1]
    with pytest.raises(IndexError):
        points[2]
    with pytest.raises(ValueError, match="read-only"):
        points.costs[0] = 1.0


def test_a_thousand_layers_spend_the_budget_within_one_step_of_the_bound():
    rng = np.random.default_rng(0)
    names = [f"layer{i}" for i in range(1000)]
    loss_curves = {n: np.cumsum(rng.exponential(size=33))[::-1] * rng.exponential() for n in names}
    costs = {n: np.arange(33) * int(rng.integers(1, 50)) for n in names}
    points = frontier(loss_curves, costs)
    largest = max(np.diff(points.costs))
    for share in rng.random(20):
        budget = budgets(points, share)
        found = points.at(budget)
        check_allocation(found, loss_curves, costs, budget)
        assert budget - largest <= found.cost <= budget
        assert found.loss <= 1.001 * points.lower_bound(budget)
