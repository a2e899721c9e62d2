"""Measured costs are staircases: at any budget the loss is within 0.5 % of the exact optimum."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import Frontier, frontier
from rank_sched.testing import check_allocation, dynamic_program

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)


def staircases(seed, *, layers, most=24):
    """Costs in steps of several ranks, jitter, some layers with a cheap dense choice at the end."""
    rng, curves, costs = np.random.default_rng(seed), {}, {}
    for i in range(layers):
        size = int(rng.integers(4, most))
        decay, weight = rng.uniform(0, 2), 10 ** rng.uniform(-1, 1)
        drops = weight * rng.exponential(size=size) * np.arange(1.0, size + 1) ** -decay
        tread, rise = int(rng.integers(1, 5)), int(rng.integers(1, 40))
        cost = np.ceil(np.arange(size + 1) / tread) * rise + rng.integers(0, 4, size + 1)
        if rng.random() < 0.4:
            cost[-1] = np.floor(cost[-1] * rng.uniform(0.4, 1.0))
        curves[str(i)], costs[str(i)] = np.append(np.cumsum(drops[::-1])[::-1], 0.0), cost
    return curves, costs


def at_share(points, share):
    return points.min_cost + share * (points.max_cost - points.min_cost)


@pytest.mark.parametrize("share", SHARES)
def test_staircases_are_filled_to_within_a_two_hundredth_of_the_optimum(share):
    for seed in range(20):
        tables = staircases(seed, layers=3 + seed % 8)
        points = frontier(*tables)
        budget = at_share(points, share)
        point = points.at(budget)
        check_allocation(point, *tables, budget)
        assert point.loss <= 1.005 * dynamic_program(*tables, budget).loss + 1e-12


@given(st.integers(0, 10**6), st.integers(1, 7), st.floats(0, 1))
def test_any_staircase_is_filled_to_within_a_two_hundredth_of_the_optimum(seed, layers, share):
    tables = staircases(seed, layers=layers, most=12)
    points = frontier(*tables)
    budget = at_share(points, share)
    exact = dynamic_program(*tables, budget).loss
    assert exact - 1e-9 <= points.at(budget).loss <= 1.005 * exact + 1e-9


@pytest.mark.parametrize("layers", [6, 100])  # below and above where the search is shortened
def test_more_budget_never_loses_more_on_staircases(layers):
    points = frontier(*staircases(1, layers=layers))
    budgets = np.sort(np.random.default_rng(0).uniform(points.min_cost, points.max_cost, 300))
    losses = [points.at(budget).loss for budget in budgets]
    assert (np.diff(losses) <= 1e-9).all()


def test_an_answer_does_not_depend_on_the_questions_before_it():
    tables = staircases(2, layers=6)
    points = frontier(*tables)
    budgets = [at_share(points, share) for share in np.random.default_rng(0).random(40)]
    forward = [points.at(budget) for budget in budgets]
    assert forward[::-1] == [points.at(budget) for budget in budgets[::-1]]
    assert forward == [frontier(*tables).at(budget) for budget in budgets]


def test_an_answer_does_not_depend_on_a_question_that_another_thread_asks_meanwhile():
    class Interrupted(Frontier):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "_last_core" and "asked" not in vars(self):
                vars(self)["asked"] = True  # the other thread runs here, to its end
                Frontier.at(self, at_share(self, 0.2))

    for seed in range(10):
        tables = staircases(seed, layers=6)
        quiet, asked = frontier(*tables), frontier(*tables)
        asked.__class__ = Interrupted
        budget = at_share(quiet, 0.6)
        assert asked.at(budget) == quiet.at(budget)
        assert asked.asked


def test_a_thousand_staircases_come_within_a_two_hundredth_of_the_bound():
    points = frontier(*staircases(3, layers=1000))
    for share in SHARES[:-1]:
        budget = at_share(points, share)
        assert points.at(budget).loss <= 1.005 * points.lower_bound(budget)
