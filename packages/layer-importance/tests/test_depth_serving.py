import threading

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from layer_importance import DepthController, DepthServing, ElasticDepth, QualityGuard

COSTS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]


def serve(controller, load, answers, *, noise=0.0, seed=0, costs=COSTS):
    """Seconds and levels of answers whose time is the load times what the level costs."""
    rng = np.random.default_rng(seed)
    seconds, levels = [], []
    for _ in range(answers):
        level = controller.level
        took = load * costs[level] * float(np.exp(noise * rng.standard_normal()))
        controller.observe(took, level=level)
        seconds.append(took)
        levels.append(level)
    return seconds, levels


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("believed", [COSTS, None], ids=["known costs", "unknown costs"])
def test_twice_the_load_is_in_time_again_within_thirty_answers(believed, noise):
    controller = DepthController(6, target_s=1.0, costs=believed)
    serve(controller, 0.85, 60, noise=noise, seed=1)
    assert controller.level == 0
    seconds, _ = serve(controller, 1.7, 130, noise=noise, seed=2)
    assert np.quantile(seconds[30:], 0.9) <= 1.0


@pytest.mark.parametrize("load", [0.3, 0.9, 1.05, 1.3, 1.6, 2.2])
def test_under_a_steady_load_the_level_settles_and_stays(load):
    controller = DepthController(6, target_s=1.0, costs=COSTS)
    serve(controller, load, 200)
    _, levels = serve(controller, load, 400)
    assert len(set(levels)) == 1


def test_when_the_load_is_gone_all_depth_comes_back_level_by_level():
    controller = DepthController(6, target_s=1.0, costs=COSTS)
    serve(controller, 2.0, 100)
    assert controller.level > 3
    _, levels = serve(controller, 0.5, 200)
    assert levels[-1] == 0
    assert min(np.diff(levels)) == -1


def test_one_slow_answer_among_many_moves_nothing():
    controller = DepthController(6, target_s=1.0, costs=COSTS, window=40)
    serve(controller, 0.9, 50)
    controller.observe(30.0)
    assert controller.level == 0
    _, levels = serve(controller, 0.9, 100)
    assert set(levels) == {0}


def test_answers_of_another_level_tell_nothing():
    controller = DepthController(6, target_s=1.0, window=3)
    for _ in range(50):
        assert controller.observe(9.0, level=4) == 0


def test_a_ceiling_holds_whatever_the_load():
    controller = DepthController(6, target_s=1.0, costs=COSTS)
    serve(controller, 2.4, 100)
    controller.limit(2)
    assert controller.level == 2
    _, levels = serve(controller, 9.0, 100)
    assert set(levels) == {2}


@given(
    st.integers(0, 5),
    st.lists(st.floats(0, 10), max_size=120),
    st.integers(1, 10),
    st.floats(0, 0.9),
)
def test_the_level_is_always_one_of_the_model(levels, seconds, window, headroom):
    controller = DepthController(levels, target_s=1.0, window=window, headroom=headroom)
    assert all(0 <= controller.observe(took) <= levels for took in seconds)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"levels": -1}, "levels must be at least 0, got -1"),
        ({"target_s": 0.0}, "target_s must be positive"),
        ({"quantile": 1.0}, "quantile must be inside"),
        ({"window": 0}, "window must be at least 1"),
        ({"headroom": 1.0}, "headroom must be in"),
        ({"costs": [1.0]}, "costs must be 3 positive numbers"),
        ({"costs": [1.0, 0.5, 0.7]}, "each at most the one before"),
    ],
)
def test_a_controller_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        DepthController(**{"levels": 2, "target_s": 1.0, **arguments})


@pytest.mark.parametrize("took", [-1.0, float("nan"), float("inf")])
def test_seconds_must_be_seconds(took):
    with pytest.raises(ValueError, match="latency_s must be finite"):
        DepthController(2, 1.0).observe(took)


# the guard


@pytest.mark.parametrize("seed", range(10))
def test_a_break_is_noticed_within_two_hundred_samples(seed):
    rng = np.random.default_rng(seed)
    guard = QualityGuard(allowed=0.02, broken=0.1)
    assert not guard.observe(torch.tensor(rng.random(2000) < 0.01, dtype=torch.float64))
    assert guard.observe(torch.tensor(rng.random(200) < 0.25, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["zero or one", "uniform", "constant"])
def test_false_alarms_are_rarer_than_promised(kind):
    rng = np.random.default_rng(0)
    drawn = {
        "zero or one": (rng.random(200_000) < 0.05).astype(float),
        "uniform": rng.random(200_000) * 0.1,
        "constant": np.full(200_000, 0.05),
    }[kind]
    guard = QualityGuard(allowed=0.05, broken=0.2, false_alarm_every=1000)
    guard.observe(torch.tensor(drawn))
    assert guard.alarms <= 200_000 / 1000


def test_the_guard_is_the_cumulative_sum_of_log_likelihood_ratios():
    rng = np.random.default_rng(3)
    drawn = (rng.random(500) < 0.12).astype(float)
    guard = QualityGuard(allowed=0.05, broken=0.2, false_alarm_every=50)
    total, alarms = 0.0, 0
    for value in drawn:
        ratio = 0.2 / 0.05 if value else 0.8 / 0.95
        total = max(0.0, total + np.log(ratio))
        if total >= np.log(50):
            alarms, total = alarms + 1, 0.0
    guard.observe(torch.tensor(drawn))
    assert guard.alarms == alarms > 0


def test_what_cannot_be_compared_is_not_fine():
    guard = QualityGuard(allowed=0.02, broken=0.2)
    assert guard.observe(torch.full((20,), torch.nan))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"allowed": 0.2, "broken": 0.1}, "0 < allowed < broken < 1"),
        ({"allowed": 0.0}, "0 < allowed < broken < 1"),
        ({"false_alarm_every": 0.5}, "false_alarm_every must be at least 1"),
    ],
)
def test_a_guard_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        QualityGuard(**arguments)


@pytest.mark.parametrize("distances", [torch.tensor([1.5]), torch.tensor([-0.1])])
def test_distances_outside_of_their_range_are_refused(distances):
    with pytest.raises(ValueError, match=r"distances must be in 0\.\.1"):
        QualityGuard().observe(distances)


# both around a model


class Block(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 8)
        nn.init.normal_(self.layer.weight, std=scale)

    def forward(self, x):
        return x + self.layer(self.norm(x))


class Clock:
    """A clock by which a call takes the load times what its level costs."""

    def __init__(self, load):
        self.now, self.load, self.elastic, self._begun = 0.0, load, None, False

    def __call__(self):
        if self._begun:
            self.now += self.load * COSTS[self.elastic.level]
        self._begun = not self._begun
        return self.now


def serving(load, *, useful=0.0, **options):
    torch.manual_seed(0)
    # the last four blocks go first; with `useful` they matter
    net = nn.Sequential(*[Block(0.5) for _ in range(3)], *[Block(useful) for _ in range(4)])
    x = torch.randn(16, 8)
    clock = Clock(load)
    elastic = ElasticDepth(net.eval(), ["6", "5", "4", "3"], example=x)
    clock.elastic = elastic
    controller = DepthController(4, target_s=1.0, costs=COSTS[:5])
    return DepthServing(elastic, controller, clock=clock, **options), x


@torch.no_grad()
def test_without_load_answers_are_those_of_the_model_bit_for_bit():
    served, x = serving(0.5, guard=QualityGuard())
    plain = served.elastic.model(x)
    for _ in range(100):
        assert torch.equal(served(x), plain)
    assert served.level == 0
    assert served.guard.samples == 0


@torch.no_grad()
def test_load_makes_it_shorter_and_blocks_that_do_nothing_raise_no_alarm():
    served, x = serving(1.5, guard=QualityGuard(), shadow=0.5)
    for _ in range(200):
        served(x)
    assert served.level == 4
    assert served.guard.samples > 500
    assert served.guard.alarms == 0


@torch.no_grad()
def test_an_alarm_takes_depth_back_whatever_the_load_until_it_is_reset():
    served, x = serving(1.5, useful=2.0, guard=QualityGuard(), shadow=0.2)
    for _ in range(400):
        served(x)
    assert served.guard.alarms >= 4
    assert served.level == 0
    served.reset()
    for _ in range(20):
        served(x)
    assert served.level > 0


@torch.no_grad()
def test_threads_get_answers_of_one_level_each():
    served, x = serving(1.5, useful=2.0)
    whole = []
    for level in range(5):
        with served.elastic.at(level):
            whole.append(served.elastic.model(x))
    strange = []

    def call():
        for _ in range(60):
            y = served(x)
            if not any(torch.equal(y, known) for known in whole):
                strange.append(y)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not strange


def test_a_controller_of_another_model_is_refused():
    served, _ = serving(0.5)
    with pytest.raises(ValueError, match="controller must have 4 levels as the model has, got 2"):
        DepthServing(served.elastic, DepthController(2, 1.0))
    with pytest.raises(ValueError, match="shadow must be in"):
        DepthServing(served.elastic, DepthController(4, 1.0), shadow=2.0)
