import os

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

import triton.language as tl  # noqa: E402

from spike_ops._bits import pack_bits  # noqa: E402
from spike_ops._mm import mm_reference  # noqa: E402
from spike_ops._triton import _products as products, _slices as slices  # noqa: E402

DTYPES = [torch.float32, torch.float16]
# rows, K, N: none, one, around a tile, rows that begin inside a byte
SIZES = [(0, 5, 3), (3, 0, 4), (3, 5, 0), (1, 1, 1), (5, 37, 9), (65, 72, 129)]
RATES = [0.0, 0.05, 1.0]
PROBLEMS = [(size, rate) for size in SIZES for rate in RATES if size[0] < 64 or rate == 0.05]


@triton.jit
def slices_kernel(W, A, B, C, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    w = tl.load(W + at)
    first = slices.first_bits(w)
    rest = slices.remainder(w, first)
    second = slices.first_bits(rest)
    tl.store(A + at, first)
    tl.store(B + at, second)
    tl.store(C + at, slices.remainder(rest, second))


def by_count(limit):
    def call(packed, rows, weight, **options):
        return products.mm_by_count(packed, rows, weight, limit, **options)

    return call


WAYS = {
    "packed": products.packed_mm,
    "union": products.union_mm,
    "event": products.event_mm,
    "counted, few": by_count(10**6),
    "counted, many": by_count(-1),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def problem(size, rate, dtype=torch.float32):
    rows, depth, width = size
    generator = torch.Generator().manual_seed(sum(size))
    spikes = torch.rand(rows, depth, generator=generator) < rate
    return spikes, torch.randn(depth, width, generator=generator).to(dtype)


def assert_sums(got, spikes, weight):
    """Compare with the float64 sums, up to the rounding of sums of their lengths."""
    want, total = spikes.double() @ weight.double(), spikes.double() @ weight.double().abs()
    error = (got.double() - want).abs()
    allowed = total * 2**-21 + want.abs() * torch.finfo(weight.dtype).eps
    assert got.dtype == weight.dtype
    assert got.shape == want.shape
    assert (error <= allowed).all(), float((error - allowed).max())


@pytest.mark.parametrize("size, rate", PROBLEMS, ids=str)
@each_dtype
@each_way
def test_every_way_computes_the_product(way, dtype, size, rate):
    spikes, weight = problem(size, rate, dtype)
    assert_sums(way(pack_bits(spikes), size[0], weight), spikes, weight)


@each_dtype
@each_way
def test_every_way_computes_the_gradient_of_the_weight(way, dtype):
    for size in ((5, 37, 9), (0, 3, 2), (24, 16, 7)):
        spikes, gradient = problem(size, 0.2, dtype)
        got = way(pack_bits(spikes.t()), size[0], gradient, transposed=True)
        assert_sums(got, spikes, gradient)


@each_way
def test_every_way_takes_any_strides_of_the_weight(way):
    spikes, weight = problem((5, 37, 9), 0.2)
    want = way(pack_bits(spikes), 5, weight)
    wide = torch.full((74, 18), torch.nan)
    wide[::2, ::2] = weight
    for same in (weight.t().contiguous().t(), wide[::2, ::2]):
        assert torch.equal(way(pack_bits(spikes), 5, same), want)


@each_way
def test_whole_numbers_are_added_exactly(way):
    spikes, weight = problem((9, 48, 5), 0.3)
    weight = (weight * 1000).round()
    assert torch.equal(way(pack_bits(spikes), 9, weight), mm_reference(spikes, weight))


@pytest.mark.parametrize("way", ["packed", "union"])
def test_single_precision_keeps_every_bit_of_a_weight(way):
    magnitude = torch.logspace(-30, 38, 64)[:, None]
    weight = torch.cat([magnitude * 1.23456789, -magnitude / 3], 1)
    got = WAYS[way](pack_bits(torch.eye(64)), 64, weight)
    assert torch.equal(got, weight)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_three_slices_are_the_weight_and_each_is_a_bfloat16():
    torch.manual_seed(0)
    w = torch.randn(1024) * torch.logspace(-30, 37, 1024)
    w[:4] = torch.tensor([0.0, torch.inf, -torch.inf, torch.finfo(torch.float32).max])
    parts = [torch.empty_like(w) for _ in range(3)]
    slices_kernel[(1,)](w, *parts, 1024)
    assert torch.equal(parts[0] + (parts[1] + parts[2]), w)
    for part in parts:
        assert torch.equal(part.bfloat16().float(), part)


def test_a_sum_by_additions_depends_on_its_own_row_alone(monkeypatch):
    monkeypatch.setattr(products, "CHUNK", 16)
    spikes, weight = problem((11, 50, 6), 0.3)
    together = products.event_mm(pack_bits(spikes), 11, weight)
    for row in range(11):
        alone = products.event_mm(pack_bits(spikes[row]), 1, weight)
        assert torch.equal(alone[0], together[row])


@each_dtype
def test_chunks_of_additions_are_added_up(monkeypatch, dtype):
    monkeypatch.setattr(products, "CHUNK", 16)
    for depth in (16, 47):
        spikes, weight = problem((3, depth, 6), 0.5, dtype)
        assert_sums(products.event_mm(pack_bits(spikes), 3, weight), spikes, weight)


@pytest.mark.parametrize("way", ["union", "event"])
def test_rows_of_the_weight_that_no_spike_names_are_not_read(way):
    spikes, weight = problem((5, 37, 9), 0.1)
    want = WAYS[way](pack_bits(spikes), 5, weight)
    weight[~spikes.any(0)] = torch.nan
    assert torch.equal(WAYS[way](pack_bits(spikes), 5, weight), want)


def test_an_infinite_weight_is_infinite_by_additions_where_it_is_named():
    spikes = torch.tensor([[True, False], [False, True]])
    weight = torch.tensor([[1.0], [torch.inf]])
    assert products.event_mm(pack_bits(spikes), 2, weight).flatten().tolist() == [1, torch.inf]


@pytest.mark.parametrize("spare, launched", [(0, "compact"), (-1, "packed")])
def test_the_count_on_the_device_decides_which_kernel_stores(monkeypatch, spare, launched):
    spikes, weight = problem((5, 37, 9), 0.2)
    packed, limit = pack_bits(spikes), int(spikes.sum()) + spare
    other = {"compact": "_packed", "packed": "_union"}[launched]
    # without the other one, the result is whole all the same
    monkeypatch.setattr(products, other, lambda *_: None)
    assert_sums(products.mm_by_count(packed, 5, weight, limit), spikes, weight)


@each_way
def test_nothing_is_written_beyond_the_result(monkeypatch, way):
    blocks, empty = [], torch.Tensor.new_empty

    def guarded(self, *shape, **options):
        size = torch.Size(shape).numel()
        block = empty(self, size + 128, **options).fill_(113)
        blocks.append((block, size))
        return block[64 : 64 + size].view(shape)

    spikes, weight = problem((5, 37, 9), 0.2)
    monkeypatch.setattr(torch.Tensor, "new_empty", guarded)
    assert_sums(way(pack_bits(spikes), 5, weight), spikes, weight)
    assert blocks
    for block, size in blocks:
        assert (block[:64] == 113).all()
        assert (block[64 + size :] == 113).all()


@pytest.mark.parametrize("rows, taken", [(8, "event_mm"), (9, "union_mm")])
def test_additions_are_for_the_rows_of_one_tile(monkeypatch, rows, taken):
    spikes, weight = problem((rows, 12, 3), 0.2)
    other = {"event_mm": "union_mm", "union_mm": "event_mm"}[taken]
    monkeypatch.setattr(products, other, None)
    assert_sums(products.sparse_mm(pack_bits(spikes), rows, weight), spikes, weight)


def test_what_the_kernels_cannot_do_is_refused():
    packed, weight = torch.zeros(2, dtype=torch.uint8), torch.zeros(5, 3)
    with pytest.raises(TypeError, match="triton has no kernel for torch.float64 here"):
        products.packed_mm(packed, 3, weight.double())
    with pytest.raises(TypeError, match="triton has no kernel for torch.bfloat16 here"):
        products.event_mm(packed, 3, weight.bfloat16())
    with pytest.raises(ValueError, match="packed must hold 20 bits, got 2 bytes"):
        products.union_mm(packed, 4, weight)
