"""A budget that threads share and a clock drives."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

from rank_sched._budget import BudgetManager
from rank_sched._errors import BudgetError
from rank_sched._finite import quantity
from rank_sched._frontier import Frontier
from rank_sched._point import OperatingPoint

_SHORTEST_SLEEP_S = 1e-3  # a wait too short for the clock to show would be waited for ever


class BudgetExhaustedError(BudgetError):
    """The tokens do not pay now, but will.

    Attributes:
        wait_s: In how many seconds, if nothing else is done till then; infinite for a budget of
            rate 0.
    """

    def __init__(self, message: str, *, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Manager(Protocol):
    """What `LiveBudget` needs: `BudgetManager` and `LayerBudgets` have it."""

    def init(self, now: float) -> Any:
        """Return the first state."""
        ...

    def admit(self, state: Any, now: float, cost: Any) -> tuple[Any, Any]:
        """Return a grant or None, and the state."""
        ...

    def settle(self, state: Any, granted: Any, measured: Any = None) -> Any:
        """Return the state after a grant was settled."""
        ...

    def wait_s(self, state: Any, now: float, cost: Any) -> float:
        """Return the seconds until a cost can be paid."""
        ...


class Spending:
    """Work that is under way; `report` says what it took.

    Attributes:
        granted: What the manager granted.
    """

    def __init__(self, granted: Any, check: Callable[[Any, Any], object]) -> None:
        self.granted = granted
        self._check = check
        self._measured: Any = None

    def report(self, measured: Any) -> None:
        """Say what was measured, before the block ends; the last word counts.

        Raises:
            ValueError: `settle` of the manager would not take it; what was said before stands.
        """
        self._check(self.granted, measured)
        self._measured = measured


class LiveBudget:
    """A manager with its state, a clock and a lock.

    `spend` is the way to use it: the block runs once the budget admits it, and is settled at what
    it reports, or at what it was charged if it reports nothing, also when it raises. All methods
    may be called from any thread; the lock is never held while a block runs or waits.

    Args:
        manager: A `BudgetManager` or `LayerBudgets`.
        clock: Returns seconds.
        sleep: Waits that many seconds.

    >>> joules = LiveBudget(BudgetManager(rate=1.0, capacity=5.0))
    >>> with joules.spend(3.0) as spending:
    ...     total = sum(range(10))  # the work
    ...     spending.report(2.5)  # what a meter says of it
    >>> joules.state.spent
    2.5
    """

    def __init__(
        self,
        manager: Manager,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.manager = manager
        self._clock, self._sleep, self._lock = clock, sleep, Lock()
        self._state = manager.init(clock())

    @property
    def state(self) -> Any:
        """The state as of the last call."""
        return self._state

    @contextmanager
    def spend(self, cost: Any, *, timeout_s: float = 0.0) -> Iterator[Spending]:
        """Return a context in which work of this cost may be done.

        Args:
            cost: What it is predicted to cost, as `admit` of the manager takes it.
            timeout_s: How long to wait for the tokens; may be infinite.

        Raises:
            BudgetExhaustedError: The tokens do not pay within that time; raised as soon as that is
                clear.
            BudgetError: They never will.
        """
        spending = Spending(self._admit(cost, timeout_s), self._settled)
        try:
            yield spending
        finally:
            with self._lock:
                self._state = self._settled(spending.granted, spending._measured)

    def wait_s(self, cost: Any) -> float:
        """Return the seconds until the tokens pay, if nothing else is done till then."""
        with self._lock:
            return self.manager.wait_s(self._state, self._clock(), cost)

    def ranks_for(
        self, points: Frontier, *, requests: int = 1, horizon_s: float = 0.0
    ) -> OperatingPoint | None:
        """Return the best operating point that the tokens pay for now, as the manager does.

        Raises:
            TypeError: The manager is no `BudgetManager`: a frontier does not say which layer
                spends what.
        """
        if not isinstance(self.manager, BudgetManager):
            kind = type(self.manager).__name__
            raise TypeError(f"manager must be a BudgetManager to choose ranks, got {kind}")
        with self._lock:
            now, state = self._clock(), self._state
            return self.manager.ranks_for(
                points, state, now, requests=requests, horizon_s=horizon_s
            )

    def _settled(self, granted: Any, measured: Any) -> Any:
        return self.manager.settle(self._state, granted, measured)

    def _admit(self, cost: Any, timeout_s: float) -> Any:
        if timeout_s != math.inf:
            timeout_s = quantity("timeout_s", timeout_s)
        until = self._clock() + timeout_s
        while True:
            with self._lock:
                now = self._clock()
                granted, self._state = self.manager.admit(self._state, now, cost)
                if granted is not None:
                    return granted
                wait_s = self.manager.wait_s(self._state, now, cost)
            if wait_s == math.inf or now + wait_s > until:
                raise BudgetExhaustedError(
                    f"cost must be paid within timeout_s={timeout_s:g}, got {cost}, "
                    f"which the tokens pay in {wait_s:.3g} s",
                    wait_s=wait_s,
                )
            self._sleep(max(wait_s, _SHORTEST_SLEEP_S))
