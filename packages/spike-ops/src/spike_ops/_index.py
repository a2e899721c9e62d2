"""Where the spikes are: positions by row and by column, found once and shared."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spike_ops import _native
from spike_ops._bits import count_bits, in_numpy, unpack_bits

Bytes = NDArray[np.uint8]
Found = NDArray[np.int64]
# bytes that are not zero are worth finding first while they are rare
SPARSE_BYTES = 0.6
SMALL = 512  # bytes of which it is not worth while


class Bags(NamedTuple):
    """Which entries each bag adds: `entries[borders[i]:borders[i + 1]]` for bag i."""

    entries: Tensor  # [count] of int32
    borders: Tensor  # [bags + 1] of int32

    @property
    def starts(self) -> Tensor:
        """Where each bag begins: [bags] of int32."""
        return self.borders[:-1]


def positions(packed: Tensor, size: int) -> Tensor:
    """Return the positions of the set bits among the first `size`, ascending: [count] of int64."""
    if not in_numpy(packed):
        return unpack_bits(packed, (size,)).nonzero().flatten()
    return torch.from_numpy(found_in(packed.numpy(), size))


def found_in(data: Bytes, size: int) -> Found:
    """Return the positions of the set bits of bytes, ascending."""
    if data.size <= SMALL:
        return np.unpackbits(data, count=size, bitorder="little").view(np.bool_).nonzero()[0]
    active = data.view(np.bool_).nonzero()[0]
    if active.size > SPARSE_BYTES * data.size:
        bits = np.unpackbits(data, count=size, bitorder="little")
        return bits.view(np.bool_).nonzero()[0]
    found = np.unpackbits(data.take(active), bitorder="little").view(np.bool_).nonzero()[0]
    active <<= 3
    places = active.take(found >> 3)
    found &= 7
    places += found
    return places


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
        self._flipped: dict[tuple[int, int], SpikeIndex] = {}

    @property
    def count(self) -> int:
        """How many spikes there are."""
        return self.counted()

    def counted(self) -> int:
        """Return how many spikes there are."""
        if self._count is None:
            native = _native.takes(self.packed)
            self._count = _native.count(self.packed) if native else count_bits(self.packed)
        return self._count

    @property
    def found(self) -> bool:
        """Whether positions have been found before."""
        return self._positions is not None or bool(self._by_row)

    @property
    def positions(self) -> Tensor:
        """Positions in the flattened tensor, ascending: [count] of int64."""
        if self._positions is None:
            self._positions = positions(self.packed, self.size)
        return self._positions

    def by_row(self, columns: int) -> Bags:
        """Return for each row of `columns` elements, at least one, the columns that fired."""
        if columns not in self._by_row:
            whole = self.size % columns == 0
            if whole and _native.takes(self.packed):
                rows = self.size // columns
                self._by_row[columns] = Bags(
                    *_native.decode(self.packed, rows, columns, self.count)
                )
            else:
                self._by_row[columns] = _row_bags(self.positions, self.size, columns)
        return self._by_row[columns]

    def by_column(self, columns: int) -> Bags:
        """Return for each of the columns the rows that fired, ascending."""
        if columns not in self._by_column:
            rows = self.by_row(columns)
            self._by_column[columns] = _column_bags(rows, columns)
        return self._by_column[columns]

    def flipped(self, channels: int, plane: int) -> "SpikeIndex":
        """Return spikes [samples, channels, plane] as [samples, plane, channels], by the kernels.

        Channels come in whole bytes.
        """
        key = (channels, plane)
        if key not in self._flipped:
            samples = self.size // (channels * plane)
            turned = SpikeIndex(_native.flip(self.packed, samples, *key), self.size)
            turned._count = self._count
            self._flipped[key] = turned
        return self._flipped[key]


def _row_bags(positions: Tensor, size: int, columns: int) -> Bags:
    power_of_two = columns & (columns - 1) == 0
    last = -(-size // columns) * columns
    if not in_numpy(positions):
        borders = torch.arange(0, last + 1, columns, device=positions.device)
        entries = positions & (columns - 1) if power_of_two else positions % columns
        return Bags(entries.int(), torch.searchsorted(positions, borders).int())
    found = positions.numpy()
    if size == columns:
        return Bags(_int32(found), torch.tensor((0, found.size), dtype=torch.int32, device="cpu"))
    starts = found.searchsorted(np.arange(0, last + 1, columns))
    places = found & (columns - 1) if power_of_two else found % columns
    return Bags(_int32(places), _int32(starts))


def _int32(values: Found) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))


def _column_bags(rows: Bags, columns: int) -> Bags:
    if _native.takes(rows.entries):
        return Bags(*_native.turn(rows.entries, rows.borders, columns))
    if not in_numpy(rows.entries):
        turned = torch.sort(rows.entries, stable=True)
        places = torch.arange(columns + 1, device=rows.entries.device, dtype=torch.int32)
        spans = rows.borders.diff()
        row_of = torch.arange(len(spans), device=spans.device).repeat_interleave(spans)
        begin = torch.searchsorted(turned.values, places)
        return Bags(row_of[turned.indices].int(), begin.int())
    # the stable sort of 16-bit keys is a radix sort
    keys = rows.entries.numpy().astype(np.uint16 if columns <= 2**16 else np.int32)
    order = np.argsort(keys, kind="stable")
    borders = np.zeros(columns + 1, dtype=np.int32)
    np.cumsum(np.bincount(keys, minlength=columns), out=borders[1:])
    spans_of = np.diff(rows.borders.numpy())
    number = np.repeat(np.arange(len(spans_of), dtype=np.int32), spans_of)
    return Bags(torch.from_numpy(number.take(order)), torch.from_numpy(borders))
