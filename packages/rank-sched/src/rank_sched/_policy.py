"""What all policies have in common."""

from typing import Any, Protocol, runtime_checkable

from rank_sched._observation import Bounds, Observation


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
