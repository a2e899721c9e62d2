import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st

from spike_ops import Calibration, SpikeTensor, plan_product, use_calibration
from spike_ops._calibration import NATIVE
from spike_ops._event import block_width, gather_add
from spike_ops._index import Bags
from spike_ops._mm import mm_reference
from spike_ops._ways import ways
from spike_ops.functional import explain, linear, spike_mm

METHODS = ["auto", "event", "dense"]
DENSITIES = [0.0, 0.01, 0.1, 0.5, 1.0]
BOUND = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
DTYPES = list(BOUND)


def spikes_of(rows, columns, density, *, seed=0, dtype=torch.float32, pattern="even"):
    generator = torch.Generator().manual_seed(seed)
    chance = torch.full((rows, columns), density)
    if pattern == "silent channels":
        chance[:, torch.rand(columns, generator=generator) < 0.7] = 0
    if pattern == "clustered":
        chance = (torch.rand(rows, columns // 16 + 1, generator=generator) < density).float()
        chance = chance.repeat_interleave(16, 1)[:, :columns]
    return (torch.rand(rows, columns, generator=generator) < chance).to(dtype)


def normal(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("pattern", ["even", "silent channels", "clustered"])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_products_are_those_of_float64(method, dtype, density, pattern):
    dense = spikes_of(37, 50, density, dtype=dtype, pattern=pattern)
    weight = normal(50, 21, dtype=dtype)
    exact = dense.double() @ weight.double()
    got = spike_mm(SpikeTensor.from_dense(dense), weight, method)
    assert got.dtype == dtype
    # the error of a sum is at most proportional to the sum of sizes
    room = BOUND[dtype] * (dense.double() @ weight.double().abs() + 1e-30)
    assert ((got.double() - exact).abs() <= room).all()


@given(st.integers(0, 12), st.integers(0, 40), st.integers(0, 9), st.floats(0, 1))
def test_event_path_is_bit_for_bit_the_loop_over_spikes(rows, columns, width, density):
    dense = spikes_of(rows, columns, density, seed=rows)
    weight = normal(columns, width)
    assert torch.equal(spike_mm(dense, weight, "event"), mm_reference(dense, weight))


def test_blocks_are_used_and_change_no_bit():
    dense, weight = spikes_of(300, 64, 0.6), normal(64, 300)
    index = SpikeTensor.from_dense(dense).index
    bags = index.by_row(64)
    assert block_width(64, 300, index.count, 4) == 128
    few = Bags(bags.entries[: bags.borders[9]], bags.borders[:10])
    assert block_width(64, 300, few.entries.numel(), 4) == 300
    assert torch.equal(gather_add(bags, weight)[:9], gather_add(few, weight))
    assert torch.equal(gather_add(bags, weight)[:9], mm_reference(dense[:9], weight))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_alone_are_the_rows_of_the_batch_bit_for_bit(dtype):
    dense, weight = spikes_of(64, 90, 0.3, dtype=dtype), normal(90, 140, dtype=dtype)
    whole = spike_mm(dense, weight, "event")
    for part in (slice(0, 1), slice(7, 20), slice(63, 64)):
        assert torch.equal(spike_mm(dense[part], weight, "event"), whole[part])


def test_event_path_does_not_depend_on_threads_or_the_run():
    dense, weight = spikes_of(200, 300, 0.2), normal(300, 256)
    first = spike_mm(dense, weight, "event")
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(spike_mm(dense, weight, "event"), first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0), (0, 0, 0)])
def test_empty_products(shape, method):
    rows, columns, width = shape
    spikes = torch.zeros(rows, columns, requires_grad=True)
    weight = torch.zeros(columns, width, requires_grad=True)
    got = spike_mm(spikes, weight, method)
    assert torch.equal(got, torch.zeros(rows, width))
    got.sum().backward()
    assert (spikes.grad.shape, weight.grad.shape) == (spikes.shape, weight.shape)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_leading_axes_are_kept_and_gradients_are_dense_ones(leading, method):
    dense = spikes_of(7, 8, 0.3, dtype=torch.float64).expand(*leading, 7, 8).clone()
    weight, bias = normal(4, 8, dtype=torch.float64), normal(4, dtype=torch.float64)
    results = []
    for function in (lambda s, w, b: linear(s, w, b, method), F.linear):
        leaves = [each.clone().requires_grad_() for each in (dense, weight, bias)]
        result = function(*leaves)
        (result * normal(*result.shape, dtype=torch.float64, seed=2)).sum().backward()
        results.append([result.detach(), *[leaf.grad for leaf in leaves]])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_torch_operations_take_the_same_way(method):
    dense, weight, bias = spikes_of(20, 30, 0.2), normal(6, 30), normal(6)
    spikes = SpikeTensor.from_dense(dense)
    expected = linear(spikes, weight, bias, method)
    for got in (F.linear(spikes, weight, bias), spikes @ weight.t() + bias):
        torch.testing.assert_close(got, expected)
    layer = torch.nn.Linear(30, 6)
    got = layer(spikes.view(4, 5, 30))
    torch.testing.assert_close(got, layer(dense.view(4, 5, 30)))


def test_gradient_of_the_gradient():
    spikes = spikes_of(5, 6, 0.4, dtype=torch.float64)
    for method in METHODS:

        def loss(weight, method=method):
            return spike_mm(SpikeTensor.from_dense(spikes), weight, method).sin()

        weight = normal(6, 3, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(loss, weight)
        assert torch.autograd.gradgradcheck(loss, weight)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("leading", [(3,), (2, 3)])
def test_each_matrix_of_spikes_with_a_weight_of_its_own(leading, method):
    results = []
    base = spikes_of(6 * 4, 10, 0.3, dtype=torch.float64).view(2, 3, 4, 10)[: leading[0], :3]
    dense = base.reshape(-1, 4, 10)[: torch.Size(leading).numel()].reshape(*leading, 4, 10)
    weight = normal(*leading, 10, 5, dtype=torch.float64)
    for function in (lambda s, w: spike_mm(s, w, method), torch.matmul):
        leaves = [dense.clone().requires_grad_(), weight.clone().requires_grad_()]
        result = function(*leaves)
        (result * normal(*result.shape, dtype=torch.float64, seed=2)).sum().backward()
        results.append([result.detach(), *[leaf.grad for leaf in leaves]])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_wrong_arguments_are_named():
    spikes = SpikeTensor.from_dense(torch.eye(4))
    with pytest.raises(ValueError, match=r"spikes \[M, K\] need a weight \[K, N\], got \(4, 4\)"):
        spike_mm(spikes, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"spikes \[\.\.\., M, K\] need a weight"):
        spike_mm(spikes, torch.ones(2, 4, 2))
    with pytest.raises(TypeError, match=r"one dtype, got torch.float32 and torch.float64"):
        spike_mm(spikes, torch.ones(4, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="method must be one of auto, event, dense, got 'fast'"):
        spike_mm(spikes, torch.ones(4, 2), "fast")
    with pytest.raises(ValueError, match="spikes must be 0 or 1, got 2"):
        spike_mm(2 * torch.eye(4), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"weight and bias must be \[out, in\] and \[out\]"):
        linear(spikes, torch.ones(2, 4), torch.ones(3))
    with pytest.raises(ValueError, match=r"spikes \[\.\.\., K\] need a weight \[K, N\]"):
        explain(spikes, torch.ones(3, 2))


def test_the_plan_is_told_and_followed():
    dense, weight = spikes_of(64, 256, 0.02), normal(256, 512)
    plan = explain(dense, weight)
    assert plan.method == "event"
    assert plan.density == pytest.approx(float(dense.mean()))
    assert 0 < plan.event_seconds < plan.dense_seconds
    assert explain(1 - dense, weight).method == "dense"
    assert explain(1 - dense, weight, "event")[::4] == ("event", "as asked")
    assert torch.equal(spike_mm(dense, weight), spike_mm(dense, weight, "event"))
    assert torch.equal(spike_mm(1 - dense, weight), spike_mm(1 - dense, weight, "dense"))


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096), st.floats(0, 1))
def test_more_spikes_never_bring_additions_back(rows, columns, width, density):
    count = int(density * rows * columns)
    if plan_product(rows, columns, width, count).method == "dense":
        # denser still, unless a copy of the weight into blocks begins to pay
        fuller = plan_product(rows, columns, width, rows * columns)
        assert fuller.method == "dense" or fuller.event_seconds < fuller.dense_seconds


SHAPES = [(1, 1024, 1024), (3, 40, 7), (32, 1024, 1024), (300, 64, 300), (1024, 1024, 1024)]


@pytest.mark.parametrize("costs", [Calibration(), NATIVE], ids=["plain", "kernels"])
@pytest.mark.parametrize("told", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("shape", SHAPES)
def test_ways_that_are_kept_are_those_of_the_plan(shape, told, costs):
    rows, columns, _ = shape
    with use_calibration(costs):
        known = ways(*shape, torch.float32, *told)
        near = {each + d for each in known[:3] for d in (-1, 0, 1)}
        spread = {i * rows * columns // 16 for i in range(17)}
        for count in sorted(each for each in near | spread if 0 <= each <= rows * columns):
            plan = plan_product(*shape, count, transposed=told[0], turned=told[1])
            event = known.below > rows * columns or known.event(lambda count=count: count)
            assert event is (plan.method == "event")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_few_dense_rows_of_weights_in_any_order_are_torchs(rows, dtype):
    dense, weight = spikes_of(rows, 48, 0.7, dtype=dtype), normal(48, 20, dtype=dtype)
    for each in (weight, weight.t().contiguous().t(), weight[:, ::2], weight[:, 3:9], weight[:0]):
        spikes = dense[:, : len(each)]
        torch.testing.assert_close(spike_mm(spikes, each, "dense"), spikes @ each)


def test_weights_turned_in_memory_cost_their_copy():
    straight = plan_product(4, 1024, 1024, 40)
    turned = plan_product(4, 1024, 1024, 40, turned=True)
    assert turned.event_seconds > straight.event_seconds
    assert turned.dense_seconds == straight.dense_seconds


COMPILED = ["aot_eager", "inductor"]
torchs_own = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:.*should not be instantiated"
)


def _train(dense, weight):
    spikes = SpikeTensor.from_dense(dense)
    return (spikes.view(-1, weight.shape[0]) @ weight).relu().sum(0)


def _functional(dense, weight):
    return spike_mm(SpikeTensor.from_dense(dense), weight, "event").relu().sum(0)


@torchs_own
@pytest.mark.parametrize("function", [_train, _functional], ids=lambda f: f.__name__)
@pytest.mark.parametrize("backend", COMPILED)
def test_compiled_graphs_hold_the_same_products(backend, function):
    torch._dynamo.reset()
    dense = spikes_of(16, 24, 0.3, dtype=torch.float64)
    weight = normal(24, 8, dtype=torch.float64)
    results = []
    for call in (torch.compile(function, backend=backend, fullgraph=True), function):
        leaf, inputs = weight.clone().requires_grad_(), dense.clone().requires_grad_()
        result = call(inputs, leaf)
        result.square().sum().backward()
        results.append((result.detach(), leaf.grad, inputs.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@torchs_own
@pytest.mark.parametrize("backend", COMPILED)
def test_spikes_enter_and_leave_compiled_graphs(backend):
    torch._dynamo.reset()

    def call(spikes, weight):
        return spikes.reshape(-1, 24)[8:], spikes.flatten(0, 1) @ weight

    spikes, weight = SpikeTensor.from_dense(spikes_of(16, 24, 0.3)).view(2, 8, 24), normal(24, 8)
    expected = call(spikes, weight)
    got = torch.compile(call, backend=backend, fullgraph=True)(spikes, weight)
    assert isinstance(got[0], SpikeTensor)
    assert torch.equal(got[0].to_dense(), expected[0].to_dense())
    torch.testing.assert_close(got[1], expected[1])
