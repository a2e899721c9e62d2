import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from rank_sched import (
    Bounds,
    Fixed,
    Observation,
    RankScheduler,
    clip,
    cooldown,
    hysteresis,
    lowest,
    quantize,
)

WANTS = st.lists(st.integers(0, 100), min_size=1, max_size=40)


@dataclass(frozen=True)
class Play:
    """Wants one rank after another."""

    ranks: tuple

    def init(self, bounds):
        return 0

    def decide(self, state, observation):
        return float(self.ranks[state]), state + 1


def run(make, ranks):
    scheduler = RankScheduler(make(Play(tuple(ranks))), 0, 100)
    state, taken = scheduler.init(), []
    for _ in ranks:
        rank, state = scheduler.step(state)
        taken.append(rank)
    return taken


@given(WANTS, st.integers(0, 50), st.integers(0, 50))
def test_clip_keeps_what_lies_between_and_nothing_else(ranks, low, width):
    taken = run(lambda policy: clip(policy, low, low + width), ranks)
    assert taken == [min(max(rank, low), low + width) for rank in ranks]


@pytest.mark.parametrize("rounding", ["down", "up", "nearest"])
@given(ranks=WANTS, multiple=st.integers(1, 20))
def test_quantize_takes_a_near_multiple_on_its_side(rounding, ranks, multiple):
    for rank in ranks:
        policy = quantize(Fixed(rank), multiple, rounding=rounding)
        taken = policy.decide(policy.init(Bounds(0, 200)), Observation())[0]
        assert taken % multiple == 0
        assert taken <= rank or rounding != "down"
        assert taken >= rank or rounding != "up"
        assert abs(taken - rank) < multiple
        assert abs(taken - rank) <= multiple / 2 or rounding != "nearest"


@given(WANTS, st.integers(0, 30), st.integers(0, 30))
def test_hysteresis_is_never_further_off_than_its_width_and_moves_only_beyond_it(ranks, up, down):
    taken = run(lambda policy: hysteresis(policy, up, down), ranks)
    assert taken[0] == ranks[0]
    for before, after, rank in zip(taken, taken[1:], ranks[1:], strict=False):
        assert -down <= rank - after <= up
        assert after == (before if -down <= rank - before <= up else rank)


@given(WANTS, st.integers(0, 6), st.integers(0, 6))
def test_a_cool_down_lies_before_every_change_but_the_first(ranks, up, down):
    taken = run(lambda policy: cooldown(policy, up, down), ranks)
    changes = [k for k in range(1, len(taken)) if taken[k] != taken[k - 1]]
    for last, k in pairwise(changes):
        assert k - last >= (up if taken[k] > taken[k - 1] else down)
    for k in range(1, len(taken)):
        last = max((c for c in changes if c < k), default=-100)
        pause = up if ranks[k] > taken[k - 1] else down
        assert taken[k] == ranks[k] or k - last < pause


@given(st.lists(WANTS, min_size=1, max_size=3))
def test_the_lowest_of_several_limits_holds(rows):
    length = min(map(len, rows))
    rows = [row[:length] for row in rows]
    scheduler = RankScheduler(lowest(*(Play(tuple(row)) for row in rows)), 0, 100)
    state = scheduler.init()
    for wants in zip(*rows, strict=True):
        rank, state = scheduler.step(state)
        assert rank == min(wants)


def test_wrappers_nest_in_any_order():
    noisy = (20, 24, 17, 40, 43, 38)
    steady = run(lambda policy: clip(quantize(hysteresis(policy, 4), 16), 4, 64), noisy)
    assert steady == [16, 16, 16, 32, 32, 32]
    assert run(lambda policy: hysteresis(quantize(policy, 16), 20), noisy) == [16] * 6


def test_what_is_wanted_may_be_infinite_but_not_nan():
    @dataclass(frozen=True)
    class Wants:
        rank: float

        def init(self, bounds):
            return None

        def decide(self, state, observation):
            return self.rank, None

    for policy in (Wants(math.inf), quantize(Wants(math.inf), 16), hysteresis(Wants(math.inf), 2)):
        assert RankScheduler(policy, 4, 64).step()[0] == 64
    for wrap in (
        lambda policy: policy,
        lambda policy: clip(policy, 0, 9),
        lambda policy: quantize(policy, 2),
        lambda policy: lowest(Fixed(3), policy),
        lambda policy: hysteresis(policy, 2),
        lambda policy: cooldown(policy, 2),
    ):
        with pytest.raises(ValueError, match="the rank wanted must be a number, got nan"):
            RankScheduler(wrap(Wants(math.nan)), 4, 64).step()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: clip(Fixed(3), 5, 4), "low must be at most high=4, got 5"),
        (lambda: quantize(Fixed(3), 0), "multiple must be at least 1, got 0"),
        (
            lambda: quantize(Fixed(3), 2, rounding="off"),
            "rounding must be one of down, up, nearest",
        ),
        (lambda: hysteresis(Fixed(3), -1), "up must be at least 0, got -1"),
        (lambda: hysteresis(Fixed(3), 1, -1), "down must be at least 0, got -1"),
        (lambda: cooldown(Fixed(3), -1), "up must be at least 0, got -1"),
        (lowest, "policies must be at least one"),
    ],
)
def test_impossible_wrappers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrap", [lambda p: clip(p, 0, 1), lambda p: quantize(p, 8), lowest])
@pytest.mark.parametrize("other", [Fixed, "fixed", 8])
def test_only_policies_can_be_wrapped(wrap, other):
    with pytest.raises(
        TypeError, match="policy must (have init and decide|be an object, got the class: Fixed)"
    ):
        wrap(other)


def test_a_step_backwards_is_refused():
    policy = cooldown(Play((1, 2, 3)), 2)
    state = policy.init(Bounds(0, 9))
    for step in (5, 6):
        _, state = policy.decide(state, Observation(step=step))
    with pytest.raises(ValueError, match="step must not lie before the last change at 6, got 4"):
        policy.decide(state, Observation(step=4))
