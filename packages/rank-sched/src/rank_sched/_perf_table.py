"""Measured times of layers, and rising curves through them."""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from rank_sched._machine import this_machine
from rank_sched._numbers import number_in, whole
from rank_sched._perf_file import read_table, write_table
from rank_sched._perf_grid import PerfGrid, Prior


class PerfRow(NamedTuple):
    """One measurement.

    Attributes:
        layer: Name of the layer's shape, from `linear_shape` or `conv2d_shape`.
        batch: Rows or images at once.
        rank: Rank of the factors; None for the dense layer.
        latency_s: Seconds of one call.
        energy_j: Joules of one call, if a meter was there.
    """

    layer: str
    batch: int
    rank: int | None
    latency_s: float
    energy_j: float | None = None


class PerfTable:
    """Measured latencies and energies, and what lies between them.

    Along the ranks measured at one batch size the values are made monotone by isotonic regression
    and joined by straight lines, then the same is done along the batch sizes. Outside of what was
    measured the nearest value is scaled as the roofline scales, and regressed again where that puts
    ranks or batches out of order. So a prediction never falls with the rank or the batch, however
    noisy the measurements. Several rows of one case count by their median; the dense layer, rank
    None, has a curve of its own.

    Args:
        rows: Measurements, in any order.
        machine: Where they were taken, by default `this_machine()`.

    Raises:
        ValueError: There are no rows, or a value is not positive or finite.

    >>> from rank_sched import linear_shape
    >>> shape = linear_shape(64, 64)
    >>> table = PerfTable([PerfRow(shape, 8, 4, 2e-6), PerfRow(shape, 8, 8, 4e-6)])
    >>> table.latency_s(shape, 8, 6)
    3e-06
    """

    def __init__(
        self, rows: Iterable[PerfRow], *, machine: Mapping[str, str] | None = None
    ) -> None:
        self.rows = tuple(_checked(PerfRow(*row)) for row in rows)
        if not self.rows:
            raise ValueError("rows must hold at least one measurement, got none")
        self.machine = dict(this_machine() if machine is None else machine)
        self._latency = _grids(self.rows, lambda row: row.latency_s)
        self._energy = _grids(self.rows, lambda row: row.energy_j)

    def __repr__(self) -> str:
        layers = len({row.layer for row in self.rows})
        return f"<PerfTable of {len(self.rows)} measurements, {layers} layers>"

    def latency_s(
        self, layer: str, batch: int, rank: int | None, *, prior: Prior | None = None
    ) -> float | None:
        """Return the seconds of a call, None if this layer was not measured in this form.

        Args:
            layer: Name of the shape.
            batch: Rows or images.
            rank: Rank, None for dense.
            prior: The curve that scales what lies outside; by default it is constant.
        """
        return _read(self._latency, layer, batch, rank, prior)

    def energy_j(
        self, layer: str, batch: int, rank: int | None, *, prior: Prior | None = None
    ) -> float | None:
        """Return the joules of a call, None unless they were metered; arguments as above."""
        return _read(self._energy, layer, batch, rank, prior)

    def save(self, path: Path | str) -> None:
        """Write the table as JSON with its machine, units and version, all of it or nothing."""
        write_table(Path(path), [row._asdict() for row in self.rows], machine=self.machine)

    @classmethod
    def load(cls, path: Path | str, *, any_machine: bool = False) -> Self:
        """Return a table saved before.

        Args:
            path: Where it is.
            any_machine: Whether measurements of another machine will do; `machine` says which.

        Raises:
            ValueError: The file is damaged, of another kind or version, or from another machine;
                the message names the file and what is wrong with it.
            OSError: It cannot be read.
        """
        rows, machine = read_table(Path(path))
        try:
            table = cls([PerfRow(**row) for row in rows], machine=machine)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold a table of measurements: {error}") from None
        here = this_machine(device=machine.get("device", "cpu"))
        odd = [name for name in here if machine.get(name) != here[name]]
        if odd and not any_machine:
            raise ValueError(
                f"{path} must come from this machine, differs in {odd[0]}: "
                f"{machine.get(odd[0])!r}, here {here[odd[0]]!r}; any_machine=True takes it anyway"
            )
        return table


def _checked(row: PerfRow) -> PerfRow:
    if not isinstance(row.layer, str):
        raise TypeError(f"layer must be the name of a shape, got {row.layer!r}")
    rank, energy = row.rank, row.energy_j
    return PerfRow(
        layer=row.layer,
        batch=whole("batch", row.batch, at_least=1),
        rank=None if rank is None else whole("rank", rank),
        latency_s=number_in("latency_s", row.latency_s, 1e-12, 1e6),
        energy_j=None if energy is None else number_in("energy_j", energy, 0.0, 1e9),
    )


_Grids = dict[tuple[str, bool], PerfGrid]  # by layer and whether it is dense


def _grids(rows: Iterable[PerfRow], value: Callable[[PerfRow], float | None]) -> _Grids:
    def case(row: PerfRow) -> tuple[str, bool, int, int]:
        return row.layer, row.rank is None, row.batch, row.rank or 0

    found: dict[tuple[str, bool], dict[int, dict[int, float]]] = {}
    known = sorted((row for row in rows if value(row) is not None), key=case)
    for (layer, dense, batch, rank), same in groupby(known, key=case):
        middle = float(np.median([value(row) or 0.0 for row in same]))
        found.setdefault((layer, dense), {}).setdefault(batch, {})[rank] = middle
    return {key: PerfGrid(by_batch) for key, by_batch in found.items()}


def _read(
    grids: _Grids, layer: str, batch: int, rank: int | None, prior: Prior | None
) -> float | None:
    grid = grids.get((layer, rank is None))
    if grid is None:
        return None
    shape = prior or (lambda batch, rank: 1.0)
    if rank is None:  # a grid of one rank, which stands for none
        return grid.at(batch, 0, lambda batch, _: shape(batch, None))
    return grid.at(batch, rank, shape)
