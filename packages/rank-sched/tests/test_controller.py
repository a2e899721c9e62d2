import pytest
from hypothesis import given, strategies as st

from rank_sched import ControllerState, RankController
from rank_sched.testing import check_controller

RANKS = st.integers(0, 100)
ZONES = st.tuples(RANKS, RANKS).map(lambda pair: (max(pair), min(pair)))  # grow_to, shrink_to


MULTIPLES, COOLDOWNS = st.integers(1, 9), st.integers(0, 12)


@st.composite
def controllers(draw, multiples=MULTIPLES, cooldown=COOLDOWNS):
    r_min, r_max = sorted([draw(st.integers(0, 90)), draw(st.integers(0, 90))])
    multiple_of = draw(multiples)
    steps = st.integers(multiple_of, 40)
    return RankController(
        r_min,
        r_max,
        grow_step=draw(steps),
        shrink_step=draw(steps),
        cooldown=draw(cooldown),
        multiple_of=multiple_of,
    )


@st.composite
def starts(draw, **kwargs):
    controller = draw(controllers(**kwargs))
    return controller, draw(st.integers(controller.r_min, controller.r_max))


@given(starts(), st.lists(ZONES, max_size=60))
def test_any_run_obeys_the_laws(start, targets):
    check_controller(*start, targets)


@given(starts(), ZONES)
def test_a_constant_input_moves_one_way_and_settles(start, zone):
    controller, rank = start
    pause = max(controller.cooldown, 1)
    steps = 100 * pause + 1  # the range in steps of one
    ranks = check_controller(controller, rank, [zone] * steps)
    assert ranks in (sorted(ranks), sorted(ranks, reverse=True))
    settled = ControllerState(ranks[-1])
    later = controller.update(settled, 0, grow_to=zone[0], shrink_to=zone[1])
    assert later == settled


@given(starts(multiples=st.just(1), cooldown=st.integers(0, 1)), RANKS)
def test_one_target_is_reached_in_as_few_steps_as_allowed(start, target):
    controller, rank = start
    aim = min(max(target, controller.r_min), controller.r_max)
    step = controller.grow_step if aim > rank else controller.shrink_step
    needed = -(-abs(aim - rank) // step)
    ranks = check_controller(controller, rank, [(target, target)] * (needed + 3))
    assert ranks[needed:] == [aim] * 4
    assert aim not in ranks[:needed]


@given(starts(), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_noise_around_the_rank_changes_nothing(start, noise):
    controller, rank = start
    targets = [(rank + up, max(rank - down, 0)) for up, down in noise]
    assert set(check_controller(controller, rank, targets)) == {rank}


@given(starts(cooldown=st.just(0)), st.lists(st.integers(-5, 5), min_size=80, max_size=120))
def test_a_zone_that_wanders_by_its_own_width_never_makes_the_rank_swing(start, noise):
    controller, rank = start
    targets = [(60 + n, 50 + n) for n in noise]  # every zone holds 55
    ranks = check_controller(controller, rank, targets)
    assert ranks in (sorted(ranks), sorted(ranks, reverse=True))


@given(starts(), st.lists(ZONES, min_size=1, max_size=40))
def test_ranks_are_multiples_after_the_first_change(start, targets):
    controller, rank = start
    allowed = {rank, controller.r_min, controller.r_max}
    for taken in check_controller(controller, rank, targets):
        assert taken in allowed or taken % controller.multiple_of == 0


def test_growth_and_shrinking_stop_at_the_near_edge_of_the_dead_zone():
    controller = RankController(0, 100, grow_step=16, shrink_step=32, cooldown=0)
    assert check_controller(controller, 10, [(50, 45)] * 5) == [10, 26, 42, 45, 45, 45]
    assert check_controller(controller, 90, [(50, 45)] * 4) == [90, 58, 50, 50, 50]


def test_the_cool_down_counts_from_the_last_change():
    controller = RankController(0, 100, grow_step=10, cooldown=3)
    ranks = check_controller(controller, 0, [(25, 25)] * 8)
    assert ranks == [0, 10, 10, 10, 20, 20, 20, 25, 25]


def test_an_unneeded_multiple_is_not_grown_into():
    controller = RankController(4, 100, grow_step=8, cooldown=0, multiple_of=8)
    assert check_controller(controller, 4, [(4, 3)] * 3) == [4, 4, 4, 4]
    assert check_controller(controller, 4, [(9, 5)] * 3) == [4, 8, 8, 8]


def test_a_start_between_the_multiples_is_kept_until_there_is_a_reason_to_move():
    controller = RankController(4, 100, grow_step=8, shrink_step=8, cooldown=0, multiple_of=8)
    assert check_controller(controller, 15, [(18, 12)] * 3) == [15, 15, 15, 15]
    assert check_controller(controller, 15, [(40, 30)] * 3) == [15, 16, 24, 32]
    assert check_controller(controller, 15, [(6, 5)] * 2) == [15, 8, 8]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"r_min": -1}, "r_min must be at least 0, got -1"),
        ({"r_max": 3}, "r_max must be at least r_min=4, got 3"),
        ({"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"grow_step": 0}, "grow_step must be at least multiple_of=1, got 0"),
        ({"shrink_step": 4, "multiple_of": 8}, "shrink_step must be at least multiple_of=8"),
        ({"cooldown": -1}, "cooldown must be at least 0, got -1"),
    ],
)
def test_impossible_rules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RankController(**{"r_min": 4, "r_max": 64} | arguments)


def test_ranks_and_steps_are_whole_numbers():
    with pytest.raises(TypeError, match=r"r_max must be a whole number, got 2\.5"):
        RankController(0, 2.5)
    controller = RankController(4, 64)
    with pytest.raises(ValueError, match=r"rank must be in 4\.\.64, got 65"):
        controller.init(65)
    with pytest.raises(TypeError, match=r"grow_to must be a whole number, got 8\.0"):
        controller.update(controller.init(8), 0, grow_to=8.0, shrink_to=8)


def test_an_empty_dead_zone_and_a_step_backwards_are_refused():
    controller = RankController(4, 64)
    with pytest.raises(ValueError, match="shrink_to must be at most grow_to"):
        controller.update(controller.init(8), 0, grow_to=10, shrink_to=11)
    with pytest.raises(ValueError, match="step must not lie before the last change at 7, got 6"):
        controller.update(ControllerState(8, changed_at=7), 6, grow_to=10, shrink_to=9)
