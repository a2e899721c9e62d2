"""Why a form was chosen."""

from collections.abc import Mapping
from typing import NamedTuple

from lowrank_kernels._calibration import Key
from lowrank_kernels._forms import DENSE


class Explanation(NamedTuple):
    """Why a form was chosen; `str()` of it is a small table.

    Attributes:
        key: the product: `n` to `m` features, factors of R directions, dtype and device.
        rank: r.
        batch: the rows that were asked about.
        measured_at: the rows that the times were measured at; None where forms were counted.
        costs: of each form, the best first: seconds, or multiplications a row.
        break_even: the least rank at which dense is chosen for that batch; None if none is.
        chosen: the form.
    """

    key: Key
    rank: int
    batch: int
    measured_at: int | None
    costs: Mapping[str, float]
    break_even: int | None
    chosen: str

    def __str__(self) -> str:
        key, dense = self.key, self.costs.get(DENSE)
        lines = [
            f"{key.n} -> {key.m} features, rank {self.rank} of {key.R}, {self.batch} rows, "
            f"{key.dtype} on {key.device}: {self.chosen}",
            f"{self._reason()}; {self._from()}",
        ]
        for form, cost in self.costs.items():
            share = "" if dense is None else f"{cost / dense:8.2f} of dense"
            lines.append(f"  {form:<10}{self._cost(cost)}{share}")
        return "\n".join(lines)

    def _reason(self) -> str:
        if self.measured_at is None:
            return "counted, as nothing is measured near it"
        return f"measured at {self.measured_at} rows"

    def _from(self) -> str:
        if self.break_even is None:
            return "dense at no rank"
        return f"dense from rank {self.break_even} on"

    def _cost(self, cost: float) -> str:
        if self.measured_at is None:
            return f"{cost:>10} multiplications a row"
        return f"{cost * 1e6:>10.1f} µs"
