"""Policies that keep a cost within a budget."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rank_sched._finite import finite, quantity
from rank_sched._layers import Floats, Ints
from rank_sched._numbers import number, number_in
from rank_sched._observation import EVERY_RANK, Bounds, Observation, RankTable, read_table
from rank_sched._policy import own_state

_LARGEST_GAIN = 4.0  # a prediction further off than this is not a matter of correction


class CostState(NamedTuple):
    """Where a policy on a budget stands.

    Attributes:
        bounds: The ranks to choose from.
        gain: What measurements are to predictions, by what is known so far.
    """

    bounds: Bounds
    gain: float = 1.0


@dataclass(frozen=True)
class LatencyAware:
    """Wants the largest rank whose predicted latency is within the budget.

    That is the largest rank with gain·`rank_costs`[rank] <= budget - spent, or the smallest there
    is if nothing fits. The gain follows measurements, `Observation.latency_s`, where there are any:
    gain ← gain^(1-c)·(measured/predicted)^c, between 1/4 and 4.

    Needs `Observation.rank_costs` in seconds, and a budget from either side.

    Attributes:
        latency_budget_s: The budget, in seconds, for observations that bring none.
        correction: The c above; 0 believes the predictions.

    >>> policy = LatencyAware(latency_budget_s=0.010, correction=0.5)
    >>> costs = {16: 0.003, 32: 0.006, 64: 0.012}
    >>> rank, state = policy.decide(policy.init(Bounds(4, 64)), Observation(rank_costs=costs))
    >>> rank
    32.0
    >>> slow = Observation(rank_costs=costs, rank=32, latency_s=0.024)  # four times the prediction
    >>> policy.decide(state, slow)  # twice, as far as is believed at once
    (16.0, CostState(bounds=Bounds(r_min=4, r_max=64), gain=2.0))
    """

    latency_budget_s: float | None = None
    correction: float = 0.2

    def __post_init__(self) -> None:
        if self.latency_budget_s is not None:
            budget = quantity("latency_budget_s", self.latency_budget_s)
            object.__setattr__(self, "latency_budget_s", budget)
        correction = number_in("correction", self.correction, 0.0, 1.0)
        object.__setattr__(self, "correction", correction)

    def init(self, bounds: Bounds) -> CostState:
        """Return the state that believes the predictions."""
        return CostState(bounds)

    def decide(self, state: CostState, observation: Observation) -> tuple[float, CostState]:
        """Return the rank for this budget, and what its measurement taught."""
        state = own_state(state, CostState, by="latency_aware")
        limit = budget_left(observation, self.latency_budget_s, by="latency_aware")
        costs = observation.need("rank_costs", by="latency_aware")
        ranks, values = read_table("rank_costs", costs, state.bounds)
        at = observation.rank
        gain = corrected(state.gain, ranks, values, at, observation.latency_s, self.correction)
        return largest_within(limit, ranks, gain * values), state._replace(gain=gain)


@dataclass(frozen=True)
class EnergyAware:
    """Wants the largest rank whose predicted energy is within the budget.

    That is the largest rank with gain·E(rank) <= budget - spent, or the smallest there is if
    nothing fits. E is `Observation.rank_costs`, in joules; where only work is known,

        E(r) = full_energy_j·(α·FLOPs(r)/FLOPs(R) + β·Mem(r)/Mem(R))/(α + β)

    with the tables `rank_flops` and `rank_memory_bytes` and R their last rank. The gain follows
    `Observation.energy_j` as that of `LatencyAware` follows seconds.

    Needs these tables, and a budget from either side.

    Attributes:
        energy_budget_mJ_per_sample: The budget for observations that bring none, in millijoules
            (as in configuration files; `Observation.budget` is in joules). The tables then are in
            joules per sample.
        alpha: Weight α of the arithmetic.
        beta: Weight β of the memory.
        correction: As in `LatencyAware`.

    >>> policy = EnergyAware(energy_budget_mJ_per_sample=5.0)
    >>> costs = {16: 0.002, 32: 0.004, 64: 0.008}
    >>> policy.decide(policy.init(Bounds(4, 64)), Observation(rank_costs=costs))[0]
    32.0
    >>> work = {"rank_flops": [0, 1, 2, 3, 4], "rank_memory_bytes": [0, 1, 4, 9, 16]}
    >>> seen = Observation(**work, full_energy_j=0.01)
    >>> policy.decide(policy.init(Bounds(1, 4)), seen)[0]  # 5 mJ of 10 for two ranks of four
    2.0
    """

    energy_budget_mJ_per_sample: float | None = None  # noqa: N815 - the unit is written mJ
    alpha: float = 1.0
    beta: float = 0.1
    correction: float = 0.2

    def __post_init__(self) -> None:
        if self.energy_budget_mJ_per_sample is not None:
            name = "energy_budget_mJ_per_sample"
            object.__setattr__(self, name, quantity(name, self.energy_budget_mJ_per_sample))
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, quantity(name, getattr(self, name)))
        if not self.alpha + self.beta:
            raise ValueError("alpha and beta must not both be 0")
        correction = number_in("correction", self.correction, 0.0, 1.0)
        object.__setattr__(self, "correction", correction)

    def init(self, bounds: Bounds) -> CostState:
        """Return the state that believes the predictions."""
        return CostState(bounds)

    def decide(self, state: CostState, observation: Observation) -> tuple[float, CostState]:
        """Return the rank for this budget, and what its measurement taught."""
        state = own_state(state, CostState, by="energy_aware")
        own = self.energy_budget_mJ_per_sample
        own = None if own is None else own * 1e-3
        limit = budget_left(observation, own, by="energy_aware")
        ranks, values = self._energies(observation, state.bounds)
        at = observation.rank
        gain = corrected(state.gain, ranks, values, at, observation.energy_j, self.correction)
        return largest_within(limit, ranks, gain * values), state._replace(gain=gain)

    def _energies(self, observation: Observation, bounds: Bounds) -> tuple[Ints, Floats]:
        if observation.rank_costs is not None:
            return read_table("rank_costs", observation.rank_costs, bounds)
        if observation.rank_flops is None and observation.rank_memory_bytes is None:
            observation.need("rank_costs", by="energy_aware")
        full = quantity("full_energy_j", observation.need("full_energy_j", by="energy_aware"))
        weights = {"rank_flops": self.alpha, "rank_memory_bytes": self.beta}
        tables = {
            name: observation.need(name, by="energy_aware") for name in weights if weights[name]
        }
        parts = {name: _shares(name, table, bounds) for name, table in tables.items()}
        ranks = next(iter(parts.values()))[0]
        if any(not np.array_equal(ranks, other) for other, _ in parts.values()):
            raise ValueError("rank_flops and rank_memory_bytes must know the same ranks")
        share = sum(weights[name] * shares for name, (_, shares) in parts.items())
        return ranks, np.asarray(full * share / (self.alpha + self.beta))


def budget_left(observation: Observation, default: float | None, *, by: str) -> float:
    """Return what may still be spent, the observation's budget before the policy's own."""
    if observation.budget is None and default is not None:
        budget = default
    else:
        budget = number("budget", observation.need("budget", by=by))
    return budget - (0.0 if observation.spent is None else finite("spent", observation.spent))


def largest_within(limit: float, ranks: Ints, costs: Floats) -> float:
    """Return the largest rank that costs at most `limit`, or the smallest rank of all."""
    fits = np.flatnonzero(costs <= limit)
    return float(ranks[fits[-1] if fits.size else 0])


def corrected(
    gain: float,
    ranks: Ints,
    predicted: Floats,
    rank: int | None,
    measured: float | None,
    weight: float,
) -> float:
    """Return the gain after a measurement at `rank`, unchanged if there is none."""
    if rank is None or measured is None:
        return gain
    measured = quantity("a measurement", measured)
    found = np.flatnonzero(ranks == rank)
    if not found.size or not predicted[found[0]] > 0 or not weight:
        return gain
    ratio = measured / float(predicted[found[0]])
    ratio = min(max(ratio, 1 / _LARGEST_GAIN), _LARGEST_GAIN)
    return math.exp((1 - weight) * math.log(gain) + weight * math.log(ratio))


def _shares(name: str, table: RankTable, bounds: Bounds) -> tuple[Ints, Floats]:
    everything = read_table(name, table, EVERY_RANK)[1]
    ranks, values = read_table(name, table, bounds)
    if not everything[-1] > 0:
        raise ValueError(f"{name} must end above 0, got {everything[-1]:g}")
    return ranks, values / everything[-1]
