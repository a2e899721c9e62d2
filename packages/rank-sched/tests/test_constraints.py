"""Floors, ceilings and ties, against brute force over the choices they leave."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import allocate, frontier
from rank_sched.testing import brute_force, check_frontier

CURVES = {"a": [9, 4, 1, 0], "b": [8, 3, 2, 1], "c": [5, 2]}
COSTS = {"a": [0, 2, 3, 7], "b": [1, 2, 5, 6], "c": [0, 4]}
RANKS = {"a": [0, 8, 16, 64], "b": [8, 16, 32, 64], "c": [4, 8]}


def draw(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=rng.integers(2, 5))
    names = [f"layer{i}" for i in range(len(sizes))]
    curves = {n: rng.integers(0, 30, k) for n, k in zip(names, sizes, strict=True)}
    costs = {n: rng.integers(0, 30, k) for n, k in zip(names, sizes, strict=True)}
    return curves, costs, rng


@given(st.integers(0, 10**6))
def test_bounds_leave_the_frontier_of_the_choices_within_them(seed):
    curves, costs, rng = draw(seed)
    low = {name: int(rng.integers(0, len(curve))) for name, curve in curves.items()}
    high = {name: int(rng.integers(low[name], 6)) for name in curves}
    points = frontier(curves, costs, r_min=low, r_max=high)
    left = {n: np.arange(len(c))[low[n] : high[n] + 1] for n, c in curves.items()}
    inside = [{n: np.asarray(t[n])[left[n]] for n in t} for t in (curves, costs)]
    check_frontier(points, *inside, ranks=left)
    assert all(low[n] <= r <= high[n] for point in points for n, r in point.ranks.items())


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_tied_layers_are_one_layer_of_summed_tables(seed, share):
    curves, costs, _ = draw(seed)
    size = min(len(curves["layer0"]), len(curves["layer1"]))
    points = frontier(curves, costs, tied=[("layer1", "layer0")])
    joined = [
        {"layer0": np.asarray(t["layer0"])[:size] + np.asarray(t["layer1"])[:size]}
        | {n: t[n] for n in t if n not in ("layer0", "layer1")}
        for t in (curves, costs)
    ]
    budget = points.min_cost + share * (points.max_cost - points.min_cost)
    alone = frontier(*joined)
    np.testing.assert_array_equal(points.losses, alone.losses)
    point = points.at(budget)
    assert point.ranks["layer0"] == point.ranks["layer1"]
    assert (point.loss, point.cost) == (alone.at(budget).loss, alone.at(budget).cost)
    assert point.loss == brute_force(*joined, budget).loss
    assert list(point.ranks) == list(curves)
    assert [p.ranks for p in points] == [points[i].ranks for i in range(len(points))]


def test_ties_meet_at_the_ranks_all_members_have():
    points = frontier(CURVES, COSTS, ranks=RANKS, tied=[("a", "b")])
    seen = {point.ranks["a"] for point in points}
    assert seen == {point.ranks["b"] for point in points} <= {8, 16, 64}


def test_one_bound_serves_all_layers_and_none_changes_nothing():
    least = frontier(CURVES, COSTS, ranks=RANKS, r_min=8)[0]
    assert min(least.ranks.values()) == 8
    assert frontier(CURVES, COSTS, ranks=RANKS, r_max=8)[-1].ranks == {"a": 8, "b": 8, "c": 8}
    plain, same = allocate(CURVES, COSTS, 9), allocate(CURVES, COSTS, 9, r_min={}, tied=[("a",)])
    assert plain == same


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"r_min": 9}, ValueError, "r_min must be at most 8 for layer 'c', .* got 9"),
        ({"r_max": 7}, ValueError, "r_max must be at least 8 for layer 'b', .* got 7"),
        ({"r_min": {"a": 17}, "r_max": 63}, ValueError, "leave a rank of layer 'a', got 17..63"),
        ({"r_min": {"d": 1}}, ValueError, "r_min must name layers of loss_curves, got 'd'"),
        ({"r_min": 1.5}, TypeError, "r_min must be a whole number"),
        ({"r_max": {"a": -1}}, ValueError, r"r_max\['a'\] must be at least 0"),
        ({"tied": [("a", "d")]}, ValueError, "tied must name layers of loss_curves, got 'd'"),
        ({"tied": [("a", "b"), ("b", "c")]}, ValueError, "name a layer once, got 'b' again"),
        ({"tied": ["ab"]}, TypeError, "groups of names, got the text 'ab'"),
        ({"tied": [("a", "b")], "r_max": {"a": 0}}, ValueError, "a, b have none"),
    ],
)
def test_bounds_that_leave_nothing_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        frontier(CURVES, COSTS, ranks=RANKS, **arguments)


def test_a_tied_layer_with_one_rank_twice_is_refused():
    ranks = RANKS | {"a": [0, 8, 64, 64]}
    with pytest.raises(ValueError, match="tied layer 'a' must differ"):
        frontier(CURVES, COSTS, ranks=ranks, tied=[("a", "b")])
