"""Products by additions, only where there is a spike.

The sum over a row of spikes is a gather of rows of the weight and their sum: what
`torch.nn.functional.embedding_bag` computes. Its result depends on nothing but the row: not on the
number of threads, not on the other rows of the batch.
"""

import torch
from torch import Tensor

from spike_ops import _native
from spike_ops._index import Bags, SpikeIndex
from spike_ops._native_adding import add_rows, add_short_rows

GATHERED = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
# a block of the table of this many bytes stays in a core's second-level cache
BLOCK_BYTES = 1 << 20
# how often each row of the table must be read for copying it into blocks to pay
READS, READS_OF_LARGE, LARGE_BYTES = 20, 3, 1 << 25
# of so few rows, or so small a product, no positions are kept by the kernels
FEW_ROWS, FEW = 32, 1 << 22
# elements of a weight that stays in the first caches, to which a list of positions does not pay
SMALL = 1 << 14


def gather_add(bags: Bags, table: Tensor) -> Tensor:
    """Return for each bag the sum of the rows of the table that it names: [bags, N]."""
    rows, width = table.shape
    count, number = bags.entries.numel(), bags.borders.numel() - 1
    if not count or not width:
        return table.new_zeros(number, width)
    block = block_width(rows, width, count, table.element_size())
    native = _native.knows(table.dtype) and _native.takes(table, bags.entries)
    if block == width or table.is_cuda:
        return _all_columns(bags, table, native=native)
    sums = table.new_empty(number, width)
    for start in range(0, width, block):
        columns = slice(start, start + block)
        part = table[:, columns].contiguous()
        if native:
            _native.gather(*bags, part, sums[:, columns])
        else:
            sums[:, columns] = _bag_sums(bags, part)
    return sums


def _all_columns(bags: Bags, table: Tensor, *, native: bool) -> Tensor:
    if not native:
        return _bag_sums(bags, table.contiguous())
    sums = table.new_empty(bags.borders.numel() - 1, table.shape[1])
    _native.gather(*bags, table.contiguous(), sums)
    return sums


def block_width(rows: int, width: int, count: int, item: int) -> int:
    """Return how many columns of a table to gather from at a time, for that many additions each."""
    block = 128 if rows * 128 * item <= BLOCK_BYTES else 64
    reads = READS if rows * width * item <= LARGE_BYTES else READS_OF_LARGE
    return block if block < width and count >= reads * rows else width


def _bag_sums(bags: Bags, table: Tensor) -> Tensor:
    # what torch.nn.functional.embedding_bag(mode="sum") calls, without its checks
    told = (False, 0, False, None, True)
    return torch.embedding_bag(table, bags.entries, bags.borders, *told)[0]


def few(rows: int, columns: int, width: int) -> bool:
    """Say whether kernels add up a product straight from its bits."""
    return rows <= FEW_ROWS or rows * columns * width <= FEW


def short(columns: int, width: int) -> bool:
    """Say whether kernels add up rows of a weight so small that they need no positions."""
    return columns * width <= SMALL and width % 16 == 0


def event_mm(index: SpikeIndex, columns: int, weight: Tensor) -> Tensor:
    """Return S @ W by additions: `weight` is W [columns, N], S the spikes in rows of `columns`."""
    rows, width = index.size // columns, weight.shape[1]
    straight = not index.found and weight.stride(1) == 1
    if straight and _native.knows(weight.dtype) and _native.takes(weight, index.packed):
        if few(rows, columns, width):
            return add_rows(index.packed, rows, weight)
        if short(columns, width) and weight.is_contiguous():
            return add_short_rows(index.packed, rows, weight)
    return gather_add(index.by_row(columns), weight)


def event_mm_transposed(index: SpikeIndex, columns: int, gradient: Tensor) -> Tensor:
    """Return Sᵀ @ G by additions: `gradient` is G [rows, N], the result [columns, N]."""
    return gather_add(index.by_column(columns), gradient)
