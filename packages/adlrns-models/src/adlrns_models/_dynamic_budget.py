"""Budgets of dynamic layers: what a layer may spend on a sample, and the rank that affords."""

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from adlrns_models._checks import check_int, check_number
from rank_sched import Cost, Observation

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer

UNITS = ("energy_mj_per_sample", "latency_s", "flops")


class Scheduler(Protocol):
    """Decides a layer's rank over time; its state goes in and comes out."""

    def init(self) -> Any:
        """Returns the state before the first decision."""

    def step(self, state: Any, observation: Observation) -> tuple[int, Any]:
        """Returns the rank for what is observed, and the state after it.

        Told are ``step``, calls of the layer before this one; ``rank``, that of the call before;
        ``budget`` for a sample, in joules, seconds or a share of the dense FLOPs; ``complexity``,
        ``s(x)`` in 0..1, the mean of the call's samples; and ``rank_costs``, the predicted cost of
        a sample at rank ``0..R`` in the budget's unit.
        """


class Ceiling(NamedTuple):
    """The largest rank the budget affords, and the size of sample it was found for."""

    rank: int
    sample: tuple[int, ...]


class Budget(NamedTuple):
    """An amount that a layer may spend on a sample."""

    amount: float
    unit: str

    @classmethod
    def of(cls, amount: object, unit: object) -> "Budget":
        """Returns a budget, checked."""
        return cls(check_amount(amount), check_unit("unit", unit))

    def affords(self, layer: "DynamicLayer") -> int:
        """Returns the largest rank in ``r_min..R`` whose cost fits, or ``r_min`` if none does."""
        choices = range(layer.r_min, layer.max_rank + 1)
        fitting = bisect_right(choices, self.amount, key=lambda r: amount_of(layer, r, self.unit))
        return choices[max(0, fitting - 1)]


def amount_of(layer: "DynamicLayer", rank: int | None, unit: str) -> float:
    """Returns what a sample costs at ``rank``, or dense, in ``unit``."""
    if unit == "flops":
        m, n = layer.sizes
        return 1.0 if rank is None else rank * (m + n) / (m * n)
    cost: Cost = layer.cost(rank)
    return cost.latency_s if unit == "latency_s" else 1e3 * cost.energy_j


def scheduled(layer: "DynamicLayer", complexity: Tensor, ceiling: int) -> int:
    """Returns the rank that a layer's scheduler allows, within ``r_min..ceiling``."""
    assert layer.scheduler is not None
    state = layer.scheduler.init() if layer._steps == 0 else layer._scheduler_state
    budget = layer._budget
    unit = layer.budget_unit if budget is None else budget.unit
    scale = 1e-3 if unit == "energy_mj_per_sample" else 1.0  # schedulers count in joules
    observed = Observation(
        step=layer._steps,
        rank=layer._scheduled_rank,
        budget=None if budget is None else scale * budget.amount,
        complexity=float(complexity.mean()) if complexity.numel() else 0.0,
        rank_costs=tuple(scale * amount_of(layer, r, unit) for r in range(layer.max_rank + 1)),
    )
    rank, layer._scheduler_state = layer.scheduler.step(state, observed)
    rank = min(max(layer.r_min, check_int("the scheduler's rank", rank, 0)), ceiling)
    layer._steps, layer._scheduled_rank = layer._steps + 1, rank
    return rank


def check_amount(amount: object) -> float:
    """Returns ``amount`` if it is a number that a budget can be."""
    value = check_number("budget", amount)
    if not value >= 0.0:  # also refuses nan
        raise ValueError(f"budget must not be negative, got {value}")
    return value


def check_unit(name: str, unit: object) -> str:
    """Returns ``unit`` if budgets can be given in it."""
    if unit not in UNITS:
        raise ValueError(f"{name} must be one of {UNITS}, got {unit!r}")
    return str(unit)
