"""Products by additions, only where there is a spike.

The sum over a row of spikes is a gather of rows of the weight and their sum: what
`torch.nn.functional.embedding_bag` computes. Its result depends on nothing but the row: not on the
number of threads, not on the other rows of the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from spike_ops._index import Bags, SpikeIndex

# a table of this width stays in a core's second-level cache while all rows gather from it
BLOCK = 128
# below this many additions the table is read too rarely for a second pass to pay
BLOCKED_FROM = 4_000_000
GATHERED = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def gather_add(bags: Bags, table: Tensor) -> Tensor:
    """Return for each bag the sum of the rows of the table that it names: [bags, N]."""
    width = table.shape[1]
    if not bags.entries.numel() or not width:
        return table.new_zeros(len(bags.starts), width)
    if width <= BLOCK or bags.entries.numel() * width < BLOCKED_FROM or table.is_cuda:
        return _bag_sums(bags, table)
    sums = table.new_empty(len(bags.starts), width)
    for start in range(0, width, BLOCK):
        columns = slice(start, start + BLOCK)
        sums[:, columns] = _bag_sums(bags, table[:, columns])
    return sums


def _bag_sums(bags: Bags, table: Tensor) -> Tensor:
    return F.embedding_bag(bags.entries, table.contiguous(), bags.starts, mode="sum")


def event_mm(index: SpikeIndex, columns: int, weight: Tensor) -> Tensor:
    """Return S @ W by additions: `weight` is W [columns, N], S the spikes in rows of `columns`."""
    return gather_add(index.by_row(columns), weight)


def event_mm_transposed(index: SpikeIndex, columns: int, gradient: Tensor) -> Tensor:
    """Return Sᵀ @ G by additions: `gradient` is G [rows, N], the result [columns, N]."""
    return gather_add(index.by_column(columns), gradient)
