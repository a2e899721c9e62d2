"""Budgets of dynamic layers: what a layer may spend on a sample, and the rank that affords."""

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from adlrns_models._checks import check_int, check_number
from rank_sched import Cost, Observation

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer

UNITS = ("energy_mj_per_sample", "latency_s", "flops")


@runtime_checkable
class Scheduler(Protocol):
    """Decides a layer's rank over time; its state goes in and comes out."""

    def init(self) -> Any:
        """Returns the state before the first decision."""

    def step(self, state: Any, observation: Observation) -> tuple[int, Any]:
        """Returns the rank for what is observed, and the state after it.

        Told are ``step``, calls of the layer before this one; ``rank``, that of the call before;
        ``budget`` for a sample, in joules, seconds or a share of the dense FLOPs; ``complexity``,
        ``s(x)`` in 0..1, the mean of the call's samples; and ``rank_costs``, the predicted cost of
        a sample at rank ``0..R`` in the budget's unit, in calls of the budget's ``batch``.
        """


class Ceiling(NamedTuple):
    """The largest rank the budget affords, and the size of sample it was found for."""

    rank: int
    sample: tuple[int, ...]


class Budget(NamedTuple):
    """An amount that a layer may spend on a sample, in calls of so many."""

    amount: float
    unit: str
    batch: int = 1

    @classmethod
    def of(
        cls, amount: object, unit: object, batch: object = 1, *, name: str = "budget"
    ) -> "Budget":
        """Returns a budget, checked; ``name`` is that of the amount in errors."""
        return cls(
            check_amount(amount, name), check_unit("unit", unit), check_int("batch", batch, 1)
        )

    def affords(self, layer: "DynamicLayer") -> int:
        """Returns the largest rank in ``r_min..R`` whose cost fits, or ``r_min`` if none does."""
        choices = range(layer.r_min, layer.max_rank + 1)
        fitting = bisect_right(choices, self.amount, key=lambda r: amount_of(layer, r, *self[1:]))
        return choices[max(0, fitting - 1)]


def amount_of(layer: "DynamicLayer", rank: int | None, unit: str, batch: int = 1) -> float:
    """Returns what a sample costs at ``rank``, or dense, in ``unit``, in a call of ``batch``.

    Its samples share the joules of the call, and wait for all of its seconds.
    """
    if unit == "flops":
        m, n = layer.sizes
        return 1.0 if rank is None else rank * (m + n) / (m * n)
    cost: Cost = layer.cost(rank, batch=batch)
    return cost.latency_s if unit == "latency_s" else 1e3 * cost.energy_j / batch


def scheduled(layer: "DynamicLayer", complexity: Tensor, ceiling: int) -> int:
    """Returns the rank that a layer's scheduler allows, within ``r_min..ceiling``."""
    assert layer.scheduler is not None
    if layer._repeats is not None:
        assert layer._repeats.scheduled is not None
        return layer._repeats.scheduled
    state = layer.scheduler.init() if layer._steps == 0 else layer._scheduler_state
    budget = layer._budget
    unit, batch = (layer.budget_unit, 1) if budget is None else (budget.unit, budget.batch)
    scale = 1e-3 if unit == "energy_mj_per_sample" else 1.0  # schedulers count in joules
    observed = Observation(
        step=layer._steps,
        rank=layer._scheduled_rank,
        budget=None if budget is None else scale * budget.amount,
        complexity=float(complexity.mean()) if complexity.numel() else 0.0,
        rank_costs=tuple(
            scale * amount_of(layer, r, unit, batch) for r in range(layer.max_rank + 1)
        ),
    )
    rank, layer._scheduler_state = layer.scheduler.step(state, observed)
    rank = min(max(layer.r_min, check_int("the scheduler's rank", rank, 0)), ceiling)
    layer._steps, layer._scheduled_rank = layer._steps + 1, rank
    return rank


def check_amount(amount: object, name: str = "budget") -> float:
    """Returns ``amount`` if it is a number that a budget can be."""
    value = check_number(name, amount)
    if not value >= 0.0:  # also refuses nan
        raise ValueError(f"{name} must be a number of at least 0, got {value}")
    return value


def check_scheduler(scheduler: object) -> Scheduler | None:
    """Returns ``scheduler`` if it is None or has the methods of one."""
    if scheduler is None:
        return None
    if isinstance(scheduler, type) or not isinstance(scheduler, Scheduler):
        raise TypeError(
            "scheduler must be an object with init() and step(state, observation), such as "
            f"rank_sched.RankScheduler('complexity', 4, 64), got {scheduler!r}"
        )
    return scheduler


def check_unit(name: str, unit: object) -> str:
    """Returns ``unit`` if budgets can be given in it."""
    if unit not in UNITS:
        raise ValueError(f"{name} must be one of {UNITS}, got {unit!r}")
    return str(unit)
