"""Packing, unpacking and counting spikes on a GPU; the layout is that of `spike_ops._bits`.

Nothing here waits for the device: the count stays there, for kernels that decide by it.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from spike_ops._bits import bytes_needed
from spike_ops._triton._device import EXACT, check_device

BYTES = 256  # of packed spikes, of one program
COUNTED = 4096


@triton.jit
def packed_bits(fired):  # type: ignore[no-untyped-def]
    """Return the bytes [n] of spikes [n, 8], the first the lowest bit."""
    return tl.sum(fired.to(tl.int32) << tl.arange(0, 8)[None, :], axis=1).to(tl.uint8)


@triton.jit
def unpacked_bits(packed):  # type: ignore[no-untyped-def]
    """Return the bits [n, 8] of bytes [n] as integers."""
    return (packed.to(tl.int32)[:, None] >> tl.arange(0, 8)[None, :]) & 1


@triton.jit
def ones(byte):  # type: ignore[no-untyped-def]
    """Return how many bits are set in each byte, by shifts and sums."""
    count = byte.to(tl.int32)
    count -= (count >> 1) & 0x55
    count = (count & 0x33) + ((count >> 2) & 0x33)
    return (count + (count >> 4)) & 0x0F


@triton.jit(do_not_specialize=["size"])
def pack_kernel(X, P, size, BYTES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the bits of BYTES * 8 numbers, one where a number is not zero."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    at = byte[:, None] * 8 + tl.arange(0, 8)[None, :]
    x = tl.load(X + at, mask=at < size, other=0)
    tl.store(P + byte, packed_bits(x != 0), mask=byte * 8 < size)


@triton.jit(do_not_specialize=["size"])
def unpack_kernel(P, Y, size, BYTES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store the zeros and ones of BYTES bytes."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    at = byte[:, None] * 8 + tl.arange(0, 8)[None, :]
    bits = unpacked_bits(tl.load(P + byte, mask=byte * 8 < size, other=0))
    tl.store(Y + at, bits.to(Y.dtype.element_ty), mask=at < size)


@triton.jit(do_not_specialize=["size"])
def count_kernel(P, COUNT, size, BYTES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add the set bits of BYTES bytes to the count: a sum of integers, the same in any order."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    found = ones(tl.load(P + byte, mask=byte < size, other=0))
    tl.atomic_add(COUNT, tl.sum(found, axis=0).to(tl.int64))


def pack(fired: Tensor) -> Tensor:
    """Return the bits of a tensor, one where it is not zero: [ceil(n / 8)] of uint8.

    Raises:
        ValueError: The tensor is not on a CUDA device.
        TypeError: Its numbers are complex.
    """
    check_device(fired)
    if fired.is_complex():
        raise TypeError(f"fired must be real numbers or booleans, got {fired.dtype}")
    flat = fired.detach().contiguous().view(-1)
    flat = flat.view(torch.uint8) if flat.dtype == torch.bool else flat
    packed = torch.empty(bytes_needed(flat.numel()), dtype=torch.uint8, device=flat.device)
    if flat.numel():
        pack_kernel[(triton.cdiv(packed.numel(), BYTES),)](
            flat, packed, flat.numel(), BYTES, **EXACT
        )
    return packed


def unpack(packed: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.bool) -> Tensor:
    """Return the dense tensor of a shape: one (or True) where the bit is set, else zero.

    Raises:
        ValueError: The tensor is not on a CUDA device, or has fewer bits than the shape elements.
    """
    check_device(packed)
    size = math.prod(shape)
    if packed.numel() < bytes_needed(size):
        raise ValueError(f"packed must hold {size} bits, got {packed.numel()} bytes")
    dense = torch.empty(tuple(shape), dtype=dtype, device=packed.device)
    if size:
        target = dense.view(torch.uint8) if dtype == torch.bool else dense
        grid = (triton.cdiv(bytes_needed(size), BYTES),)
        unpack_kernel[grid](packed.contiguous(), target, size, BYTES, **EXACT)
    return dense


def count(packed: Tensor) -> Tensor:
    """Return how many bits are set, on the device: [] of int64.

    Raises:
        ValueError: The tensor is not on a CUDA device.
    """
    check_device(packed)
    total = torch.zeros((), dtype=torch.int64, device=packed.device)
    if packed.numel():
        grid = (triton.cdiv(packed.numel(), COUNTED),)
        count_kernel[grid](packed.contiguous(), total, packed.numel(), COUNTED, **EXACT)
    return total
