"""A budget over time: so much a second, and so much at once."""

import math
from dataclasses import dataclass, field

from rank_sched._budget_state import BUDGET_UNITS, BudgetState, BudgetUnit, Grant
from rank_sched._cost import Cost
from rank_sched._errors import BudgetError
from rank_sched._finite import finite, quantity
from rank_sched._frontier import Frontier
from rank_sched._gain import GainCorrection
from rank_sched._numbers import number_in, whole
from rank_sched._point import OperatingPoint


@dataclass(frozen=True)
class BudgetManager:
    """A token bucket: `rate` a second, at most `capacity` at once, corrected by measurement.

    Work is admitted if the bucket holds its charge, margin·gain·cost, which is taken at once; when
    it is done, `settle` puts back what was too much or takes what was too little, so that tokens
    stand for what was *measured*. With t the seconds since `init`, for every prefix of every trace:

    * charged <= initial + rate·t, for work that is settled at its charge or not at all;
    * spent + reserved + tokens <= initial + rate·t, where tokens below 0 are debt: the part by
      which measurements exceed the charges, of the grants in flight at the last admission and no
      others. One piece of work after the other therefore spends at most initial + rate·t and the
      excess of the *last*; none at all if charges are upper bounds, which `margin` is for.

    Nothing is admitted before a debt is paid, so excesses do not add up. A charge is cut off at
    `capacity`, so that a gain which proves too high cannot lock everything out.

    A manager holds no state: `init` makes one, and all else returns the next. A clock that runs
    backwards gives nothing until it has passed the latest time seen; one that leaps ahead fills
    the bucket and no more. For threads and clocks see `LiveBudget`.

    Attributes:
        rate: What flows in, a second; 0 for a budget that is spent once.
        capacity: What the bucket holds.
        unit: `energy_j`, `latency_s` or `flops`: the field of a `Cost` that counts.
        initial: Tokens to begin with; a full bucket if not given.
        margin: Factor on every charge, at least 1.
        correction: How the gain of the predictions follows measurements.

    Raises:
        ValueError: An amount is negative, NaN or infinite, or the unit is another one.

    >>> manager = BudgetManager(rate=10.0, capacity=20.0, unit="energy_j")
    >>> state = manager.init(now=0.0)
    >>> granted, state = manager.admit(state, 0.0, cost=15.0)
    >>> state = manager.settle(state, granted, measured=18.0)
    >>> state.tokens
    2.0
    >>> manager.admit(state, 0.5, cost=15.0)[0] is None, manager.wait_s(state, 0.5, cost=15.0)
    (True, 0.8)
    """

    rate: float
    capacity: float
    unit: BudgetUnit = "energy_j"
    initial: float | None = field(default=None, kw_only=True)
    margin: float = field(default=1.0, kw_only=True)
    correction: GainCorrection = field(default_factory=GainCorrection, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", quantity("rate", self.rate))
        object.__setattr__(self, "capacity", quantity("capacity", self.capacity, zero=False))
        if self.unit not in BUDGET_UNITS:
            raise ValueError(f"unit must be one of {', '.join(BUDGET_UNITS)}, got {self.unit!r}")
        initial = self.capacity if self.initial is None else self.initial
        object.__setattr__(self, "initial", number_in("initial", initial, 0.0, self.capacity))
        number_in("margin", quantity("margin", self.margin), 1.0, math.inf)

    def init(self, now: float) -> BudgetState:
        """Return the state at the first reading of the clock."""
        now = finite("now", now)
        assert self.initial is not None
        return BudgetState(self.initial, now, 0.0, 0.0, 0, self.correction.init(now))

    def at(self, state: BudgetState, now: float) -> BudgetState:
        """Return the state at a time: refilled, and corrected if a tick is due."""
        now = max(finite("now", now), state.now)
        tokens = min(self.capacity, state.tokens + self.rate * (now - state.now))
        correction = self.correction.at(state.correction, now)
        return state._replace(tokens=tokens, now=now, correction=correction)

    def admit(
        self, state: BudgetState, now: float, cost: float | Cost
    ) -> tuple[Grant | None, BudgetState]:
        """Return a grant, or None if the tokens do not pay for it now, and the state.

        Raises:
            BudgetError: Not even a full bucket would pay.
            ValueError: The cost is negative, NaN or infinite, or the time not finite.
        """
        amount = self.feasible(cost)
        state = self.at(state, now)
        charged = self._charge(state, amount)
        if charged > state.tokens:
            return None, state
        return Grant(amount, charged), state._replace(
            tokens=state.tokens - charged,
            reserved=state.reserved + charged,
            in_flight=state.in_flight + 1,
        )

    def settle(
        self, state: BudgetState, granted: Grant, measured: float | Cost | None = None
    ) -> BudgetState:
        """Return the state in which a grant is worth what was measured for it.

        Args:
            state: The state so far.
            granted: What `admit` gave; every grant is settled once.
            measured: What the work took; what was charged if not given.

        Raises:
            ValueError: The measurement is negative, NaN or infinite, or no grant is in flight.
        """
        known = measured is not None
        amount = self.amount("measured", measured) if measured is not None else granted.charged
        if not state.in_flight:
            raise ValueError(f"granted must be in flight, got {granted}, settled before")
        correction = state.correction
        if known:
            correction = self.correction.settled(
                correction, predicted=granted.cost, measured=amount
            )
        in_flight = state.in_flight - 1
        return state._replace(
            tokens=min(self.capacity, state.tokens + granted.charged - amount),
            spent=state.spent + amount,
            # sums of what comes and goes drift; nothing in flight is exactly nothing
            reserved=state.reserved - granted.charged if in_flight else 0.0,
            in_flight=in_flight,
            correction=correction,
        )

    def wait_s(self, state: BudgetState, now: float, cost: float | Cost) -> float:
        """Return the seconds until the tokens pay for a cost, if nothing else is done till then.

        Raises:
            BudgetError: Not even a full bucket would pay.
        """
        amount = self.feasible(cost)
        earlier = max(state.now - finite("now", now), 0.0)
        state = self.at(state, now)
        missing = self._charge(state, amount) - state.tokens
        if missing <= 0:
            return 0.0
        return earlier + missing / self.rate if self.rate else math.inf

    def feasible(self, cost: float | Cost, *, argument: str = "cost") -> float:
        """Return a cost in the unit of this budget, if a full bucket would pay for it.

        Raises:
            BudgetError: It would not, so that waiting is of no use.
            ValueError: The cost is negative, NaN or infinite.
        """
        amount = self.amount(argument, cost)
        if not self._fits(amount):
            margin = f", margin={self.margin:g} times" if self.margin > 1 else ""
            raise BudgetError(
                f"{argument} must be at most capacity={self.capacity:g} ({self.unit}), "
                f"which no wait exceeds, got{margin} {amount:g}"
            )
        return amount

    def is_feasible(self, cost: float | Cost) -> bool:
        """Return whether a full bucket would pay for a cost, as predicted and with the margin."""
        return self._fits(self.amount("cost", cost))

    def ranks_for(
        self,
        points: Frontier,
        state: BudgetState,
        now: float,
        *,
        requests: int = 1,
        horizon_s: float = 0.0,
    ) -> OperatingPoint | None:
        """Return the best operating point that the tokens pay for now; None if they pay for none.

        With defaults it may take all there is. To spread the tokens, say how many requests they
        are to serve: each gets an equal part of the tokens and of what flows in until the horizon,
        but never more than there is now, nor less than the cheapest point. For q times as many as
        will come the bucket keeps a reserve of (q - 1)·horizon_s·rate, so that chance does not
        empty it. What is returned is admitted, if asked for at the same time.

        Args:
            points: The frontier, with costs in the unit of the budget.
            state: The state so far.
            now: The time.
            requests: How many requests are to be served until the horizon.
            horizon_s: Seconds from now on.

        Raises:
            BudgetError: Not even a full bucket would pay for the cheapest point.
        """
        cheapest = self.feasible(points.min_cost)
        requests = whole("requests", requests, at_least=1)
        state = self.at(state, now)
        if self._charge(state, cheapest) > state.tokens:
            return None
        coming = self.rate * quantity("horizon_s", horizon_s)
        part = min((state.tokens + coming) / requests, state.tokens)
        limit = min(part / (self.margin * state.gain), self.capacity / self.margin)
        for slack in (0.0, 1e-12):  # rounding must not lift the charge above the tokens
            point = points.at(max(limit * (1 - slack), cheapest))
            if self._charge(state, point.cost) <= state.tokens and self.is_feasible(point.cost):
                break
        return point

    def amount(self, argument: str, cost: float | Cost) -> float:
        """Return a cost in the unit of this budget.

        Raises:
            ValueError: It is negative, NaN or infinite.
        """
        value = getattr(cost, self.unit) if isinstance(cost, Cost) else cost
        return quantity(argument, value)

    def _fits(self, amount: float) -> bool:
        # capacity / margin is a cost that fits, whatever rounding makes of it; charges are cut off
        return self.margin * amount <= self.capacity * (1 + 1e-12)

    def _charge(self, state: BudgetState, amount: float) -> float:
        return min(self.margin * state.gain * amount, self.capacity)
