import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import BudgetError, CascadeRule, cascade_frontier
from rank_sched._cascade import _pair


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


def frontier_of_ranks(seed, inputs, *, informed):
    """Points whose accuracy rises with their cost; a confidence that knows of errors, or not."""
    rng = np.random.default_rng(seed)
    costs = np.geomspace(0.05, 1, 12)
    right = rng.random(inputs) < np.linspace(0.5, 0.95, 12)[:, None]
    confidence = rng.random((12, inputs)) + (right if informed else 0.0)
    return confidence, right.astype(float), costs


@pytest.mark.parametrize("seed", range(5))
def test_with_a_lead_chance_alone_makes_no_rule_of_two_points(seed):
    tables = frontier_of_ranks(seed, 400, informed=False)
    by_chance = [rule for rule in cascade_frontier(*tables) if rule.first != rule.second]
    assert by_chance  # among tens of thousands of rules some look good
    proven = [rule for rule in cascade_frontier(*tables, lead=4) if rule.first != rule.second]
    assert not proven


def test_with_a_lead_a_confidence_that_knows_still_makes_rules():
    tables = frontier_of_ranks(0, 400, informed=True)
    rules = cascade_frontier(*tables, lead=4)
    quality = np.interp([rule.cost for rule in rules], tables[2], tables[1].mean(1))
    ahead = [r.quality - q for r, q in zip(rules, quality, strict=True) if r.first != r.second]
    assert len(ahead) > 10
    assert min(ahead) > 0
    assert max(ahead) > 0.05


@given(rows, st.floats(0.5, 3))
def test_a_lead_takes_rules_away_and_adds_none(row, lead):
    seed, points, inputs, levels = row
    drawn = tables(seed, points, inputs, levels=levels)
    every = {(r.first, r.second, r.threshold) for r in all_rules(*drawn, lead=0)}
    some = {(r.first, r.second, r.threshold) for r in all_rules(*drawn, lead=lead)}
    assert some <= every


@given(rows)
def test_the_lead_is_the_paired_difference_with_the_best_lottery(row):
    seed, points, inputs, levels = row
    confidence, quality, costs = tables(seed, points, inputs, levels=levels)
    for rule in all_rules(confidence, quality, costs, lead=1.0):
        goes_on = rule.escalates(confidence[rule.first])
        answers = np.where(goes_on, quality[rule.second], quality[rule.first])
        rivals = [lottery(quality, costs, i, j, rule.cost) for i, j in pairs(points)]
        best = max((r for r in rivals if r is not None), key=np.mean)
        difference = answers - best
        error = difference.std() / np.sqrt(max(inputs - 1, 1))
        assert difference.mean() > 0
        assert difference.mean() >= error - 1e-9


def pairs(points):
    return [(i, j) for i in range(points) for j in range(points)]


def lottery(quality, costs, i, j, cost):
    """Each input's quality where point j is drawn so often that the mean cost is met."""
    if i == j:
        return quality[i] if costs[i] <= cost else None
    if not costs[i] <= cost <= costs[j]:
        return None
    w = (cost - costs[i]) / (costs[j] - costs[i])
    return (1 - w) * quality[i] + w * quality[j]


def all_rules(confidence, quality, costs, *, lead):
    """Rules of two points before the best are chosen."""
    return [
        rule
        for first, second in pairs(len(costs))
        if first != second
        for rule in _pair(first, second, confidence[first], quality, costs, 64, lead)
    ]


@pytest.mark.parametrize("lead", [-1.0, float("nan")])
def test_a_lead_must_be_a_number_of_at_least_0(lead):
    with pytest.raises(ValueError, match="lead"):
        cascade_frontier([[1.0]], [[1.0]], [0.5], lead=lead)


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
