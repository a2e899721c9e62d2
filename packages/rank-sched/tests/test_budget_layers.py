import math
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import BudgetError, BudgetManager, Cost, GainCorrection, LayerBudgets

NO_CORRECTION = GainCorrection(kp=0, ki=0)
SHARES = st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 1), min_size=1)


def budgets(shares, rate=4.0, capacity=10.0, **options):
    return LayerBudgets.split(BudgetManager(rate, capacity, **options), shares)


@given(SHARES, st.integers(0, 10**6))
def test_every_bucket_keeps_its_own_envelope(shares, seed):
    rng, both = np.random.default_rng(seed), budgets(shares, correction=NO_CORRECTION)
    state, now, granted_once = both.init(0.0), 0.0, False
    excess = dict.fromkeys([None, *shares], 0.0)
    for _ in range(60):
        now += rng.exponential(0.3)
        names = [name for name in [*shares, "other"] if rng.random() < 0.6]
        cost = {name: rng.uniform(0, 0.4) * 10 * shares.get(name, 0.5) / 4 for name in names}
        granted, state = both.admit(state, now, cost)
        if granted is not None:
            granted_once = True
            measured = {name: value * rng.uniform(0.5, 1.5) for name, value in cost.items()}
            state = both.settle(state, granted, measured)
            excess[None] = max(sum(measured.values()) - sum(cost.values()), 0.0)
            excess |= {name: max(measured[name] - cost[name], 0.0) for name in granted.layers}
        rows = [(None, 1.0, state.total), *((x, shares[x], state.layers[x]) for x in shares)]
        for name, share, bucket in rows:
            assert bucket.spent <= share * (10 + 4 * now) * (1 + 1e-9) + excess[name]
    assert granted_once


@given(SHARES, st.integers(0, 10**6))
def test_it_grants_exactly_if_every_bucket_would(shares, seed):
    rng, both = np.random.default_rng(seed), budgets(shares)
    state, now = both.init(0.0), 0.0
    for _ in range(40):
        now += rng.exponential(0.2)
        cost = {name: rng.uniform(0, 5 * share) for name, share in shares.items()}
        if sum(cost.values()) > 10:
            continue
        alone = [both.total.admit(state.total, now, sum(cost.values()))[0]]
        alone += [both.layers[x].admit(state.layers[x], now, cost[x])[0] for x in cost]
        waits = [both.total.wait_s(state.total, now, math.fsum(cost.values()))]
        waits += [both.layers[x].wait_s(state.layers[x], now, cost[x]) for x in cost]
        assert both.wait_s(state, now, cost) == max(waits)
        granted, after = both.admit(state, now, cost)
        assert (granted is None) == (None in alone)
        if granted is None:
            assert after == both.at(state, now), "a refusal must charge nobody"
        state = after if granted is None else both.settle(after, granted)


def test_what_is_not_reported_was_what_was_charged():
    both = budgets({"a": 0.5})
    granted, state = both.admit(both.init(0.0), 0.0, {"a": 1.0, "b": 2.0})
    state = both.settle(state, granted)
    assert (state.total.spent, state.layers["a"].spent) == (3.0, 1.0)


def test_costs_may_come_with_all_their_units():
    both = budgets({"a": 0.5}, unit="latency_s")
    granted, state = both.admit(both.init(0.0), 0.0, {"a": Cost(latency_s=2.0, energy_j=9.0)})
    assert (state.total.tokens, state.layers["a"].tokens) == (8.0, 3.0)
    assert both.settle(state, granted, {"a": Cost(latency_s=1.0)}).total.spent == 1.0


def test_what_never_fits_is_refused_by_the_name_of_the_layer():
    both = budgets({"a": 0.5, "b": 1.0})
    state = both.init(0.0)
    for ask in (both.admit, both.wait_s):
        with pytest.raises(BudgetError, match=r"cost\['a'\] must be at most capacity=5"):
            ask(state, 0.0, {"a": 6.0})
        with pytest.raises(BudgetError, match="the sum of cost must be at most capacity=10"):
            ask(state, 0.0, {"b": 6.0, "other": 6.0})
        with pytest.raises(ValueError, match=r"cost\['other'\] must be a number, got nan"):
            ask(state, 0.0, {"other": math.nan})


def test_a_layer_that_does_not_report_is_named_and_changes_nothing():
    both = budgets({"a": 0.5, "b": 0.5})
    granted, state = both.admit(both.init(0.0), 0.0, {"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match=r"measured must name the layers \['b'\] of the grant"):
        both.settle(state, granted, {"a": 1.0})
    with pytest.raises(ValueError, match=r"measured\['b'\] must be at least 0, got -1"):
        both.settle(state, granted, {"a": 1.0, "b": -1.0})
    assert state.layers["a"].in_flight == state.total.in_flight == 1


def test_what_a_layer_spends_without_having_asked_is_refused_and_changes_nothing():
    both = budgets({"a": 0.5, "b": 0.5})
    granted, state = both.admit(both.init(0.0), 0.0, {"a": 1.0, "other": 1.0})
    with pytest.raises(ValueError, match=r"beyond those of the grant, got \['b'\]: .* into admit"):
        both.settle(state, granted, {"a": 1.0, "b": 9.0})
    assert state.total.in_flight == 1
    state = both.settle(state, granted, {"a": 1.0, "other": 2.0, "more": 3.0})
    assert (state.total.spent, state.layers["a"].spent, state.layers["b"].spent) == (6.0, 1.0, 0.0)


def test_what_a_layer_has_asked_for_at_no_cost_both_pay():
    both = budgets({"a": 0.5, "b": 0.5})
    granted, state = both.admit(both.init(0.0), 0.0, {"a": 1.0, "b": 0.0})
    state = both.settle(state, granted, {"a": 1.0, "b": 9.0})
    assert (state.total.spent, state.layers["b"].spent, state.layers["b"].tokens) == (10, 9, -4)
    assert both.admit(state, 0.0, {"b": 0.0})[0] is None  # not before the debt is paid
    assert both.wait_s(state, 0.0, {"b": 0.0}) == pytest.approx(4 / 2)


def test_one_amount_for_all_layers_is_refused():
    both = budgets({"a": 0.5})
    for ask in (both.admit, both.wait_s):
        with pytest.raises(
            TypeError, match=r"cost must be a mapping, one amount a layer, got 3\.0"
        ):
            ask(both.init(0.0), 0.0, 3.0)


def test_layers_count_what_the_model_counts():
    with pytest.raises(ValueError, match=r"layers\['a'\] must count energy_j .* got flops"):
        LayerBudgets(BudgetManager(1.0, 1.0), {"a": BudgetManager(1.0, 1.0, "flops")})


@pytest.mark.parametrize("share", [0.0, 1.5, math.nan])
def test_shares_are_shares(share):
    with pytest.raises(ValueError, match=r"shares\['a'\] must be"):
        budgets({"a": share})


def test_the_layers_cannot_be_changed_from_outside():
    layers = {"a": BudgetManager(1.0, 1.0)}
    both = LayerBudgets(BudgetManager(1.0, 1.0), layers)
    layers["b"] = BudgetManager(1.0, 1.0)
    assert list(both.layers) == ["a"]
    assert deepcopy(both) == both


def test_a_split_among_nobody_is_refused():
    with pytest.raises(ValueError, match="shares must name at least one layer"):
        LayerBudgets.split(BudgetManager(10.0, 20.0), {})
