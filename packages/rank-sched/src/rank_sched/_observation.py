"""What a policy may look at, and how it reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rank_sched._layers import Floats, Ints

RankTable: TypeAlias = Sequence[float] | np.ndarray | Mapping[int, float]


class Bounds(NamedTuple):
    """The ranks a policy may want.

    Attributes:
        r_min: The smallest.
        r_max: The largest.
    """

    r_min: int
    r_max: int


EVERY_RANK = Bounds(0, 2**62)


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """What is known when a rank is due; every field may be missing.

    A budget, what was spent of it and the costs of the ranks are in one unit: joules for
    `energy_aware`, seconds for `latency_aware`; all of a sample, or all of a call.

    A table gives one number per rank: a sequence for the ranks 0, 1, 2, ..., or a mapping from the
    ranks there are to choose from.

    Attributes:
        step: Number of this decision; `RankScheduler` counts if it is missing.
        rank: The rank that `latency_s` and `energy_j` were measured at; `RankScheduler` takes it
            to be the one it gave last.
        budget: Limit of the cost of this decision.
        spent: The part of `budget` that is gone already.
        complexity: How hard the input is, s(x) in 0..1.
        latency_s: Seconds measured at `rank`.
        energy_j: Joules measured at `rank`.
        loss_curve: Table of the loss.
        rank_costs: Table of the predicted cost.
        rank_flops: Table of the arithmetic; with the next two in place of `rank_costs`.
        rank_memory_bytes: Table of the memory.
        full_energy_j: Joules predicted for the last rank of these tables.
    """

    step: int | None = None
    rank: int | None = None
    budget: float | None = None
    spent: float | None = None
    complexity: float | None = None
    latency_s: float | None = None
    energy_j: float | None = None
    loss_curve: RankTable | None = None
    rank_costs: RankTable | None = None
    rank_flops: RankTable | None = None
    rank_memory_bytes: RankTable | None = None
    full_energy_j: float | None = None

    def need(self, field: str, *, by: str) -> Any:
        """Return a field that `by` cannot do without.

        Raises:
            ValueError: It is missing.

        >>> Observation(step=3).need("step", by="linear_anneal")
        3
        >>> Observation(step=3).need("complexity", by="complexity")
        Traceback (most recent call last):
        ValueError: complexity needs Observation.complexity, got None
        """
        value = getattr(self, field)
        if value is None:
            raise ValueError(f"{by} needs Observation.{field}, got None")
        return value


def read_table(name: str, table: RankTable, bounds: Bounds) -> tuple[Ints, Floats]:
    """Return the ranks within the bounds that a table knows, rising, and their values.

    Raises:
        ValueError: The table is not one number per rank, holds NaN, or knows no rank in bounds.
    """
    ranks, values = _columns(name, table)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(f"{name} must hold one number per rank and no NaN, got {table!r}")
    first, stop = np.searchsorted(ranks, [bounds.r_min, bounds.r_max + 1])
    if first == stop:
        raise ValueError(
            f"{name} must know a rank in {bounds.r_min}..{bounds.r_max}, got ranks {ranks.tolist()}"
        )
    return ranks[first:stop], values[first:stop]


def _columns(name: str, table: RankTable) -> tuple[Ints, Floats]:
    try:
        if isinstance(table, Mapping):
            ranks = np.array(sorted(table), dtype=np.int64)
            return ranks, np.array([table[rank] for rank in ranks.tolist()], dtype=np.float64)
        values = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold one number per rank, got {table!r}") from None
    return np.arange(values.shape[0] if values.ndim else 0), values
