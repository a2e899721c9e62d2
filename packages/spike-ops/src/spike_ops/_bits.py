"""Spikes as bits: packing, unpacking and counting, on any device.

Bit i of byte j holds element 8 j + i of the flattened tensor (little-endian, as
`numpy.packbits(..., bitorder="little")` writes them); the last byte is filled up with zeros.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spike_ops._checked import tensor
from spike_ops._gpu import NUMBERS, kernels, on_gpu

BYTES = np.arange(256, dtype=np.uint8)
BITS_OF_BYTE = np.unpackbits(BYTES[:, None], axis=1, bitorder="little")  # [256, 8]
HAS_BITWISE_COUNT = hasattr(np, "bitwise_count")  # numpy 2
SHORT = 4096  # bytes that are counted sooner as one number
COUNT_OF_BYTE = BITS_OF_BYTE.sum(1, dtype=np.uint8)  # [256]


def bytes_needed(size: int) -> int:
    """Return how many bytes hold that many spikes."""
    return -(-size // 8)


def check_packed(packed: Tensor, shape: Sequence[int]) -> int:
    """Return how many spikes a shape has; raise unless these are their bytes."""
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.ndim != 1:
        got = type(packed).__name__
        if isinstance(packed, Tensor):
            got = f"{packed.dtype} of {tuple(packed.shape)}"
        raise TypeError(f"packed must be a flat tensor of uint8, got {got}")
    size = _size_of(shape)
    if packed.shape[0] != (needed := bytes_needed(size)):
        held = f"{packed.shape[0]} bytes"
        raise ValueError(f"packed must have {needed} bytes for shape {tuple(shape)}, got {held}")
    return size


def _size_of(shape: Sequence[int]) -> int:
    try:
        size = math.prod(shape)
        if not isinstance(size, float) and not any(each < 0 for each in shape):
            return size
    except TypeError:
        pass
    raise TypeError(f"shape must be whole sizes from 0, got {shape!r}")


def in_numpy(held: Tensor) -> bool:
    """Say whether numpy can read the tensor's memory: real data on the CPU, not being traced."""
    return type(held) is Tensor and held.is_cpu and not torch.compiler.is_compiling()


def fired_in(dense: Tensor) -> Tensor:
    """Return where there is a spike.

    Raises:
        ValueError: There is something else than zeros and ones.
    """
    fired = dense != 0
    if not torch.equal(fired, dense == 1):
        wrong = fired & (dense != 1)
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(f"spikes must be 0 or 1, got {dense[where].item():g} at {where}")
    return fired


def pack_bits_reference(fired: Tensor) -> Tensor:
    """Return the bits of a boolean tensor by shifts and sums: [ceil(n / 8)] of uint8."""
    flat = fired.reshape(-1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8)
    shifts = torch.arange(8, device=flat.device, dtype=torch.uint8)
    return (flat << shifts).sum(1, dtype=torch.uint8)


def unpack_bits_reference(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the boolean tensor of a shape that `pack_bits_reference` packed."""
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    bits = (packed[:, None] >> shifts) & 1
    return bits.reshape(-1)[: math.prod(shape)].reshape(tuple(shape)).bool()


def pack_bits(fired: Tensor) -> Tensor:
    """Return the bits of a tensor, one where it is not zero: [ceil(n / 8)] of uint8.

    Raises:
        TypeError: `fired` is no tensor.
    """
    tensor("fired", fired)
    if not in_numpy(fired) and on_gpu(fired) and fired.dtype in NUMBERS:
        packed: Tensor = kernels("_bits").pack(fired)
        return packed
    fired = fired if fired.dtype == torch.bool else fired != 0
    if not in_numpy(fired):
        return pack_bits_reference(fired)
    flat = fired.detach().contiguous().reshape(-1).numpy()
    return torch.from_numpy(np.packbits(flat, bitorder="little"))


def unpack_bits(packed: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.bool) -> Tensor:
    """Return the dense tensor of a shape: one (or True) where the bit is set, else zero.

    Raises:
        TypeError: `packed` is not a flat tensor of uint8, or `shape` no sizes.
        ValueError: `packed` does not have the bytes of the shape.
    """
    tensor("packed", packed)
    if not in_numpy(packed):
        if on_gpu(packed) and dtype in NUMBERS:
            unpacked: Tensor = kernels("_bits").unpack(packed, shape, dtype)
            return unpacked
        return unpack_bits_reference(packed, shape).to(dtype)
    bits = np.unpackbits(packed.numpy(), count=check_packed(packed, shape), bitorder="little")
    dense = torch.from_numpy(bits).reshape(tuple(shape))
    return dense.view(torch.bool) if dtype == torch.bool else dense.to(dtype)


def count_bits(packed: Tensor) -> int:
    """Return how many bits are set."""
    if not in_numpy(packed):
        if on_gpu(packed):
            return int(kernels("_bits").count(packed))
        table = torch.from_numpy(COUNT_OF_BYTE).to(packed.device)
        return int(table[packed.int()].sum(dtype=torch.int64))
    data = packed.numpy()
    if data.size <= SHORT:
        return int.from_bytes(data.tobytes(), "little").bit_count()
    if not HAS_BITWISE_COUNT:
        return int(COUNT_OF_BYTE[data].sum(dtype=np.int64))
    rest = data.size % 8
    if not rest:
        return int(np.add.reduce(np.bitwise_count(data.view(np.uint64)), dtype=np.int64))
    tail = np.add.reduce(COUNT_OF_BYTE[data[-rest:]], dtype=np.int64)
    words = np.bitwise_count(data[:-rest].view(np.uint64))
    return int(np.add.reduce(words, dtype=np.int64) + tail)
