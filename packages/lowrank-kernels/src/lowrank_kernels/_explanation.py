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
        batch: the rows, or images, that were asked about.
        measured_at: those that the times were measured at; None where forms were counted.
        costs: of each form, the best first: seconds, or multiplications a row or pixel.
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
            f"{self._product()}, {key.dtype} on {key.device}: {self.chosen}",
            f"{self._reason()}; {self._from()}",
        ]
        for form, cost in self.costs.items():
            share = "" if dense is None else f"{cost / dense:8.2f} of dense"
            lines.append(f"  {form:<10}{self._cost(cost)}{share}")
        return "\n".join(lines)

    def _product(self) -> str:
        n, m, R, _, _, images, _ = self.key
        rank = f"rank {self.rank} of {R}"
        if self.key.samples:
            return f"{n} -> {m} features, ranks up to {self.rank} of {R}, {self.batch} rows"
        if images is None:
            return f"{n} -> {m} features, {rank}, {self.batch} rows"
        channels, height, width, geometry = images
        kh, kw = geometry.kernel
        out = f"{channels} -> {m * geometry.groups} channels of {height}x{width} pixels"
        return f"{out} by {kh}x{kw}, {rank}, {self.batch} images"

    def _reason(self) -> str:
        if self.measured_at is None:
            return "counted, as nothing is measured near it"
        return f"measured at {self.measured_at} {'images' if self.key.images else 'rows'}"

    def _from(self) -> str:
        if self.key.samples:
            return "bands of ranks against one mask"
        if self.break_even is None:
            return "dense at no rank"
        return f"dense from rank {self.break_even} on"

    def _cost(self, cost: float) -> str:
        if self.measured_at is None:
            return f"{cost:>10} multiplications a {'pixel' if self.key.images else 'row'}"
        return f"{cost * 1e6:>10.1f} µs"
