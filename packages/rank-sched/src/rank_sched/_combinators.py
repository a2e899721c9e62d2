"""Policies made of policies: each changes what another one wants, in one way."""

from rank_sched._finite import quantity
from rank_sched._numbers import whole
from rank_sched._policy import Policy, check_policy_kind
from rank_sched._wrappers import ROUND, Clip, Cooldown, Hysteresis, Lowest, Quantize, Rounding


def clip(policy: Policy, low: float, high: float) -> Policy:
    """Return a policy that wants what `policy` wants, but at least `low` and at most `high`.

    Raises:
        ValueError: `low` is above `high`.

    >>> from rank_sched import Fixed, RankScheduler
    >>> RankScheduler(clip(Fixed(50), 8, 32), r_min=4, r_max=64).step()[0]
    32
    """
    low, high = quantity("low", low), quantity("high", high)
    if low > high:
        raise ValueError(f"low must be at most high={high:g}, got {low:g}")
    return Clip(check_policy_kind(policy, "policy"), low, high)


def quantize(policy: Policy, multiple: int, *, rounding: Rounding = "down") -> Policy:
    """Return a policy that wants the multiple of `multiple` next to what `policy` wants.

    Tensor cores and BLAS kernels like multiples of 8 or 16. `RankScheduler` still clips to its
    bounds, so that a bound which is no multiple stays within reach.

    Args:
        policy: What to round.
        multiple: The ranks to round to are its multiples.
        rounding: "down" keeps a budget, "up" keeps a bound on the loss, "nearest" neither.

    >>> from rank_sched import Fixed, RankScheduler
    >>> RankScheduler(quantize(Fixed(50), 16), r_min=4, r_max=64).step()[0]
    48
    """
    if rounding not in ROUND:
        raise ValueError(f"rounding must be one of {', '.join(ROUND)}, got {rounding!r}")
    return Quantize(
        check_policy_kind(policy, "policy"), whole("multiple", multiple, at_least=1), rounding
    )


def hysteresis(policy: Policy, up: float, down: float | None = None) -> Policy:
    """Return a policy that keeps its rank until `policy` wants clearly more or clearly less.

    Args:
        policy: What to follow.
        up: The rank grows if more than this many ranks more are wanted.
        down: The rank shrinks if more than this many fewer are wanted; `up` if not given. 0 lets
            cuts of a budget through at once.

    >>> from rank_sched import Complexity, Observation, RankScheduler
    >>> scheduler = RankScheduler(hysteresis(Complexity(), 10), r_min=0, r_max=100)
    >>> state, seen = scheduler.init(), []
    >>> for complexity in (0.5, 0.58, 0.42, 0.61, 0.55):
    ...     rank, state = scheduler.step(state, Observation(complexity=complexity))
    ...     seen.append(rank)
    >>> seen
    [50, 50, 50, 61, 61]
    """
    down = up if down is None else down
    return Hysteresis(
        check_policy_kind(policy, "policy"), quantity("up", up), quantity("down", down)
    )


def cooldown(policy: Policy, up: int, down: int | None = None) -> Policy:
    """Return a policy that pauses between two changes of its rank.

    Needs `Observation.step`, which `RankScheduler` counts.

    Args:
        policy: What to follow.
        up: Steps that must lie between a change and one that grows; 0 and 1 allow one at every
            step.
        down: The same for one that shrinks; `up` if not given.

    >>> from rank_sched import LinearAnneal, RankScheduler
    >>> scheduler = RankScheduler(cooldown(LinearAnneal(steps=10), 4), r_min=0, r_max=10)
    >>> state, seen = scheduler.init(), []
    >>> for _ in range(11):
    ...     rank, state = scheduler.step(state)
    ...     seen.append(rank)
    >>> seen
    [10, 9, 9, 9, 9, 5, 5, 5, 5, 1, 1]
    """
    down = up if down is None else down
    return Cooldown(check_policy_kind(policy, "policy"), whole("up", up), whole("down", down))


def lowest(*policies: Policy) -> Policy:
    """Return a policy that wants the least of what several want: all of their limits hold.

    >>> from rank_sched import Complexity, EnergyAware, Observation, RankScheduler
    >>> scheduler = RankScheduler(lowest(Complexity(), EnergyAware()), r_min=0, r_max=4)
    >>> seen = Observation(complexity=1.0, budget=2.5, rank_costs=[0, 1, 2, 3, 4])
    >>> scheduler.step(scheduler.init(), seen)[0]
    2
    """
    if not policies:
        raise ValueError("policies must be at least one, got none")
    return Lowest(tuple(check_policy_kind(policy, "policy") for policy in policies))
