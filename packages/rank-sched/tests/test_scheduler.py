import sys
from copy import deepcopy
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest

from rank_sched import (
    Complexity,
    CosineAnneal,
    EnergyAware,
    Fixed,
    LatencyAware,
    LinearAnneal,
    LossBound,
    Observation,
    RankScheduler,
    SchedulerState,
    cooldown,
    hysteresis,
    lowest,
    quantize,
)
from rank_sched.testing import check_policy

NAMES = {
    "fixed": {"rank": 8},
    "energy_aware": {"energy_budget_mJ_per_sample": 5.0, "alpha": 1.0, "beta": 0.1},
    "latency_aware": {"latency_budget_s": 0.01},
    "complexity": {"gamma": 2.0},
    "loss_bound": {"max_loss_share": 0.1},
    "linear_anneal": {"steps": 100},
    "cosine_anneal": {"steps": 100},
}
EVERYTHING = Observation(
    complexity=0.4, rank_costs=np.arange(65) * 1e-3, loss_curve=np.arange(65.0)[::-1]
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_and_options_make_a_scheduler(name):
    rank, state = RankScheduler(name, 4, 64, **NAMES[name]).step(None, EVERYTHING)
    assert 4 <= rank <= 64
    assert (state.step, state.rank) == (1, rank)


def test_two_words_are_enough_where_the_observation_brings_the_rest():
    scheduler = RankScheduler("energy_aware", r_min=4, r_max=64)
    assert (scheduler.r_min, scheduler.r_max) == (4, 64)
    assert repr(scheduler) == f"RankScheduler({EnergyAware()!r}, r_min=4, r_max=64)"
    seen = Observation(budget=0.0205, rank_costs=EVERYTHING.rank_costs)
    assert scheduler.step(scheduler.init(), seen)[0] == 20


@pytest.mark.parametrize("rank, taken", [(0, 4), (4, 4), (33, 33), (64, 64), (10**9, 64)])
def test_ranks_are_clipped_to_the_bounds(rank, taken):
    assert RankScheduler(Fixed(rank), 4, 64).step()[0] == taken


def test_steps_are_counted_unless_the_observation_says_otherwise():
    scheduler = RankScheduler("linear_anneal", 0, 100, steps=10)
    rank, state = scheduler.step(scheduler.init())
    assert (rank, state.step) == (100, 1)
    rank, state = scheduler.step(state)
    assert (rank, state.step) == (90, 2)
    rank, state = scheduler.step(state, Observation(step=7))
    assert (rank, state.step) == (30, 8)


def test_a_measurement_belongs_to_the_rank_given_last_unless_it_says_otherwise():
    scheduler = RankScheduler("latency_aware", 0, 10, correction=1.0)
    costs = np.arange(11.0)
    _, state = scheduler.step(None, Observation(budget=4.0, rank_costs=costs))
    seen = {"budget": 4.0, "rank_costs": costs, "latency_s": 8.0}
    assert scheduler.step(state, Observation(**seen))[1].policy.gain == pytest.approx(2.0)
    seen["rank"] = 8
    assert scheduler.step(state, Observation(**seen))[1].policy.gain == pytest.approx(1.0)


def test_halves_are_rounded_up():
    @dataclass(frozen=True)
    class Between:
        def init(self, bounds):
            return None

        def decide(self, state, observation):
            return observation.budget, None

    wants = [4.49, 4.5, 5.5, 6.4]
    ranks = [RankScheduler(Between(), 0, 9).step(None, Observation(budget=w))[0] for w in wants]
    assert ranks == [4, 5, 6, 6]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("fastest", 4, 64), ValueError, "policy must be one of fixed, energy_aware, .*'fastest'"),
        (("fixed", 65, 64), ValueError, "r_max must be at least r_min=65, got 64"),
        (("fixed", -1, 64), ValueError, "r_min must be at least 0, got -1"),
        (("fixed", 4, 6.5), TypeError, r"r_max must be a whole number, got 6\.5"),
        (("fixed", 4, 64), TypeError, "policy 'fixed' takes .*rank.*: missing a required .*'rank'"),
        ((Fixed, 4, 64), TypeError, r"policy must be an object, got the class: Fixed\(\.\.\.\)"),
        ((None, 4, 64), TypeError, "policy must have init and decide, got None"),
    ],
)
def test_impossible_schedulers_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        RankScheduler(*arguments)


def test_unknown_options_are_refused_by_name():
    with pytest.raises(TypeError, match="policy 'complexity' takes .*gamma.*'alpha'"):
        RankScheduler("complexity", 4, 64, alpha=1.0)
    with pytest.raises(
        TypeError, match=r"options must go with the name of a policy, got \['alpha'\]"
    ):
        RankScheduler(EnergyAware(), 4, 64, alpha=1.0)


def test_state_and_observation_are_not_mixed_up():
    scheduler = RankScheduler("fixed", 4, 64, rank=8)
    with pytest.raises(TypeError, match="state must be of type SchedulerState, got Observation"):
        scheduler.step(Observation())
    with pytest.raises(TypeError, match="observation must be of type Observation, got {'step': 3}"):
        scheduler.step(scheduler.init(), {"step": 3})


@pytest.mark.parametrize("name", NAMES)
def test_schedulers_and_states_can_be_copied(name):
    scheduler = RankScheduler(name, 4, 64, **NAMES[name])
    rank, state = scheduler.step(None, EVERYTHING)
    twin, start = deepcopy((scheduler, state))
    assert twin.step(None, EVERYTHING) == (rank, state)
    assert twin.step(start, EVERYTHING) == scheduler.step(state, EVERYTHING)


def install(folder, name, lines):
    """Write the metadata of a distribution that does nothing but have entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rank_sched.policies]\n" + "\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    module = ModuleType("their_policies")
    module.Middle = lambda share=0.5: LinearAnneal(steps=1, start=int(64 * share))
    module.nothing = lambda: 3
    monkeypatch.setitem(sys.modules, "their_policies", module)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_an_entry_point_is_a_policy_like_any_other(site):
    install(site, "their-policies", ["middle = their_policies:Middle"])
    assert RankScheduler("middle", 4, 64).step()[0] == 32
    scheduler = RankScheduler("middle", 4, 64, share=0.25)
    assert scheduler.step()[0] == 16
    assert check_policy(scheduler.policy, [Observation()] * 3, r_min=4, r_max=64) == [16, 4, 4]
    with pytest.raises(ValueError, match="policy must be one of fixed, .*, middle, got 'centre'"):
        RankScheduler("centre", 4, 64)
    with pytest.raises(TypeError, match="policy 'middle' takes .*share.*'part'"):
        RankScheduler("middle", 4, 64, part=0.25)


def test_an_entry_point_cannot_stand_in_for_a_policy_of_ours(site):
    install(site, "their-policies", ["fixed = their_policies:nothing"])
    assert RankScheduler("fixed", 4, 64, rank=9).step()[0] == 9


def test_a_name_that_two_distributions_claim_is_refused(site):
    install(site, "theirs", ["middle = their_policies:Middle"])
    install(site, "others", ["middle = their_policies:nothing"])
    with pytest.raises(ValueError, match="policy 'middle' must have one owner, got others, theirs"):
        RankScheduler("middle", 4, 64)


def test_an_entry_point_that_makes_no_policy_is_refused(site):
    install(site, "theirs", ["empty = their_policies:nothing"])
    with pytest.raises(TypeError, match="policy 'empty' must have init and decide, got 3"):
        RankScheduler("empty", 4, 64)


@dataclass(frozen=True)
class Broken:
    """Breaks one law."""

    how: str

    def init(self, bounds):
        return [0] if self.how == "state" else object() if self.how == "init" else 0

    def decide(self, state, observation):
        if self.how == "state":
            state[0] += 1
        if self.how == "observation":
            observation.rank_costs[0] += 1
        if self.how == "memory":
            MEMORY.append(0)
            return float(len(MEMORY)), state
        if self.how == "budget":
            return 50 - observation.budget, state
        return 3.0, state


MEMORY = []


@pytest.mark.parametrize(
    "how, message",
    [
        ("init", "init is not deterministic"),
        ("state", "the state was changed in place"),
        ("observation", "the observation was changed in place"),
        ("memory", "not pure"),
        ("budget", "less for more"),
    ],
)
def test_a_policy_that_breaks_a_law_is_found_out(how, message):
    budget = {"budget": 8.0} if how == "budget" else {}
    seen = [Observation(rank_costs=np.arange(9.0), **budget)] * 3
    check_policy(Broken("not at all"), seen, r_min=0, r_max=100)
    with pytest.raises(AssertionError, match=message):
        check_policy(Broken(how), seen, r_min=0, r_max=100)


def test_a_state_is_a_plain_tuple():
    state = RankScheduler("fixed", 4, 64, rank=9).init()
    assert state == SchedulerState(0, None, None)


class Wanting:
    """A policy that answers as it is told."""

    def __init__(self, answer):
        self.answer = answer

    def init(self, bounds):
        return None

    def decide(self, state, observation):
        return self.answer


@pytest.mark.parametrize("answer", [3, (3,), [3, None], None, (3, None, None)])
def test_an_answer_that_is_no_rank_and_state_is_refused(answer):
    with pytest.raises(TypeError, match="must return a rank and a state, got"):
        RankScheduler(Wanting(answer), 1, 8).step()
    with pytest.raises(TypeError, match="must return a rank and a state, got"):
        RankScheduler(quantize(Wanting(answer), 4), 1, 8).step()


POLICIES = {
    "energy_aware": EnergyAware(),
    "latency_aware": LatencyAware(),
    "complexity": Complexity(),
    "loss_bound": LossBound(max_loss=1.0),
    "linear_anneal": LinearAnneal(steps=3),
    "cosine_anneal": CosineAnneal(steps=3),
    "hysteresis": hysteresis(Fixed(3), 1),
    "cooldown": cooldown(Fixed(3), 1),
    "lowest": lowest(Fixed(3), Fixed(4), Fixed(5), Fixed(6)),
}
# policies that remember the same kind of thing
SAME = {"complexity", "loss_bound", "linear_anneal", "cosine_anneal"}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("other", POLICIES)
def test_the_state_of_another_policy_is_refused_by_name(name, other):
    kinds = ({"energy_aware", "latency_aware"}, SAME, {name})
    if any({name, other} <= kind for kind in kinds):
        return
    table = [0, 1, 2, 3, 4]
    seen = Observation(complexity=0.5, budget=1.0, rank_costs=table, loss_curve=table)
    state = RankScheduler(POLICIES[other], 1, 4).init()
    with pytest.raises(TypeError, match=f"state must be one that {name} gave, got"):
        RankScheduler(POLICIES[name], 1, 4).step(state, seen)
