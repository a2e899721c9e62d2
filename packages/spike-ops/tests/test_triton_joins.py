import os

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

from spike_ops import SpikeTensor, _bits, _gpu, _mm  # noqa: E402
from spike_ops._cost import unmeasured  # noqa: E402
from spike_ops._triton import _bits as bit_kernels, _products as products  # noqa: E402
from spike_ops.functional import spike_mm  # noqa: E402

DTYPES = [torch.float32, torch.float16]


@pytest.fixture
def asked(monkeypatch):
    """Take the CPU for a GPU, whose kernels the interpreter runs; return what they are asked."""
    names = []

    def told(module, name):
        kernel = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: names.append(name) or kernel(*a, **k))

    for module, name in [(bit_kernels, n) for n in ("pack", "unpack", "count")]:
        told(module, name)
    told(products, "event_mm")
    for module in (_bits, _mm):
        monkeypatch.setattr(module, "on_gpu", lambda _: True)
    monkeypatch.setattr(_bits, "in_numpy", lambda _: False)
    # as on a device: nothing is counted
    monkeypatch.setattr(_mm, "plan_mm", lambda *a, **_: unmeasured("cuda", a[3]))
    return names


@pytest.mark.parametrize("dtype", [torch.bool, *DTYPES, torch.float64], ids=str)
def test_bits_are_packed_unpacked_and_counted_by_kernels(asked, dtype):
    spikes = torch.rand(5, 13) < 0.3
    packed = _bits.pack_bits(spikes.to(dtype))
    assert torch.equal(packed, _bits.pack_bits_reference(spikes))
    assert torch.equal(_bits.unpack_bits(packed, (5, 13), dtype), spikes.to(dtype))
    assert _bits.count_bits(packed) == int(spikes.sum())
    assert asked == ["pack", "unpack", "count"]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int16], ids=str)
def test_other_numbers_go_as_before(asked, dtype):
    spikes = torch.rand(5, 13) < 0.3
    packed = _bits.pack_bits(spikes.to(dtype))
    assert torch.equal(_bits.unpack_bits(packed, (5, 13), dtype), spikes.to(dtype))
    assert not asked


def sides(dtype=torch.float32, rows=11):
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(rows, 37, generator=generator) < 0.2).to(dtype)
    weight = (torch.randint(-64, 64, (37, 9), generator=generator) / 64).to(dtype)
    return spikes, weight.requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_event_path_adds_on_the_gpu_forward_and_backward(asked, dtype):
    spikes, weight = sides(dtype)
    got = spike_mm(SpikeTensor.from_dense(spikes), weight, "event")
    assert torch.equal(got, spikes @ weight)
    gradient = torch.ones_like(got)
    (found,) = torch.autograd.grad(got, weight, gradient)
    assert torch.equal(found, spikes.t() @ gradient)
    assert asked == ["pack", "event_mm", "event_mm"]


def test_a_row_has_the_same_sum_whatever_its_batch(asked):
    spikes, weight = sides()
    weight = torch.randn(37, 9)
    whole = spike_mm(SpikeTensor.from_dense(spikes), weight, "event")
    for row in range(11):
        alone = spike_mm(SpikeTensor.from_dense(spikes[row : row + 1]), weight, "event")
        assert torch.equal(alone[0], whole[row])
    assert asked.count("event_mm") == 12


def test_doubles_are_gathered_as_before(asked):
    spikes, weight = sides(torch.float64)
    got = spike_mm(SpikeTensor.from_dense(spikes), weight, "event")
    assert torch.equal(got, spikes @ weight)
    assert "event_mm" not in asked


def test_no_kernel_is_asked_on_the_cpu_or_while_tracing():
    assert not _gpu.on_gpu(torch.ones(3))
    with torch._subclasses.FakeTensorMode():
        assert not _gpu.on_gpu(torch.ones(3, device="cuda"))
