import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import BudgetError, CascadeRule, cascade_frontier


def applied(rule, confidence, quality, costs):
    """Mean cost and quality of running the rule, input by input."""
    cost = good = 0.0
    for i in range(confidence.shape[1]):
        cost, last = cost + costs[rule.first], rule.first
        if rule.second != rule.first and not confidence[rule.first, i] >= rule.threshold:
            cost, last = cost + costs[rule.second], rule.second
        good += quality[last, i]
    return cost / confidence.shape[1], good / confidence.shape[1]


def tables(seed, points, inputs, *, levels=None):
    rng = np.random.default_rng(seed)
    confidence = rng.random((points, inputs))
    if levels:
        confidence = np.round(confidence * levels) / levels
    quality = (rng.random((points, inputs)) < np.linspace(0.4, 0.9, points)[:, None]).astype(float)
    return confidence, quality, np.sort(rng.random(points) + 0.05)


rows = st.tuples(
    st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 40), st.sampled_from([None, 1, 3])
)


@given(rows)
def test_every_rule_costs_and_yields_what_it_says(row):
    seed, points, inputs, levels = row
    confidence, quality, costs = tables(seed, points, inputs, levels=levels)
    rules = cascade_frontier(confidence, quality, costs)
    for rule in rules:
        assert applied(rule, confidence, quality, costs) == pytest.approx((rule.cost, rule.quality))


@given(rows)
def test_no_fixed_point_beats_the_rule_of_its_cost(row):
    seed, points, inputs, levels = row
    confidence, quality, costs = tables(seed, points, inputs, levels=levels)
    rules = cascade_frontier(confidence, quality, costs)
    for k, cost in enumerate(costs):
        assert rules.at(cost).quality >= quality[k].mean() - 1e-12


@given(rows, st.floats(0.05, 3))
def test_no_pair_and_threshold_beats_the_rule_of_a_budget(row, budget):
    seed, points, inputs, levels = row
    confidence, quality, costs = tables(seed, points, min(inputs, 12), levels=levels)
    rules = cascade_frontier(confidence, quality, costs)
    if budget < rules[0].cost:
        return
    found = rules.at(budget)
    assert found.cost <= budget
    for first in range(points):
        for second in range(points):
            for threshold in [-np.inf, *confidence[first]]:
                rule = CascadeRule(first, second, threshold, 0, 0)
                cost, good = applied(rule, confidence, quality, costs)
                assert good <= found.quality + 1e-12 or cost > budget - 1e-12


def test_costs_and_qualities_rise_together():
    rules = cascade_frontier(*tables(0, 5, 300))
    assert len(rules) > 5
    assert np.all(np.diff([rule.cost for rule in rules]) > 0)
    assert np.all(np.diff([rule.quality for rule in rules]) > 0)


def test_a_planted_confidence_reaches_the_oracle():
    rng = np.random.default_rng(0)
    hard = rng.random(1000) < 0.2
    quality = np.stack([~hard, np.ones(1000)])
    confidence = np.stack([np.where(hard, 0.1, 0.9), np.ones(1000)])
    rule = cascade_frontier(confidence, quality, [1.0, 10.0]).at(1 + 10 * hard.mean())
    assert rule.quality == 1.0
    np.testing.assert_array_equal(rule.escalates(confidence[0]), hard)


def test_an_uninformative_confidence_gains_nothing_over_mixing():
    rng = np.random.default_rng(0)
    quality = np.stack([rng.random(20_000) < 0.5, np.ones(20_000)])
    confidence = rng.random((2, 20_000))
    rule = cascade_frontier(confidence, quality, [1.0, 10.0]).at(6.0)
    assert rule.quality == pytest.approx(0.75, abs=0.01)  # half the inputs, whichever, go on


def test_what_is_not_a_number_goes_on():
    confidence = [[np.nan, 0.9, 0.8], [1, 1, 1]]
    rule = cascade_frontier(confidence, [[0, 1, 1], [1, 1, 1]], [1.0, 3.0]).at(2.0)
    assert rule.quality == 1.0
    assert rule.escalates(confidence[0]).tolist() == [True, False, False]


def test_infinite_confidence_is_sure_and_minus_infinity_unsure():
    confidence = [[-np.inf, 0.9, np.inf, np.nan], [1, 1, 1, 1]]
    right = [[0, 1, 1, 0], [1, 1, 0, 1]]  # the sure one is right at first, and would be wrong then
    rule = cascade_frontier(confidence, right, [1.0, 3.0]).at(2.5)
    assert rule.quality == 1.0
    assert rule.escalates(confidence[0]).tolist() == [True, False, False, True]


def test_a_budget_below_the_cheapest_point_names_it():
    with pytest.raises(BudgetError, match=r"budget must be at least 0\.5, got 0\.1"):
        cascade_frontier([[1.0]], [[1.0]], [0.5]).at(0.1)


@pytest.mark.parametrize(
    "confidence, quality, costs, message",
    [
        ([[1.0]], [[1.0]], [[1.0]], r"costs must have shape \[K\]"),
        ([[1.0]], [[1.0]], [0.0], "costs must be positive"),
        ([[1.0]], [[1.0]], [1.0, 2.0], r"confidence must have shape \[2, N\]"),
        ([[]], [[]], [1.0], "N > 0"),
        ([[1.0, 2.0]], [[1.0]], [1.0], "quality must have the shape of confidence"),
        ([[1.0]], [[np.nan]], [1.0], "quality must be finite"),
    ],
)
def test_tables_that_do_not_fit_are_refused(confidence, quality, costs, message):
    with pytest.raises(ValueError, match=message):
        cascade_frontier(confidence, quality, costs)
