import math

import pytest
from hypothesis import given, strategies as st

from rank_sched import GainCorrection


def run(correction, ratios, *, every=1.0):
    """Return the gain after each tick."""
    state, gains = correction.init(0.0), []
    for k, ratio in enumerate(ratios, start=1):
        state = correction.settled(state, predicted=2.0, measured=2.0 * ratio)
        state = correction.at(state, k * every)
        gains.append(state.gain)
    return gains


@st.composite
def corrections(draw):
    kp = draw(st.floats(0, 0.9))
    ki = draw(st.floats(0.05, 0.95)) * (2 - 2 * kp)
    return GainCorrection(kp, ki)


@given(corrections(), st.floats(0.3, 3.5))
def test_a_constant_error_is_learnt_wherever_the_loop_is_said_to_settle(correction, error):
    assert run(correction, [error] * 2000)[-1] == pytest.approx(error, rel=1e-3)


@given(corrections(), st.lists(st.floats(0, 1e9), max_size=30))
def test_the_gain_and_its_integral_stay_within_the_limits(correction, ratios):
    state = correction.init(0.0)
    for k, ratio in enumerate(ratios, start=1):
        state = correction.settled(state, predicted=1.0, measured=ratio)
        state = correction.at(state, float(k))
        assert 0.25 * (1 - 1e-12) <= state.gain <= 4.0 * (1 + 1e-12)
        assert math.log(0.25) <= state.integral <= math.log(4.0)


@pytest.mark.parametrize("wrong", [1e6, 40.0, 1e-6])
def test_a_long_excess_is_forgotten_as_fast_as_a_short_one(wrong):
    correction = GainCorrection()
    short, long = (run(correction, [wrong] * n + [1.0] * 20) for n in (10, 1000))
    assert short[9] == pytest.approx(4.0 if wrong > 1 else 0.25)
    assert long[-20:] == pytest.approx(short[-20:], rel=1e-6)
    assert long[-1] == pytest.approx(1.0, rel=0.01)


def test_without_anti_windup_it_would_take_longer():
    # the same loop with limits too wide to matter winds up, which shows that the limits are at work
    narrow, wide = GainCorrection(high=2.0), GainCorrection(high=1e9)
    ratios = [1e6] * 50 + [1.0] * 3
    assert run(narrow, ratios)[-1] < 1.1 < run(wide, ratios)[-1]


def test_one_absurd_measurement_leaves_nothing_in_the_integral():
    correction = GainCorrection(kp=0.4)
    state = correction.settled(correction.init(0.0), predicted=1.0, measured=1e30)
    state = correction.at(state, 1.0)
    assert (state.gain, state.integral) == (pytest.approx(4.0), 0.0)


def test_ticks_are_as_far_apart_as_said_and_see_all_that_came_between():
    correction = GainCorrection(kp=0.0, ki=1.0, tick_s=2.0)
    state = correction.init(10.0)
    for now, measured in [(10.5, 1.0), (11.0, 2.0), (11.9, 3.0)]:
        state = correction.at(correction.settled(state, predicted=1.0, measured=measured), now)
        assert state.gain == 1.0
    state = correction.at(state, 12.0)
    assert state.gain == pytest.approx(2.0)  # (1 + 2 + 3)/3, in one step
    assert (state.predicted, state.measured, state.ticked_at) == (0.0, 0.0, 12.0)
    assert correction.at(state, 99.0) == state  # nothing was settled


def test_two_zeros_switch_it_off():
    assert set(run(GainCorrection(kp=0, ki=0), [3.0] * 20)) == {1.0}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kp": 1.5}, r"kp must be in 0\.\.1, got 1\.5"),
        ({"kp": 0.5, "ki": 1.0}, "ki must be above 0 and below 2 - 2·kp = 1, .* got 1"),
        ({"kp": 0.5, "ki": 0.0}, "ki must be above 0"),
        ({"ki": math.nan}, "ki must be a number, got nan"),
        ({"tick_s": 0.1}, r"tick_s must be in 1\.\.inf, got 0\.1"),
        ({"tick_s": math.inf}, "tick_s must be finite"),
        ({"low": 0.0}, "low must be above 0, got 0"),
        ({"low": 1.5}, r"low must be in 0\.\.1, got 1\.5"),
        ({"high": 0.5}, r"high must be in 1\.\.inf, got 0\.5"),
    ],
)
def test_impossible_loops_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GainCorrection(**options)
