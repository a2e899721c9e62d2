"""Dense products of spikes: what to use when so many fire that additions no longer pay."""

import math
import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from spike_ops import _native
from spike_ops._bits import BITS_OF_BYTE, in_numpy, unpack_bits
from spike_ops._calibration import calibration

# rows unpacked at a time: their ones and zeros stay in the cache
ROWS = 512
# of fewer rows oneDNN's product is slower than torch's default, and of none it is refused
LEAST_ROWS = 4
# elements of the buffer that a thread keeps: fresh memory costs more than what is written to it
KEPT = 1 << 21
_kept = threading.local()
NUMPYS = {torch.float32: np.float32, torch.float64: np.float64}
ONES = BITS_OF_BYTE.astype(np.float32)  # [256, 8]


@lru_cache(maxsize=1)
def onednn_product() -> Callable[..., Tensor] | None:
    """Return oneDNN's float32 product, None where this build of torch cannot be asked for it."""
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.ops.mkldnn._linear_pointwise.default
    return None


def float_mm(spikes: Tensor, weight: Tensor, *, onednn: bool) -> Tensor:
    """Return the product of two dense matrices; oneDNN's where asked for and possible."""
    if onednn and weight.dtype == torch.float32 and in_numpy(spikes) and len(spikes) >= LEAST_ROWS:
        product = onednn_product()
        if product is not None and spikes.shape[1] and weight.shape[1]:
            return product(spikes, weight.t(), None, "none", [], "")
    return spikes @ weight


def unpacked(
    packed: Tensor, shape: tuple[int, ...], beside: Tensor, *, channels_last: bool = False
) -> Tensor:
    """Return the dense tensor for a product with another.

    It lies in a buffer that the thread's next call writes over, unless autograd would save it.
    """
    size, dtype = math.prod(shape), beside.dtype
    saved = torch.is_grad_enabled() and beside.requires_grad
    if saved or not in_numpy(packed) or size > KEPT:
        dense = unpack_bits(packed, shape, dtype)
        return dense.to(memory_format=torch.channels_last) if channels_last else dense
    if not channels_last and _native.knows(dtype) and _native.takes(packed):
        return _native.unpack(packed, _buffer(size, dtype)).view(shape)
    buffer = _buffer(size, dtype)
    if not channels_last and dtype == torch.float32 and size % 8 == 0:
        eights = buffer.numpy().reshape(-1, 8)
        ONES.take(packed.numpy()[: size // 8], axis=0, out=eights, mode="clip")
        return buffer.view(shape)
    bits = torch.from_numpy(np.unpackbits(packed.numpy(), count=size, bitorder="little"))
    if not channels_last:
        return buffer.copy_(bits).view(shape)
    batch, channels, *sides = shape
    return buffer.view(batch, *sides, channels).movedim(-1, 1).copy_(bits.view(shape))


def _buffer(size: int, dtype: torch.dtype) -> Tensor:
    buffer = getattr(_kept, str(dtype), None)
    if buffer is None or buffer.numel() < size:
        # a result of inference mode may not be written to outside of it
        with torch.inference_mode(False):
            buffer = torch.empty(size, dtype=dtype, device="cpu")
        setattr(_kept, str(dtype), buffer)
    part: Tensor = buffer[:size]
    return part


def _in_rows(weight: Tensor) -> bool:
    """Say whether numpy's BLAS can multiply a vector with a matrix where it lies."""
    plain = weight.dtype in NUMPYS and weight.is_cpu and type(weight) in _native.PLAIN
    wanted = torch.is_grad_enabled() and weight.requires_grad
    if not plain or wanted or weight.is_neg() or _native.wrapped(weight):
        return False
    return 1 in weight.stride()


def _one_row(packed: Tensor, weight: Tensor) -> Tensor:
    """Return S @ W of one row: BLAS's product with a vector, which torch has no way to call."""
    bits = np.unpackbits(packed.numpy(), count=len(weight), bitorder="little")
    values = bits.astype(NUMPYS[weight.dtype])
    with np.errstate(all="ignore"):  # torch's products do not warn of what is not finite
        return torch.from_numpy(np.dot(values, weight.detach().numpy())[None])


def dense_mm(packed: Tensor, rows: int, weight: Tensor, *, onednn: bool = True) -> Tensor:
    """Return S @ W with S unpacked, a few hundred rows at a time: [rows, N]."""
    columns = weight.shape[0]
    if rows == 1 and in_numpy(packed) and _in_rows(weight):
        return _one_row(packed, weight)
    if not in_numpy(packed) or rows <= 2 * ROWS or (ROWS * columns) % 8:
        return float_mm(unpacked(packed, (rows, columns), weight), weight, onednn=onednn)
    result = weight.new_empty(rows, weight.shape[1])
    for start in range(0, rows, ROWS):
        taken = min(ROWS, rows - start)
        part = packed[start * columns // 8 :]
        dense = unpacked(part, (taken, columns), weight)
        result[start : start + taken] = float_mm(dense, weight, onednn=onednn)
    return result


def dense_by_spikes(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return G Wᵀ [M, K], by the best product there is where no further derivative is wanted."""
    if torch.is_grad_enabled() or not in_numpy(gradient) or not in_numpy(weight):
        return gradient @ weight.t()
    return float_mm(gradient.contiguous(), weight.t(), onednn=calibration().onednn)


def dense_mm_transposed(packed: Tensor, columns: int, gradient: Tensor) -> Tensor:
    """Return Sᵀ @ G with S unpacked: [columns, N]."""
    dense = unpacked(packed, (gradient.shape[0], columns), gradient)
    # oneDNN is no faster here: one of the operands has to be turned
    return dense.t() @ gradient
