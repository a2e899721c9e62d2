"""The laws of policies; `rank_sched.testing` offers them."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import fields, replace

import numpy as np

from rank_sched._observation import Observation
from rank_sched._policy import Policy
from rank_sched._scheduler import RankScheduler, SchedulerState

_SHARES = (0.0, 0.5, 0.9, 1.0, 1.1, 2.0)  # of a budget


def check_policy(
    policy: Policy, observations: Iterable[Observation], *, r_min: int, r_max: int
) -> list[int]:
    """Assert the laws of a policy for a run of observations; return the ranks taken.

    Ranks are whole and in bounds; the same state and observation give the same answer, from the
    policy and from a copy of it; nothing that goes in is changed; and where an observation has a
    budget, more of it never means less rank. States must compare by value.

    Args:
        policy: The policy.
        observations: One per step, with the fields that the policy needs; steps are counted. One
            with a budget is also tried at shares of it from 0 to 2, so its costs should reach
            across these.
        r_min: Lower bound of the ranks.
        r_max: Upper bound of the ranks.
    """
    scheduler = RankScheduler(policy, r_min, r_max)
    twin = RankScheduler(deepcopy(policy), r_min, r_max)
    state, ranks = scheduler.init(), []
    assert state == scheduler.init() == twin.init(), "init is not deterministic"
    for observation in observations:
        _check_budgets(scheduler, state, observation)
        before, seen = deepcopy(state), deepcopy(observation)
        rank, after = scheduler.step(state, observation)
        assert state == before, "the state was changed in place"
        _check_unchanged(observation, seen)
        for other in (scheduler, twin):
            assert other.step(before, seen) == (rank, after), "not pure"
        assert type(rank) is int, f"{rank!r} is not an int"
        assert r_min <= rank <= r_max, f"{rank} is out of range"
        ranks.append(rank)
        state = after
    return ranks


def _check_unchanged(observation: Observation, before: Observation) -> None:
    for field in fields(observation):
        np.testing.assert_equal(
            getattr(observation, field.name),
            getattr(before, field.name),
            err_msg=f"the observation was changed in place: {field.name}",
        )


def _check_budgets(
    scheduler: RankScheduler, state: SchedulerState, observation: Observation
) -> None:
    if observation.budget is None:
        return
    budgets = sorted(share * observation.budget for share in _SHARES)
    seen = [replace(observation, budget=budget) for budget in budgets]
    ranks = [scheduler.step(state, each)[0] for each in seen]
    assert ranks == sorted(ranks), f"budgets {budgets} give ranks {ranks}: less for more"
