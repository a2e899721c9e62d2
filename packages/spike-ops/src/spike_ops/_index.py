"""Where the spikes are: positions by row and by column, found once and shared."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spike_ops._bits import count_bits, in_numpy, unpack_bits

# bytes that are not zero are worth finding first while they are rare
SPARSE_BYTES = 0.3


class Bags(NamedTuple):
    """Which entries each bag adds: `entries[starts[i]:starts[i + 1]]` for bag i."""

    entries: Tensor  # [count] of int32
    starts: Tensor  # [bags] of int32


def positions(packed: Tensor, size: int) -> Tensor:
    """Return the positions of the set bits among the first `size`, ascending: [count] of int64."""
    if not in_numpy(packed):
        return unpack_bits(packed, (size,)).nonzero().flatten()
    data = packed.numpy()
    active = np.flatnonzero(data.view(np.bool_))
    if active.size > SPARSE_BYTES * data.size:
        bits = np.unpackbits(data, count=size, bitorder="little")
        return torch.from_numpy(np.flatnonzero(bits.view(np.bool_)))
    found = np.flatnonzero(np.unpackbits(data[active], bitorder="little").view(np.bool_))
    return torch.from_numpy((active[found >> 3] << 3) + (found & 7))


class SpikeIndex:
    """Positions of the spikes of one packed tensor, found when first asked for and then kept.

    All views of a `SpikeTensor` share one index, so that a forward product, its weight gradient
    and a second consumer pay for it once.
    """

    def __init__(self, packed: Tensor, size: int) -> None:
        self.packed, self.size = packed, size
        self._count: int | None = None
        self._positions: Tensor | None = None
        self._by_row: dict[int, Bags] = {}
        self._by_column: dict[int, Bags] = {}

    @property
    def count(self) -> int:
        """How many spikes there are."""
        if self._count is None:
            self._count = count_bits(self.packed)
        return self._count

    @property
    def positions(self) -> Tensor:
        """Positions in the flattened tensor, ascending: [count] of int64."""
        if self._positions is None:
            self._positions = positions(self.packed, self.size)
        return self._positions

    def by_row(self, columns: int) -> Bags:
        """Return for each row of `columns` elements the columns that fired."""
        if columns not in self._by_row:
            self._by_row[columns] = _row_bags(self.positions, self.size, columns)
        return self._by_row[columns]

    def by_column(self, columns: int) -> Bags:
        """Return for each of the columns the rows that fired, ascending."""
        if columns not in self._by_column:
            rows = self.by_row(columns)
            self._by_column[columns] = _column_bags(rows, self.positions, columns)
        return self._by_column[columns]


def _row_bags(found: Tensor, size: int, columns: int) -> Bags:
    borders = torch.arange(0, size, columns, device=found.device)
    if in_numpy(found):
        starts = torch.from_numpy(np.searchsorted(found.numpy(), borders.numpy()))
    else:
        starts = torch.searchsorted(found, borders)
    power_of_two = columns & (columns - 1) == 0
    entries = found & (columns - 1) if power_of_two else found % columns
    return Bags(entries.int(), starts.int())


def _column_bags(rows: Bags, found: Tensor, columns: int) -> Bags:
    if not in_numpy(found):
        order = torch.sort(rows.entries, stable=True)
        borders = torch.arange(columns, device=found.device, dtype=torch.int32)
        starts = torch.searchsorted(order.values, borders)
        return Bags((found[order.indices] // columns).int(), starts.int())
    # the stable sort of 16-bit keys is a radix sort
    keys = rows.entries.numpy().astype(np.uint16 if columns <= 2**16 else np.int32)
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=columns)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    spans = np.diff(rows.starts.numpy(), append=len(order))
    row_of = np.repeat(np.arange(len(spans), dtype=np.int32), spans)
    return Bags(torch.from_numpy(row_of[order]), torch.from_numpy(starts.astype(np.int32)))
