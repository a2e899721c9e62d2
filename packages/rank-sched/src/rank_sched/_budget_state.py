"""Where a budget over time stands, and what it grants."""

from typing import Literal, NamedTuple, TypeAlias

from rank_sched._gain import GainState

BudgetUnit: TypeAlias = Literal["energy_j", "latency_s", "flops"]
BUDGET_UNITS = ("energy_j", "latency_s", "flops")


class Grant(NamedTuple):
    """A piece of work that may be done; what `settle` wants back.

    Attributes:
        cost: What it was predicted to cost.
        charged: What was taken from the bucket for it.
    """

    cost: float
    charged: float


class BudgetState(NamedTuple):
    """Where a `BudgetManager` stands; every amount is in its unit.

    Attributes:
        tokens: What can be spent now; below 0 it is debt.
        now: The latest time seen.
        spent: Sum of what was measured.
        reserved: Sum of what was charged and is not settled.
        in_flight: Number of grants that are not settled.
        correction: State of the gain.
    """

    tokens: float
    now: float
    spent: float
    reserved: float
    in_flight: int
    correction: GainState

    @property
    def gain(self) -> float:
        """What measurements are to predictions, by what is known so far."""
        return self.correction.gain
