import math
import threading
import time

import pytest

from rank_sched import (
    BudgetError,
    BudgetExhaustedError,
    BudgetManager,
    GainCorrection,
    LayerBudgets,
    LiveBudget,
    frontier,
)

NO_CORRECTION = GainCorrection(kp=0, ki=0)


class Clock:
    """Stands still but for those who sleep."""

    def __init__(self, now=0.0):
        self.now, self.slept = now, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def live(rate=1.0, capacity=10.0, *, now=0.0, **options):
    clock = Clock(now)
    manager = BudgetManager(rate, capacity, correction=NO_CORRECTION, **options)
    return LiveBudget(manager, clock=clock, sleep=clock.sleep), clock


def test_a_block_is_settled_at_what_it_reports_last():
    budget, _ = live()
    with budget.spend(4.0) as spending:
        assert spending.granted == (4.0, 4.0)
        assert budget.state.reserved == 4.0
        spending.report(1.0)
        spending.report(3.0)
    assert (budget.state.spent, budget.state.tokens, budget.state.in_flight) == (3.0, 7.0, 0)


@pytest.mark.parametrize("report, spent", [(None, 4.0), (5.0, 5.0)])
def test_a_block_that_raises_has_spent_all_the_same(report, spent):
    budget, _ = live()

    def work():
        with budget.spend(4.0) as spending:
            if report is not None:
                spending.report(report)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        work()
    assert (budget.state.spent, budget.state.in_flight) == (spent, 0)


def test_what_cannot_be_paid_now_is_refused_with_the_time_it_takes():
    budget, clock = live()
    with budget.spend(8.0):
        pass
    message = r"cost must be paid within timeout_s=2, got 6.0, which the tokens pay in 4 s"
    with (
        pytest.raises(BudgetExhaustedError, match=message) as caught,
        budget.spend(6.0, timeout_s=2),
    ):
        pytest.fail("it must not run")
    assert caught.value.wait_s == 4.0
    assert clock.slept == []
    assert budget.wait_s(6.0) == 4.0
    assert budget.state.spent == 8.0


@pytest.mark.parametrize("timeout_s", [4.0, math.inf])
@pytest.mark.parametrize("now", [0.0, 1e9])
def test_it_waits_for_the_tokens_and_not_much_longer(timeout_s, now):
    budget, clock = live(now=now)
    with budget.spend(8.0):
        pass
    with budget.spend(6.0, timeout_s=timeout_s):
        assert clock.now == pytest.approx(now + 4.0, abs=2e-3)


def test_what_never_fits_and_what_has_no_rate_is_refused_at_once():
    budget, clock = live(rate=0.0)
    with pytest.raises(BudgetError, match="cost must be at most capacity=10"):
        budget.spend(11.0, timeout_s=math.inf).__enter__()
    with budget.spend(8.0):
        pass
    with pytest.raises(BudgetExhaustedError, match="in inf s"):
        budget.spend(3.0, timeout_s=math.inf).__enter__()
    assert clock.slept == []


def test_a_timeout_is_a_time():
    budget, _ = live()
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="timeout_s must be"):
            budget.spend(1.0, timeout_s=bad).__enter__()
    assert budget.state.in_flight == 0


@pytest.mark.parametrize("said, spent", [([], 4.0), ([3.0], 3.0)])
def test_a_report_that_is_no_amount_is_refused_and_the_last_good_one_stands(said, spent):
    budget, _ = live()
    with budget.spend(4.0) as spending:
        for measured in said:
            spending.report(measured)
        with pytest.raises(ValueError, match="measured must be a number, got nan"):
            spending.report(math.nan)
    assert (budget.state.spent, budget.state.in_flight) == (spent, 0)


def test_ranks_follow_the_tokens():
    points = frontier({"a": [4.0, 1.0, 0.0]}, {"a": [1.0, 4.0, 8.0]})
    budget, _ = live()
    assert budget.ranks_for(points).ranks == {"a": 2}
    assert budget.ranks_for(points, requests=2).ranks == {"a": 1}
    with budget.spend(9.5):
        assert budget.ranks_for(points) is None
    with pytest.raises(TypeError, match="manager must be a BudgetManager .* got LayerBudgets"):
        LiveBudget(LayerBudgets.split(budget.manager, {"a": 1.0})).ranks_for(points)


def test_layers_are_spent_from_in_the_same_way():
    clock = Clock()
    total = BudgetManager(1.0, 10.0, correction=NO_CORRECTION)
    budget = LiveBudget(LayerBudgets.split(total, {"a": 0.5}), clock=clock, sleep=clock.sleep)
    with budget.spend({"a": 4.0, "b": 3.0}) as spending:
        spending.report({"a": 5.0, "b": 1.0})
    assert (budget.state.total.spent, budget.state.layers["a"].spent) == (6.0, 5.0)
    with budget.spend({"a": 1.0}, timeout_s=9.0):
        assert clock.now == pytest.approx(2.0)


def test_threads_together_spend_no_more_than_there_is():
    budget = LiveBudget(BudgetManager(0.0, 100.0), clock=time.monotonic)
    done, refused = [], []

    def work():
        for _ in range(50):
            try:
                with budget.spend(1.0) as spending:
                    spending.report(0.5)
                done.append(0.5)
            except BudgetExhaustedError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == 400
    assert sum(done) == budget.state.spent <= 100.0
    assert budget.state.spent > 99.0 - 8
    assert (budget.state.in_flight, budget.state.reserved) == (0, 0.0)
