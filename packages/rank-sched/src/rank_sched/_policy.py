"""What all policies have in common."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from rank_sched._numbers import number
from rank_sched._observation import Bounds, Observation

_T = TypeVar("_T")


@runtime_checkable
class Policy(Protocol):
    """Anything that wants a rank: pure functions from a state to the next.

    A policy holds its options and never changes. Its states compare by value (numbers, tuples,
    named tuples), so that the same state and observation give the same answer; `None` will do
    where nothing has to be remembered. `rank_sched.testing.check_policy` holds a policy to this.
    """

    def init(self, bounds: Bounds) -> Any:
        """Return the first state."""
        ...

    def decide(self, state: Any, observation: Observation) -> tuple[float, Any]:
        """Return the rank wanted, which need not be whole or within the bounds, and the state."""
        ...


def ask(policy: Policy, state: Any, observation: Observation) -> tuple[float, Any]:
    """Return what a policy wants and its next state.

    Raises:
        TypeError: Its answer is no such pair.
        ValueError: It wants NaN.
    """
    answer = policy.decide(state, observation)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"decide of {policy!r} must return a rank and a state, got {answer!r}")
    return number("the rank wanted", answer[0]), answer[1]


def check_policy_kind(policy: object, what: str) -> Policy:
    """Return a policy as it is.

    Raises:
        TypeError: It is a class, or lacks a method.
    """
    if isinstance(policy, type):
        raise TypeError(
            f"{what} must be an object, got the class: {policy.__name__}(...) makes one"
        )
    if not isinstance(policy, Policy):
        raise TypeError(f"{what} must have init and decide, got {policy!r}")
    return policy


def own_state(state: object, kind: type[_T], *, by: str) -> _T:
    """Return a state of a policy's own kind.

    Raises:
        TypeError: It is another policy's.
    """
    if type(state) is not kind:
        raise TypeError(f"state must be one that {by} gave, got {state!r}")
    return state


def own_parts(state: object, size: int, *, by: str) -> tuple[Any, ...]:
    """Return a state of so many parts.

    Raises:
        TypeError: It is another policy's.
    """
    parts = own_state(state, tuple, by=by)
    if len(parts) != size:
        raise TypeError(f"state must be one that {by} gave, got {state!r}")
    return parts
