"""Ranks from a policy, by name or made by hand, always within bounds."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, TypeVar

from rank_sched._numbers import whole
from rank_sched._observation import Bounds, Observation
from rank_sched._policies import Complexity, CosineAnneal, Fixed, LinearAnneal, LossBound
from rank_sched._policies_cost import EnergyAware, LatencyAware
from rank_sched._policy import Policy, ask, check_policy_kind

ENTRY_POINTS = "rank_sched.policies"
_T = TypeVar("_T")
_OWN: dict[str, Callable[..., Policy]] = {
    "fixed": Fixed,
    "energy_aware": EnergyAware,
    "latency_aware": LatencyAware,
    "complexity": Complexity,
    "loss_bound": LossBound,
    "linear_anneal": LinearAnneal,
    "cosine_anneal": CosineAnneal,
}


class SchedulerState(NamedTuple):
    """Where a `RankScheduler` stands.

    Attributes:
        step: Number of the next decision.
        rank: The rank given last, None before the first.
        policy: The state of the policy.
    """

    step: int
    rank: int | None
    policy: Any


class RankScheduler:
    """Turns what a policy wants into a whole rank in `r_min..r_max`.

    A scheduler holds no state: `init` makes one and `step` returns the next, so that one scheduler
    serves any number of layers. Policies by name: `fixed`, `energy_aware`, `latency_aware`,
    `complexity`, `loss_bound`, `linear_anneal`, `cosine_anneal`, and every entry point of the group
    `rank_sched.policies`, a callable that takes options and returns a `Policy`. An entry point
    cannot stand in for one of the first seven.

    Args:
        policy: A name, or a policy such as `quantize(hysteresis(Complexity(), 4), 16)`.
        r_min: The smallest rank.
        r_max: The largest rank.
        options: Options of the policy of that name.

    Raises:
        ValueError: An unknown name, a name that two distributions claim, or impossible bounds.
        TypeError: An option the policy does not have, or something that is no policy.

    >>> scheduler = RankScheduler("energy_aware", r_min=4, r_max=64)
    >>> state = scheduler.init()
    >>> joules = {16: 0.002, 32: 0.004, 64: 0.008}
    >>> rank, state = scheduler.step(state, Observation(budget=0.005, rank_costs=joules))
    >>> rank
    32
    """

    def __init__(self, policy: str | Policy, r_min: int, r_max: int, **options: Any) -> None:
        r_min, r_max = whole("r_min", r_min), whole("r_max", r_max)
        if r_max < r_min:
            raise ValueError(f"r_max must be at least r_min={r_min}, got {r_max}")
        self.bounds = Bounds(r_min, r_max)
        self.policy = make_policy(policy, **options)

    def __repr__(self) -> str:
        return f"RankScheduler({self.policy!r}, r_min={self.r_min}, r_max={self.r_max})"

    @property
    def r_min(self) -> int:
        """The smallest rank."""
        return self.bounds.r_min

    @property
    def r_max(self) -> int:
        """The largest rank."""
        return self.bounds.r_max

    def init(self) -> SchedulerState:
        """Return the state before the first decision."""
        return SchedulerState(0, None, self.policy.init(self.bounds))

    def step(
        self, state: SchedulerState | None = None, observation: Observation | None = None
    ) -> tuple[int, SchedulerState]:
        """Return the rank for an observation, and the next state.

        What the policy wants is rounded to the nearest whole rank and clipped to the bounds. An
        observation without a step is the one after the last; one without the rank it was measured
        at, measured the last rank given.

        Args:
            state: The state so far; that of `init` if not given.
            observation: What is known; nothing if not given.

        Raises:
            ValueError: The policy misses a field, which the message names, or wants NaN.
            TypeError: `state` is no `SchedulerState` or another policy's, `observation` no
                `Observation`, or the policy answers with no rank and state.
        """
        state = _instance("state", self.init() if state is None else state, SchedulerState)
        observation = Observation() if observation is None else observation
        seen = self._complete(state, _instance("observation", observation, Observation))
        wanted, inner = ask(self.policy, state.policy, seen)
        wanted = min(max(wanted, self.r_min), self.r_max)
        rank = math.floor(wanted + 0.5)
        assert seen.step is not None
        return rank, SchedulerState(seen.step + 1, rank, inner)

    def _complete(self, state: SchedulerState, observation: Observation) -> Observation:
        step = state.step if observation.step is None else whole("step", observation.step)
        rank = state.rank if observation.rank is None else whole("rank", observation.rank)
        return replace(observation, step=step, rank=rank)


def _instance(argument: str, value: _T, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be of type {kind.__name__}, got {value!r}")
    return value


def make_policy(policy: str | Policy, **options: Any) -> Policy:
    """Return the policy of a name, made with these options, or the policy given."""
    if isinstance(policy, str):
        made = _call(policy, _factory(policy), options)
        return check_policy_kind(made, f"policy {policy!r}")
    if options:
        raise TypeError(f"options must go with the name of a policy, got {sorted(options)}")
    return check_policy_kind(policy, "policy")


def _factory(name: str) -> Callable[..., Policy]:
    if name in _OWN:
        return _OWN[name]
    found = entry_points(group=ENTRY_POINTS)
    claims: set[EntryPoint] = {entry for entry in found if entry.name == name}
    if len(claims) > 1:
        owners = sorted(entry.dist.name for entry in claims if entry.dist)
        raise ValueError(f"policy {name!r} must have one owner, got {', '.join(owners)}")
    for entry in claims:
        factory: Callable[..., Policy] = entry.load()
        return factory
    known = [*_OWN, *sorted({entry.name for entry in found} - set(_OWN))]
    raise ValueError(f"policy must be one of {', '.join(known)}, got {name!r}")


def _call(name: str, factory: Callable[..., Policy], options: dict[str, Any]) -> Policy:
    parameters = inspect.signature(factory)
    try:
        parameters.bind(**options)
    except TypeError as error:
        raise TypeError(f"policy {name!r} takes {parameters}: {error}") from None
    return factory(**options)
