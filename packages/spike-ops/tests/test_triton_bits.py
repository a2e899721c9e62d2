import os

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

import triton.language as tl  # noqa: E402

from spike_ops._bits import count_bits, pack_bits_reference, unpack_bits_reference  # noqa: E402
from spike_ops._triton import _bits as bits  # noqa: E402

# around a byte, and around the bytes of a program
SIZES = [0, 1, 7, 8, 9, 8 * bits.BYTES - 1, 8 * bits.BYTES, 8 * bits.BYTES + 3]
RATES = [0.0, 0.03, 0.5, 1.0]
DTYPES = [torch.bool, torch.uint8, torch.float32, torch.float16, torch.float64, torch.int64]


def fired(size, rate):
    return torch.rand(size, generator=torch.Generator().manual_seed(size)) < rate


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", SIZES)
def test_packing_unpacking_and_counting_are_those_of_the_reference(size, rate):
    spikes = fired(size, rate)
    packed = bits.pack(spikes)
    assert torch.equal(packed, pack_bits_reference(spikes))
    assert torch.equal(bits.unpack(packed, (size,)), unpack_bits_reference(packed, (size,)))
    assert int(bits.count(packed)) == int(spikes.sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_is_packed_and_unpacked(dtype):
    spikes = fired(61, 0.3)
    packed = bits.pack(spikes.to(dtype))
    assert torch.equal(packed, pack_bits_reference(spikes))
    dense = bits.unpack(packed, (61,), dtype)
    assert dense.dtype == dtype
    assert torch.equal(dense, spikes.to(dtype))


def test_all_but_zeros_are_spikes_nan_and_tiny_numbers_too():
    x = torch.tensor([0.0, -0.0, 1e-45, torch.nan, -torch.inf, 2.0])
    assert bits.unpack(bits.pack(x), (6,)).tolist() == [False, False, True, True, True, True]


def test_strided_tensors_are_packed_in_their_own_order():
    spikes = fired(60, 0.4).view(5, 12)
    assert torch.equal(bits.pack(spikes.t()), pack_bits_reference(spikes.t()))
    assert torch.equal(bits.unpack(bits.pack(spikes), (5, 12)), spikes)


def test_the_bits_are_those_that_numpy_writes():
    spikes = fired(77, 0.4)
    want = np.packbits(spikes.numpy(), bitorder="little")
    assert np.array_equal(bits.pack(spikes).numpy(), want)


def test_every_byte_has_its_count():
    packed, found = torch.arange(256, dtype=torch.uint8), torch.empty(256, dtype=torch.int32)
    ones_kernel[(1,)](packed, found, 256)
    assert found.tolist() == [byte.bit_count() for byte in range(256)]
    assert int(bits.count(packed)) == int(found.sum()) == count_bits(packed) == 1024


@triton.jit
def ones_kernel(P, Y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(Y + at, bits.ones(tl.load(P + at)))


def test_a_count_of_many_programs_is_a_tensor_of_the_device():
    packed = torch.full((2 * bits.COUNTED + 5,), 255, dtype=torch.uint8)
    total = bits.count(packed)
    assert (total.dtype, total.shape) == (torch.int64, ())
    assert int(total) == 8 * (2 * bits.COUNTED + 5)


def test_nothing_is_written_beyond_the_last_element(monkeypatch):
    blocks, empty = [], torch.empty

    def guarded(shape, *, dtype, device):
        size = shape if isinstance(shape, int) else torch.Size(shape).numel()
        block = empty(size + 64, dtype=dtype, device=device).fill_(113)
        blocks.append((block, size))
        return block[32 : 32 + size].view(shape if isinstance(shape, tuple) else (shape,))

    spikes = fired(61, 0.5)
    monkeypatch.setattr(bits.torch, "empty", guarded)
    packed = bits.pack(spikes)
    bits.unpack(packed, (61,), torch.float32)
    assert len(blocks) == 2
    for block, size in blocks:
        assert (block[:32] == 113).all()
        assert (block[32 + size :] == 113).all()


def test_what_the_kernels_cannot_do_is_refused(monkeypatch):
    with pytest.raises(TypeError, match="must be real numbers or booleans, got torch.complex64"):
        bits.pack(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="packed must hold 17 bits, got 2 bytes"):
        bits.unpack(torch.zeros(2, dtype=torch.uint8), (17,))
    monkeypatch.setattr("spike_ops._triton._device.INTERPRETED", False)
    with pytest.raises(ValueError, match="triton needs tensors on a CUDA device, got cpu"):
        bits.pack(torch.zeros(3))
