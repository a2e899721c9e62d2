import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import BudgetError, BudgetManager, Cost, GainCorrection, frontier
from rank_sched.testing import check_budget

NO_CORRECTION = GainCorrection(kp=0, ki=0)
STEPS = st.floats(0, 3) | st.floats(-5, 0) | st.just(1e9)  # backwards, and far ahead


@st.composite
def managers(draw, **options):
    return BudgetManager(
        draw(st.just(0.0) | st.floats(0.01, 50)),
        draw(st.floats(0.1, 100)),
        margin=draw(st.floats(1, 2)),
        **options,
    )


@st.composite
def traces(draw, manager, measured):
    start = draw(st.floats(-1e6, 1e6))
    now, trace = start, []
    for _ in range(draw(st.integers(0, 25))):
        now += draw(STEPS)
        cost = draw(st.floats(0, 1)) * manager.capacity / manager.margin
        trace.append((now, cost, None if measured is None else cost * draw(measured)))
    return start, trace


@given(st.data(), managers())
def test_what_is_charged_stays_within_the_envelope_at_every_prefix(data, manager):
    start, trace = data.draw(traces(manager, measured=None))
    check_budget(manager, trace, start=start)


@given(st.data(), managers())
def test_what_is_measured_leaves_it_by_the_last_excess_alone(data, manager):
    start, trace = data.draw(traces(manager, measured=st.floats(0, 3)))
    check_budget(manager, trace, start=start)


@given(st.data(), st.floats(1, 2))
def test_what_is_measured_never_leaves_it_if_the_margin_covers_the_error(data, margin):
    manager = BudgetManager(5.0, 20.0, margin=margin, correction=NO_CORRECTION)
    start, trace = data.draw(traces(manager, measured=st.floats(0, margin)))
    state, spent, latest = manager.init(start), 0.0, start
    for now, cost, measured in trace:
        granted, state = manager.admit(state, now, cost)
        latest = max(latest, now)
        if granted is not None:
            state = manager.settle(state, granted, measured)
            spent += measured
        assert spent <= (20.0 + 5.0 * (latest - start)) * (1 + 1e-9)


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_in_flight_together_the_debt_is_what_they_exceed_their_charges_by(seed, width):
    manager, rng = BudgetManager(3.0, 10.0), np.random.default_rng(seed)
    state, now, running, excess = manager.init(0.0), 0.0, [], 0.0
    for _ in range(60):
        now += rng.exponential(0.3)
        granted, state = manager.admit(state, now, rng.uniform(0, 4))
        if granted is not None:
            running, excess = [*running, granted], 0.0
        if running and (len(running) >= width or rng.random() < 0.5):
            done = running.pop(rng.integers(len(running)))
            measured = done.cost * rng.uniform(0.2, 3)
            state = manager.settle(state, done, measured)
            excess += max(measured - done.charged, 0.0)
        whole = state.spent + state.reserved + state.tokens
        assert whole <= (10.0 + 3.0 * now) * (1 + 1e-9)
        assert state.tokens >= -excess - 1e-9
        assert state.in_flight == len(running)


@pytest.mark.parametrize("error", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("capacity", [10.0, 100.0])
def test_under_saturation_at_least_95_percent_are_used(error, capacity):
    rng, manager = np.random.default_rng(0), BudgetManager(10.0, capacity)
    state, duration, excess = manager.init(0.0), 60.0, 0.0
    for now in np.arange(0, duration, 0.01):  # asks for far more than there is
        cost = rng.uniform(0.05, 0.5)
        granted, state = manager.admit(state, now, cost)
        if granted is not None:
            measured = cost * error * rng.uniform(0.9, 1.1)
            state = manager.settle(state, granted, measured)
            excess = max(measured - granted.charged, 0.0)
        assert state.spent <= (capacity + 10.0 * now) * (1 + 1e-9) + excess
    assert state.spent >= 0.95 * (capacity + 10.0 * duration)
    assert state.gain == pytest.approx(error, rel=0.05)


@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(1, 100), st.floats(1, 2))
def test_what_saturation_leaves_unused_is_less_than_one_request(seed, rate, capacity, margin):
    rng, manager = np.random.default_rng(seed), BudgetManager(rate, capacity, margin=margin)
    state, now = manager.init(0.0), 0.0
    for _ in range(100):
        while True:  # as many as are granted
            cost = rng.uniform(0, 0.5) * capacity / margin
            granted, state = manager.admit(state, now, cost)
            if granted is None:
                break
            state = manager.settle(state, granted, cost * rng.uniform(0.5, 1.5))
        due = min(margin * state.gain * cost, capacity)
        assert state.spent >= capacity + rate * now - due - 1e-9 * capacity
        now += rng.uniform(0, 0.2) * capacity / rate  # before the bucket could run over


@given(st.data(), managers(correction=NO_CORRECTION))
def test_after_the_wait_it_is_admitted_and_before_it_is_not(data, manager):
    start, trace = data.draw(traces(manager, measured=st.floats(0, 1)))
    state = manager.init(start)
    for now, cost, measured in trace:
        granted, state = manager.admit(state, now, cost)
        if granted is not None:
            state = manager.settle(state, granted, measured)
            continue
        wait_s = manager.wait_s(state, now, cost)
        assert wait_s > 0
        assert math.isinf(wait_s) == (manager.rate == 0)
        if wait_s < 1e9:
            late = 1e-5 * (1 + wait_s)
            assert manager.admit(state, now + wait_s + late, cost)[0] is not None
            assert manager.admit(state, now + wait_s - late, cost)[0] is None


def test_a_debt_is_paid_before_anything_else():
    manager = BudgetManager(1.0, 10.0, correction=NO_CORRECTION)
    granted, state = manager.admit(manager.init(0.0), 0.0, 10.0)
    state = manager.settle(state, granted, 15.0)
    assert state.tokens == -5.0
    assert manager.admit(state, 4.9, 0.0)[0] is None  # not even what costs nothing
    assert manager.admit(state, 5.0, 0.0)[0] is not None
    assert manager.wait_s(state, 0.0, 2.0) == 7.0


def test_what_was_not_used_comes_back_and_the_bucket_does_not_run_over():
    manager = BudgetManager(1.0, 10.0)
    granted, state = manager.admit(manager.init(0.0), 0.0, 8.0)
    assert manager.settle(state, granted, 3.0).tokens == 7.0
    assert manager.settle(state, granted).tokens == 2.0
    late = manager.at(state, 100.0)
    assert manager.settle(late, granted, 0.0).tokens == 10.0


def test_a_clock_that_jumps_back_gives_nothing_twice_and_one_that_leaps_fills_the_bucket_once():
    manager = BudgetManager(1.0, 5.0, initial=0.0)
    state = manager.at(manager.init(100.0), 103.0)
    assert state.tokens == 3.0
    assert manager.at(state, 50.0) == state
    assert manager.at(manager.at(state, 50.0), 103.5).tokens == 3.5
    assert manager.wait_s(state, 101.0, 4.0) == 3.0  # two to catch up, one to flow in
    assert manager.at(state, 1e12).tokens == 5.0


def test_a_budget_without_a_rate_is_spent_once():
    manager = BudgetManager(0.0, 5.0)
    granted, state = manager.admit(manager.init(0.0), 0.0, 5.0)
    assert granted is not None
    assert manager.admit(state, 1e9, 0.1)[0] is None
    assert manager.wait_s(state, 1e9, 0.1) == math.inf


def test_what_never_fits_is_refused_at_once_and_by_name():
    manager = BudgetManager(1.0, 5.0, unit="flops", margin=2.0)
    state = manager.init(0.0)
    message = (
        r"cost must be at most capacity=5 \(flops\), which no wait exceeds, got, margin=2 times 3"
    )
    for ask in (manager.admit, manager.wait_s):
        with pytest.raises(BudgetError, match=message):
            ask(state, 0.0, 3.0)
    assert not manager.is_feasible(3.0)
    assert manager.is_feasible(2.5)
    with pytest.raises(BudgetError, match="cost must be at most capacity=5"):
        manager.ranks_for(frontier({"a": [1, 0]}, {"a": [3, 4]}), state, 0.0)


def test_a_gain_that_proves_too_high_cannot_lock_out_what_the_model_says_is_feasible():
    manager = BudgetManager(1.0, 10.0)
    granted, state = manager.admit(manager.init(0.0), 0.0, 8.0)
    state = manager.settle(state, granted, 8 * 100.0)
    state = manager.at(state, 1e4)
    assert state.gain * 8.0 > manager.capacity
    granted, state = manager.admit(state, 1e4, 8.0)
    assert granted == (8.0, 10.0)


@pytest.mark.parametrize("unit, amount", [("energy_j", 2.0), ("latency_s", 0.5), ("flops", 4.0)])
def test_a_cost_counts_in_the_unit_of_the_budget(unit, amount):
    manager = BudgetManager(1.0, 10.0, unit)
    cost = Cost(flops=4.0, latency_s=0.5, energy_j=2.0)
    granted, state = manager.admit(manager.init(0.0), 0.0, cost)
    assert granted == (amount, amount)
    assert manager.settle(state, granted, Cost()).spent == 0.0


def test_every_grant_is_settled_once():
    manager = BudgetManager(1.0, 10.0)
    granted, state = manager.admit(manager.init(0.0), 0.0, 2.0)
    state = manager.settle(state, granted, 1.0)
    with pytest.raises(ValueError, match="granted must be in flight, got Grant"):
        manager.settle(state, granted, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_amounts_that_are_none_are_refused(bad):
    manager = BudgetManager(1.0, 10.0)
    granted, state = manager.admit(manager.init(0.0), 0.0, 2.0)
    for make in (
        lambda: BudgetManager(bad, 1.0),
        lambda: BudgetManager(1.0, bad),
        lambda: BudgetManager(1.0, 1.0, initial=bad),
        lambda: BudgetManager(1.0, 1.0, margin=bad),
        lambda: manager.admit(state, 0.0, bad),
        lambda: manager.settle(state, granted, bad),
        lambda: manager.wait_s(state, 0.0, bad),
        lambda: manager.ranks_for(POINTS, state, 0.0, horizon_s=bad),
    ):
        with pytest.raises(ValueError, match=r"must be (a number|finite|at least 0|above 0|in )"):
            make()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_times_are_finite(bad):
    manager = BudgetManager(1.0, 10.0)
    state = manager.init(0.0)
    for ask in (
        manager.init,
        lambda now: manager.at(state, now),
        lambda now: manager.admit(state, now, 1.0),
        lambda now: manager.wait_s(state, now, 1.0),
    ):
        with pytest.raises(ValueError, match="now must be"):
            ask(bad)


def test_units_are_known_ones():
    with pytest.raises(ValueError, match="unit must be one of energy_j, latency_s, flops, got 'J'"):
        BudgetManager(1.0, 1.0, "J")


POINTS = frontier(
    {"a": [8.0, 4.0, 2.0, 1.0], "b": [5.0, 2.0, 0.0, 0.0]},
    {"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 2.0, 4.0, 8.0]},
)


@given(st.floats(0, 20), st.integers(1, 9), st.floats(0, 3), st.floats(1, 2), st.floats(0.3, 3))
def test_the_operating_point_is_admitted_and_the_best_its_part_pays(
    tokens, requests, horizon_s, margin, ratio
):
    manager = BudgetManager(2.0, 20.0, initial=tokens, margin=margin)
    state = manager.init(0.0)
    settled = manager.correction.settled(state.correction, predicted=1.0, measured=ratio)
    state = state._replace(correction=manager.correction.at(settled, 1.0))
    point = manager.ranks_for(POINTS, state, 0.0, requests=requests, horizon_s=horizon_s)
    due = margin * state.gain
    if point is None:
        assert tokens < due * POINTS.min_cost
        return
    assert manager.admit(state, 0.0, point.cost)[0] is not None
    part = min((tokens + 2.0 * horizon_s) / requests, tokens) / due
    limit = max(min(part, 20.0 / margin) * (1 - 1e-9), POINTS.min_cost)
    assert point.loss <= POINTS.at(limit).loss
    assert point.cost <= limit * (1 + 1e-8)


def test_all_tokens_may_go_to_one_request():
    manager = BudgetManager(1.0, 12.0)
    assert manager.ranks_for(POINTS, manager.init(0.0), 0.0).cost == POINTS.at(12.0).cost
    exact = BudgetManager(1.0, 5.0)  # to the last token
    assert exact.ranks_for(POINTS, exact.init(0.0), 0.0).cost == 5.0


def tampered(**changes):
    """A manager that goes wrong in one way."""
    return type("Tampered", (BudgetManager,), changes)(1.0, 10.0, correction=NO_CORRECTION)


def generous(self, state, now, cost):
    granted, state = BudgetManager.admit(self, state, now, 0.0)
    return granted, state


def stingy(self, state, now, cost):
    return None, self.at(state, now)


def forgetful(self, state, granted, measured=None):
    return BudgetManager.settle(self, state, granted, granted.charged)


def bottomless(self, state, now):
    return BudgetManager.at(self, state, now)._replace(tokens=10.0)


def overflowing(self, state, granted, measured=None):
    return BudgetManager.settle(self, state, granted, measured)._replace(tokens=11.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"admit": generous}, "is not what is due"),
        ({"admit": stingy}, "was refused with 10.0 tokens there"),
        ({"settle": forgetful}, "the state lies about what was spent"),
        ({"at": bottomless}, "spent .* may"),
        ({"settle": overflowing}, "tokens are above the capacity"),
    ],
)
def test_a_budget_that_breaks_a_law_is_found_out(changes, message):
    trace = [(0.1 * k, 4.0, 5.0) for k in range(30)]
    check_budget(tampered(), trace, start=0.0)
    with pytest.raises(AssertionError, match=message):
        check_budget(tampered(**changes), trace, start=0.0)
