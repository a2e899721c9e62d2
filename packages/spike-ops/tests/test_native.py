import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from spike_ops import SpikeTensor, _calibration, _conv, _event, _mm, _native, calibration, pack_bits
from spike_ops._c_build import compiler
from spike_ops._calibrate import calibrate
from spike_ops._dense import unpacked
from spike_ops._index import SpikeIndex
from spike_ops._native import compile_kernels
from spike_ops._native_adding import add_short_rows
from spike_ops._native_tables import look_up
from spike_ops.functional import (
    conv1d,
    conv2d,
    conv3d,
    explain,
    explain_conv,
    spike_attention,
    spike_mm,
)

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")
OURS, TORCHS = (conv1d, conv2d, conv3d), (F.conv1d, F.conv2d, F.conv3d)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


@pytest.fixture(scope="module", autouse=True)
def kernels():
    before = list(_calibration._in_use)
    compile_kernels()
    yield
    _native._libraries.clear()
    _calibration._in_use[:] = before


def without(call):
    """Return what a call gives without the kernels."""
    kept = list(_native._libraries)
    _native._libraries.clear()
    try:
        return call()
    finally:
        _native._libraries.extend(kept)


def spikes_of(*shape, density=0.2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).to(dtype)


def normal(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(st.integers(0, 9), st.integers(1, 200), st.sampled_from([0.0, 0.02, 0.4, 1.0]))
def test_index_is_that_of_numpy(rows, columns, density):
    spikes = SpikeTensor.from_dense(spikes_of(rows, columns, density=density, seed=columns))
    got = SpikeIndex(spikes.packed, rows * columns)
    expected = SpikeIndex(spikes.packed, rows * columns)
    without(lambda: (expected.by_row(columns), expected.by_column(columns)))
    for one, other in (
        (got.by_row(columns), expected.by_row(columns)),
        (got.by_column(columns), expected.by_column(columns)),
    ):
        assert torch.equal(one.entries, other.entries)
        assert torch.equal(one.borders, other.borders)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(1, 1024, 300), (7, 33, 5), (300, 64, 330), (20, 130, 129)])
def test_products_are_the_same_to_the_bit(shape, density, dtype):
    rows, columns, width = shape
    spikes = spikes_of(rows, columns, density=density, dtype=dtype)
    weight, gradient = normal(columns, width, dtype=dtype), normal(rows, width, dtype=dtype)

    def forward():
        return spike_mm(spikes, weight, "event")

    def backward():
        return spike_mm(SpikeTensor.from_dense(spikes).t(), gradient, "event")

    for call in (forward, backward):
        assert torch.equal(call(), without(call))


def test_batches_and_attention_are_the_same_to_the_bit():
    spikes, weight = spikes_of(3, 7, 30), normal(3, 30, 17)
    q, k, v = (spikes_of(2, 9, 8, seed=seed) for seed in range(3))

    def products():
        return spike_mm(spikes, weight, "event")

    def attention():
        return spike_attention(q, k, v, method="event")

    for call in (products, attention):
        assert torch.equal(call(), without(call))


@st.composite
def problems(draw):
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    each, outputs = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 17, 40, 70]))

    def along(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    kernel, options = along(1, 4), (along(1, 3), along(0, 2), along(1, 2))
    sides = tuple(
        max(d * (k - 1) + 1 - 2 * p, 1) + draw(st.integers(0, 4))
        for k, p, d in zip(kernel, *options[1:], strict=True)
    )
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    shape = (draw(st.integers(1, 3)), groups * each, *sides)
    weight = normal(groups * outputs, each, *kernel, dtype=dtype)
    return spikes_of(*shape, density=density, dtype=dtype), weight, *options, groups


@settings(max_examples=80)
@given(problems())
def test_convolutions_are_torchs(problem):
    spikes, weight, *options = problem
    outcomes = []
    for functions, method in ((OURS, ("event",)), (TORCHS, ())):
        leaves = [spikes.clone().requires_grad_(), weight.clone().requires_grad_()]
        result = functions[weight.ndim - 3](*leaves, None, *options, *method)
        (result * normal(*result.shape, dtype=weight.dtype, seed=2)).sum().backward()
        outcomes.append([result.detach(), *[leaf.grad for leaf in leaves]])
    room = TOLERANCE[weight.dtype]
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected, rtol=room, atol=room)


def test_samples_alone_are_those_of_the_batch_and_threads_do_not_matter(monkeypatch):
    monkeypatch.setattr(_native, "PER_THREAD", 1)
    spikes, weight = spikes_of(9, 16, 12, 12), normal(70, 16, 3, 3)
    whole = conv2d(spikes, weight, padding=1, method="event")
    flat, table = spikes_of(200, 64), normal(64, 300)
    product = spike_mm(flat, table, "event")
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for part in (slice(0, 1), slice(2, 9)):
                got = conv2d(spikes[part], weight, padding=1, method="event")
                assert torch.equal(got, whole[part])
                assert torch.equal(spike_mm(flat[part], table, "event"), product[part])
    finally:
        torch.set_num_threads(threads)


def test_second_derivatives_do_not_go_by_the_kernels():
    spikes = spikes_of(2, 2, 4, 4, dtype=torch.float64)

    def loss(weight):
        return conv2d(spikes, weight, padding=1, method="event").sin()

    weight = normal(2, 2, 3, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(loss, weight, fast_mode=True)


def test_slices_at_a_byte_are_read_within_their_bytes():
    spikes = SpikeTensor.from_dense(spikes_of(6, 3, 8))
    weight = normal(8, 70)
    for part in (spikes[5:], spikes[1:2], spikes[2:2]):
        flat = part.reshape(-1, 8)
        got = spike_mm(flat, weight, "event")
        assert torch.equal(got, without(lambda flat=flat: spike_mm(flat.clone(), weight, "event")))


def test_layers_take_them():
    layer, spikes = nn.Conv2d(64, 64, 3, padding=1), spikes_of(2, 64, 32, 32, density=0.02)
    got = layer(SpikeTensor.from_dense(spikes))
    torch.testing.assert_close(got, layer(spikes), rtol=1e-4, atol=1e-5)


def test_costs_are_those_of_the_kernels():
    assert calibration().kernels
    assert calibrate(seconds=0.001).kernels
    assert not without(lambda: calibrate(seconds=0.001).kernels)


def test_without_a_compiler_it_says_so_and_changes_nothing(monkeypatch):
    from spike_ops._c_build import CompilerError, load

    def forget():
        load.cache_clear()
        monkeypatch.setattr("spike_ops._c_build.compiler", lambda: None)
        with pytest.raises(CompilerError, match="no C compiler found"):
            compile_kernels()
        assert not _native.compiled()

    without(forget)


@given(st.integers(0, 5), st.integers(0, 150), st.sampled_from([torch.float32, torch.float64]))
def test_bits_unpacked_by_the_kernel_are_the_same(rows, columns, dtype):
    packed = SpikeTensor.from_dense(spikes_of(rows, columns, density=0.5)).packed

    def dense():
        return unpacked(packed, (rows, columns), torch.empty(0, dtype=dtype)).clone()

    assert torch.equal(dense(), without(dense))


def test_small_products_are_added_up_without_positions_and_large_ones_with(monkeypatch):
    weight, calls = normal(1024, 200), []
    add = _event.add_rows
    monkeypatch.setattr(_event, "add_rows", lambda *given: (calls.append(given[1]), add(*given))[1])
    for rows, found in ((1, False), (7, False), (7, True), (300, False)):
        spikes = SpikeTensor.from_dense(spikes_of(rows, 1024, density=0.1))
        if found:
            spikes.index.by_row(1024)
        got = spike_mm(spikes, weight, "event")
        assert spikes.index.found is (found or rows == 300)
        again = SpikeTensor(spikes.packed, spikes.shape)
        assert torch.equal(got, without(lambda again=again: spike_mm(again, weight, "event")))
    assert calls == [1, 7]


def looked_up(spikes, weight):
    return look_up(SpikeTensor.from_dense(spikes).packed, len(spikes), weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "shape", [(5, 64, 64), (7, 33, 5), (600, 37, 130), (1, 3, 1), (513, 8, 65), (9, 0, 4)]
)
def test_products_by_tables_are_those_of_float64(shape, density, dtype):
    rows, columns, width = shape
    spikes = spikes_of(rows, columns, density=density, dtype=dtype)
    weight = normal(columns, width, dtype=dtype)
    room = TOLERANCE[dtype] / 20 * (spikes.double() @ weight.double().abs()) + 1e-300
    exact = spikes.double() @ weight.double()
    assert ((looked_up(spikes, weight).double() - exact).abs() <= room).all()


def test_tables_do_not_depend_on_other_rows_columns_or_threads(monkeypatch):
    monkeypatch.setattr(_native, "PER_THREAD", 1)
    spikes, weight = spikes_of(530, 72, density=0.7), normal(72, 200)
    whole, threads = looked_up(spikes, weight), torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for part in (slice(5, 7), slice(0, 40)):
                assert torch.equal(looked_up(spikes[part], weight), whole[part])
            assert torch.equal(looked_up(spikes, weight[:, 3:140]), whole[:, 3:140])
    finally:
        torch.set_num_threads(threads)


def test_where_all_fire_tables_are_looked_up_and_nothing_is_multiplied(monkeypatch):
    spikes, weight = spikes_of(64, 512, density=1.0), normal(512, 256)
    monkeypatch.setattr(_mm, "dense_mm", None)
    assert explain(spikes, weight).method == "dense"
    assert torch.equal(spike_mm(spikes, weight), looked_up(spikes, weight))


@settings(max_examples=40)
@given(st.integers(33, 90), st.integers(1, 70), st.integers(1, 9), st.floats(0, 1))
def test_short_rows_of_small_weights_are_the_same_to_the_bit(rows, columns, parts, density):
    spikes = spikes_of(300 * rows, columns, density=density, seed=rows)
    weight = normal(columns, 16 * parts)
    packed = SpikeTensor.from_dense(spikes).packed
    got = add_short_rows(packed, len(spikes), weight)
    assert torch.equal(got, without(lambda: spike_mm(spikes, weight, "event")))


@pytest.mark.parametrize("sizes", [(8, 64, 1024), (3, 72, 100), (2, 8, 7), (1, 136, 65)])
def test_channels_and_places_are_turned_bit_by_bit(sizes):
    _, channels, plane = sizes
    fired = spikes_of(*sizes, density=0.3).bool()
    index = SpikeTensor.from_dense(fired).index
    turned = index.flipped(channels, plane)
    assert torch.equal(turned.packed, pack_bits(fired.transpose(1, 2)))
    assert turned.count == index.count
    assert index.flipped(channels, plane) is turned


@pytest.mark.parametrize("density", [0.05, 1.0])
@pytest.mark.parametrize("method", ["auto", "event", "dense"])
def test_convolutions_of_one_element_are_products(method, density, monkeypatch):
    spikes, weight, bias = spikes_of(3, 16, 7, 9, density=density), normal(33, 16, 1, 1), normal(33)
    monkeypatch.setattr(_conv, "native_conv", None)
    leaf = weight.clone().requires_grad_()
    got = conv2d(spikes, leaf, bias, method=method)
    flat = spikes.permute(0, 2, 3, 1).reshape(-1, 16)
    product = spike_mm(flat, weight.flatten(1).t().contiguous(), method)
    assert torch.equal(got, (product.view(3, 7, 9, 33).permute(0, 3, 1, 2) + bias[:, None, None]))
    gradient = normal(*got.shape, seed=2)
    expected = torch.autograd.grad(F.conv2d(spikes, leaf), leaf, gradient)[0]
    torch.testing.assert_close(torch.autograd.grad(got, leaf, gradient)[0], expected)


def test_what_is_planned_of_convolutions_is_done():
    for sizes in ((2, 64, 8, 8, 3), (2, 64, 8, 8, 1), (1, 8, 4, 4, 3)):
        *shape, k = sizes
        weight = normal(16, shape[1], k, k)
        for density in (0.0, 0.02, 0.2, 0.6, 1.0):
            spikes = spikes_of(*shape, density=density)
            plan = explain_conv(spikes, weight, padding=k // 2)
            told = conv2d(spikes, weight, padding=k // 2, method=plan.method)
            assert torch.equal(conv2d(spikes, weight, padding=k // 2), told)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("method", ["event", "dense"])
@pytest.mark.parametrize("rows", [1, 40])
def test_weights_may_be_mapped_over(rows, method):
    dense, weights = spikes_of(rows, 16, density=0.7), normal(3, 16, 4)
    spikes = SpikeTensor.from_dense(dense)
    for call in (lambda each: each(), without):
        got = call(
            lambda: torch.func.vmap(lambda weight: spike_mm(spikes, weight, method))(weights)
        )
        torch.testing.assert_close(got, dense @ weights)


def test_tables_skip_what_is_not_finite_as_additions_do():
    spikes, weight = spikes_of(40, 64, density=0.9), normal(64, 300)
    spikes[:, 7], weight[7] = 0, float("inf")
    assert spike_mm(spikes, weight, "dense").isfinite().all()
