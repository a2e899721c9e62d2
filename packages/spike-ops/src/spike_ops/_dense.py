"""Dense products of spikes: what to use when so many fire that additions no longer pay."""

import torch
from torch import Tensor

from spike_ops._bits import in_numpy, unpack_bits

# rows unpacked at a time: their ones and zeros stay in the cache
ROWS = 512


def onednn_works() -> bool:
    """Say whether this build of torch can be asked for oneDNN's float32 product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def float_mm(spikes: Tensor, weight: Tensor, *, onednn: bool) -> Tensor:
    """Return the product of two dense matrices; oneDNN's where asked for and possible."""
    if onednn and weight.dtype == torch.float32 and in_numpy(spikes) and onednn_works():
        product = torch.ops.mkldnn._linear_pointwise.default
        return product(spikes, weight.t(), None, "none", [], "")
    return spikes @ weight


def dense_mm(packed: Tensor, rows: int, weight: Tensor, *, onednn: bool = True) -> Tensor:
    """Return S @ W with S unpacked, a few hundred rows at a time: [rows, N]."""
    columns = weight.shape[0]
    if not in_numpy(packed) or rows <= 2 * ROWS or (ROWS * columns) % 8:
        dense = unpack_bits(packed, (rows, columns), weight.dtype)
        return float_mm(dense, weight, onednn=onednn)
    result = weight.new_empty(rows, weight.shape[1])
    for start in range(0, rows, ROWS):
        taken = min(ROWS, rows - start)
        part = packed[start * columns // 8 :]
        dense = unpack_bits(part, (taken, columns), weight.dtype)
        result[start : start + taken] = float_mm(dense, weight, onednn=onednn)
    return result


def dense_mm_transposed(packed: Tensor, columns: int, gradient: Tensor) -> Tensor:
    """Return Sᵀ @ G with S unpacked: [columns, N]."""
    dense = unpack_bits(packed, (gradient.shape[0], columns), gradient.dtype)
    return dense.t() @ gradient
