import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import (
    Bounds,
    Complexity,
    CosineAnneal,
    EnergyAware,
    Fixed,
    LatencyAware,
    LinearAnneal,
    LossBound,
    Observation,
    RankScheduler,
    clip,
    cooldown,
    hysteresis,
    lowest,
    quantize,
)
from rank_sched.testing import check_policy

AMOUNTS = st.floats(0, 1e3)


def table(seed):
    """Costs of 65 ranks, in any order, some of them equal and some 0."""
    rng = np.random.default_rng(seed)
    return np.round(rng.uniform(-1, 10 ** rng.uniform(0, 3), size=65).clip(0), 1)


TABLES = st.integers(0, 10**6).map(table)
POLICIES = {
    "fixed": Fixed(20),
    "energy": EnergyAware(),
    "latency": LatencyAware(),
    "complexity": Complexity(gamma=0.7),
    "loss": LossBound(max_loss=10.0),
    "loss share": LossBound(max_loss_share=0.1),
    "linear": LinearAnneal(steps=7),
    "cosine": CosineAnneal(steps=5, start=3, end=80),
    "clip": clip(Complexity(), 10, 20),
    "quantize": quantize(EnergyAware(), 8),
    "quantize up": quantize(LossBound(max_loss=10.0), 8, rounding="up"),
    "hysteresis": hysteresis(LatencyAware(), 4),
    "cooldown": cooldown(EnergyAware(), 3, down=0),
    "lowest": lowest(Complexity(), EnergyAware(), LatencyAware()),
    "all": clip(quantize(hysteresis(cooldown(LatencyAware(), 2), 4), 16), 4, 64),
}


@st.composite
def observations(draw):
    return Observation(
        budget=draw(AMOUNTS),
        spent=draw(st.none() | st.floats(0, 10)),
        complexity=draw(st.floats(0, 1)),
        latency_s=draw(st.none() | AMOUNTS),
        energy_j=draw(st.none() | AMOUNTS),
        loss_curve=draw(TABLES),
        rank_costs=draw(TABLES),
    )


@pytest.mark.parametrize("name", POLICIES)
@given(seen=st.lists(observations(), max_size=4), r_min=st.integers(0, 30), size=st.integers(0, 30))
def test_every_policy_obeys_the_laws(name, seen, r_min, size):
    check_policy(POLICIES[name], seen, r_min=r_min, r_max=r_min + size)


def wanted(policy, r_min=0, r_max=64, **fields):
    return policy.decide(policy.init(Bounds(r_min, r_max)), Observation(**fields))[0]


@pytest.mark.parametrize("policy", [EnergyAware(), LatencyAware()])
@given(costs=TABLES, budget=AMOUNTS, spent=st.floats(0, 100))
def test_the_rank_is_the_largest_that_the_budget_affords(policy, costs, budget, spent):
    affordable = [rank for rank in range(5, 41) if costs[rank] <= budget - spent]
    seen = {"rank_costs": costs, "budget": budget, "spent": spent}
    assert wanted(policy, 5, 40, **seen) == max(affordable, default=5)


@given(costs=st.dictionaries(st.integers(0, 99), AMOUNTS, min_size=1), budget=AMOUNTS)
def test_a_mapping_offers_its_ranks_and_no_other(costs, budget):
    rank = wanted(EnergyAware(), 0, 99, rank_costs=costs, budget=budget)
    assert rank == max((r for r in costs if costs[r] <= budget), default=min(costs))


@given(curve=TABLES, bound=AMOUNTS)
def test_the_rank_is_the_smallest_whose_loss_is_within_the_bound(curve, bound):
    good = [rank for rank in range(5, 41) if curve[rank] <= bound]
    assert wanted(LossBound(max_loss=bound), 5, 40, loss_curve=curve) == min(good, default=40)


def test_the_share_of_the_loss_is_of_the_whole_curve_and_not_of_the_part_in_bounds():
    curve = [100.0, 50.0, 20.0, 9.0, 2.0]
    assert wanted(LossBound(max_loss_share=0.1), 2, 4, loss_curve=curve) == 3


@given(shares=st.lists(st.floats(0, 1), min_size=2), gamma=st.floats(0.1, 10))
def test_harder_inputs_never_get_less(shares, gamma):
    ranks = [wanted(Complexity(gamma), 4, 64, complexity=share) for share in sorted(shares)]
    assert ranks == sorted(ranks)
    assert wanted(Complexity(gamma), 4, 64, complexity=0) == 4
    assert wanted(Complexity(gamma), 4, 64, complexity=1) == 64


def test_energy_from_work_weighs_arithmetic_and_memory():
    flops, memory = np.arange(9.0), np.arange(9.0) ** 2
    energy = 0.08 * (3 * flops / 8 + 1 * memory / 64) / 4
    work = {"rank_flops": flops, "rank_memory_bytes": memory, "full_energy_j": 0.08}
    policy = EnergyAware(alpha=3.0, beta=1.0)
    for rank in range(9):
        assert wanted(policy, 0, 8, budget=energy[rank] * (1 + 1e-9), **work) == rank


@pytest.mark.parametrize(
    "missing, weight", [("rank_flops", "alpha"), ("rank_memory_bytes", "beta")]
)
def test_a_table_of_no_weight_may_be_missing(missing, weight):
    work = {"rank_flops": [0, 1, 2], "rank_memory_bytes": [0, 1, 2], "full_energy_j": 2.0}
    del work[missing]
    assert wanted(EnergyAware(**{weight: 0.0}), 0, 2, budget=1.5, **work) == 1
    with pytest.raises(ValueError, match=f"energy_aware needs Observation.{missing}, got None"):
        wanted(EnergyAware(), 0, 2, budget=1.5, **work)


def test_the_budget_of_the_configuration_is_in_millijoules_and_the_observation_goes_first():
    policy = EnergyAware(energy_budget_mJ_per_sample=5.0)
    joules = np.arange(65) * 0.001
    assert wanted(policy, rank_costs=joules) == 5
    assert wanted(policy, rank_costs=joules, budget=0.0072) == 7
    assert wanted(LatencyAware(latency_budget_s=0.03), rank_costs=joules) == 30


@pytest.mark.parametrize("policy, field", [(EnergyAware, "energy_j"), (LatencyAware, "latency_s")])
@given(error=st.floats(0.3, 3.5))
def test_a_wrong_cost_model_is_corrected_by_measurement(policy, field, error):
    scheduler = RankScheduler(policy(), 1, 100)
    costs, state, rank = np.arange(101.0), scheduler.init(), None
    for _ in range(60):
        measured = {} if rank is None else {field: error * costs[rank]}
        seen = Observation(budget=30.0, rank_costs=costs, **measured)
        rank, state = scheduler.step(state, seen)
    assert state.policy.gain == pytest.approx(error, rel=1e-4)
    assert error * rank <= 30.0 * (1 + 1e-4)
    assert error * (rank + 1) > 30.0 * (1 - 1e-4) or rank == 100


def test_no_measurement_moves_the_gain_beyond_its_limits_and_none_leaves_it():
    policy = LatencyAware(correction=1.0)
    seen = {"budget": 1.0, "rank_costs": [0.0, 1.0, 2.0], "rank": 1}
    state = policy.init(Bounds(0, 2))
    for measured, gain in [(1e9, 4.0), (0.0, 0.25), (None, 1.0), (2.0, 2.0)]:
        after = policy.decide(state, Observation(latency_s=measured, **seen))[1]
        assert after.gain == pytest.approx(gain)
    assert LatencyAware(correction=0).decide(state, Observation(latency_s=9, **seen))[1] == state
    free = Observation(**seen | {"rank": 0}, latency_s=3.0)  # nothing was predicted for rank 0
    assert policy.decide(state, free)[1] == state


@given(steps=st.integers(1, 50), start=st.integers(0, 90), end=st.integers(0, 90))
def test_anneals_go_one_way_from_start_to_end(steps, start, end):
    for anneal in (LinearAnneal, CosineAnneal):
        policy = anneal(steps, start, end)
        ranks = [wanted(policy, step=step) for step in range(steps + 3)]
        assert ranks[0] == start
        assert ranks[steps:] == pytest.approx([end] * 3)
        assert ranks in (sorted(ranks), sorted(ranks, reverse=True))


def test_a_cosine_is_slow_at_its_ends_and_meets_the_line_in_the_middle():
    ranks = [wanted(CosineAnneal(8, 0, 64), step=step) for step in range(9)]
    assert ranks == pytest.approx([32 * (1 - math.cos(math.pi * k / 8)) for k in range(9)])
    assert ranks[4] == pytest.approx(wanted(LinearAnneal(8, 0, 64), step=4))


@pytest.mark.parametrize(
    "policy, field",
    [
        (EnergyAware(), "budget"),
        (EnergyAware(energy_budget_mJ_per_sample=1), "rank_costs"),
        (LatencyAware(), "budget"),
        (LatencyAware(latency_budget_s=1), "rank_costs"),
        (Complexity(), "complexity"),
        (LossBound(max_loss=1), "loss_curve"),
        (LinearAnneal(3), "step"),
        (CosineAnneal(3), "step"),
        (cooldown(Fixed(3), 2), "step"),
    ],
)
def test_a_missing_field_is_named(policy, field):
    with pytest.raises(ValueError, match=rf"\w+ needs Observation\.{field}, got None"):
        wanted(policy)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Fixed(-1), "rank must be at least 0, got -1"),
        (lambda: Complexity(gamma=0), "gamma must be above 0, got 0"),
        (LossBound, "exactly one of max_loss and max_loss_share"),
        (lambda: LossBound(1.0, 0.5), "exactly one of max_loss and max_loss_share"),
        (lambda: LossBound(max_loss_share=2), r"max_loss_share must be in 0\.\.1, got 2"),
        (lambda: LinearAnneal(0), "steps must be at least 1, got 0"),
        (lambda: CosineAnneal(4, end=-2), "end must be at least 0, got -2"),
        (lambda: EnergyAware(alpha=0, beta=0), "alpha and beta must not both be 0"),
        (lambda: EnergyAware(alpha=-1), "alpha must be at least 0, got -1"),
        (lambda: EnergyAware(energy_budget_mJ_per_sample=math.inf), "must be finite, got inf"),
        (lambda: LatencyAware(latency_budget_s=math.nan), "latency_budget_s must be a number"),
        (lambda: LatencyAware(correction=1.5), r"correction must be in 0\.\.1, got 1\.5"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"rank_costs": [1.0, math.nan]}, "rank_costs must hold one number per rank and no NaN"),
        ({"rank_costs": [[1.0]]}, "rank_costs must hold one number per rank"),
        ({"rank_costs": []}, r"rank_costs must know a rank in 0\.\.64, got ranks \[\]"),
        ({"rank_costs": {99: 1.0}}, r"rank_costs must know a rank in 0\.\.64, got ranks \[99\]"),
        ({"rank_costs": [1.0], "budget": math.nan}, "budget must be a number, got nan"),
        ({"rank_costs": [1.0], "spent": math.inf}, "spent must be finite, got inf"),
        ({"rank_costs": [1.0], "rank": 0, "energy_j": -1.0}, "a measurement must be at least 0"),
        ({"rank_flops": [0, 0], "rank_memory_bytes": [0, 1], "full_energy_j": 1}, "must end above"),
        ({"rank_flops": [0, 1], "rank_memory_bytes": [0, 1, 2], "full_energy_j": 1}, "same ranks"),
    ],
)
def test_impossible_observations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        wanted(EnergyAware(), **{"budget": 1.0} | fields)


def test_a_table_of_words_is_refused():
    with pytest.raises(TypeError, match="rank_costs must hold one number per rank"):
        wanted(EnergyAware(), budget=1.0, rank_costs=["cheap", "dear"])
    with pytest.raises(ValueError, match=r"complexity must be in 0\.\.1, got 1\.2"):
        wanted(Complexity(), complexity=1.2)
