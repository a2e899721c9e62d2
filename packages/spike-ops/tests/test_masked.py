import copy

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from spike_ops import SpikeTensor, _calibration, _masked, _native, pack_bits
from spike_ops._c_build import compiler
from spike_ops._cost import plan_masked
from spike_ops._native import compile_kernels
from spike_ops._native_masked import masked_product
from spike_ops.functional import spike_mm
from spike_ops.neuron import IF, LIF, build
from spike_ops.nn import Linear
from spike_ops.surrogate import ATan, PiecewiseQuadratic, Rectangular, Triangle

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")
SURROGATES = [Rectangular(0.5), Triangle(0.3), PiecewiseQuadratic(4.0)]
RESETS = [
    {"reset": "soft"},
    {"reset": "none"},
    {"reset": "hard", "v_reset": -0.25},
    {"reset": "hard", "detach_reset": True},
    {"reset": "soft", "saving": "8bit"},
]


@pytest.fixture(scope="module", autouse=True)
def kernels():
    before = list(_calibration._in_use)
    compile_kernels()
    yield
    _native._libraries.clear()
    _calibration._in_use[:] = before


def normal(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def taken(monkeypatch):
    """Return a list that the ways taken by gradients by spikes are entered into."""
    ways, product = [], _masked.by_spikes

    def entered(gradient, weight, window):
        ways.append(_masked.plan_by_spikes(gradient, weight, window).method)
        return product(gradient, weight, window)

    monkeypatch.setattr(_masked, "by_spikes", entered)
    return ways


@given(
    st.integers(0, 9), st.integers(0, 200), st.integers(0, 70), st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_products_in_places_are_those_of_all_places(rows, columns, width, density, dtype):
    left, table = normal(rows, width, dtype=dtype), normal(columns, width, dtype=dtype, seed=2)
    bits = torch.rand(rows, columns, generator=torch.Generator().manual_seed(rows)) < density
    got = masked_product(pack_bits(bits), left, table)
    room = 1e-6 if dtype == torch.float32 else 1e-14
    bound = room * (1 + left.abs() @ table.abs().t())
    assert ((got - (left @ table.t()) * bits).abs() <= bound).all()
    assert not got[~bits].any()


def test_threads_and_other_rows_change_no_bit(monkeypatch):
    monkeypatch.setattr(_native, "PER_THREAD", 1)
    left, table, bits = normal(50, 600), normal(300, 600, seed=2), normal(50, 300) > 1
    whole = masked_product(pack_bits(bits), left, table)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(masked_product(pack_bits(bits), left, table), whole)
            part = masked_product(pack_bits(bits[7:20]), left[7:20], table)
            assert torch.equal(part, whole[7:20])
    finally:
        torch.set_num_threads(threads)


def gradients(lif, layer, x, *, watched=False):
    """Return the gradients by currents, weight and bias; watched spikes get all of theirs."""
    x = x.clone().requires_grad_()
    spikes = lif(x)
    if watched:
        spikes.register_hook(lambda gradient: None)
    layer.zero_grad()
    layer(spikes).sin().sum().backward()
    return [x.grad, *[each.grad.clone() for each in layer.parameters()]]


@pytest.mark.parametrize("built", [False, True], ids=["eager", "built"])
@pytest.mark.parametrize("options", RESETS, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_gradients_through_a_window_are_the_dense_ones(surrogate, options, built, taken):
    x = normal(10, 24, 90, dtype=torch.float64)
    layer = Linear(90, 70, spike_in=True, dtype=torch.float64)
    lif = LIF(surrogate=surrogate, spike_out=True, **options)
    if built:
        build(lif, x)
    got = gradients(lif, layer, x)
    assert taken == ["event"]
    expected = gradients(lif, layer, x, watched=True)
    assert taken == ["event"]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert got[0].any()
    plain = nn.Linear(90, 70, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    dense = copy.deepcopy(lif)
    dense.spike_out = False
    torch.testing.assert_close(got, gradients(dense, plain, x), rtol=1e-12, atol=1e-13)


def test_a_network_goes_by_windows_in_every_layer(taken):
    options = {"threshold": 0.2, "surrogate": Rectangular(0.2), "spike_out": True}
    net = nn.Sequential(
        nn.Linear(20, 128), LIF(**options), Linear(128, 128, spike_in=True),
        IF(**options), Linear(128, 64, spike_in=True),
    )  # fmt: skip
    net(8 * normal(8, 32, 20)).sum().backward()
    assert taken == ["event", "event"]
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_two_products_of_the_same_spikes_add_up(taken):
    weights = [normal(90, 40, dtype=torch.float64, seed=seed) for seed in (3, 4)]
    results = []
    for watched in (False, True):
        x = normal(10, 24, 90, dtype=torch.float64).requires_grad_()
        spikes = LIF(surrogate=Rectangular(0.5), spike_out=True)(x)
        if watched:
            spikes.retain_grad()
        sum(spike_mm(spikes, weight).sin().sum() for weight in weights).backward()
        results.append(x.grad)
    assert taken == ["event"] * 2
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


WATCHED = {
    "retained": lambda s, y, x: (s.retain_grad(), y.backward(), s.grad)[-1],
    "asked for": lambda s, y, x: torch.autograd.grad(y, s)[0],
    "asked for beside": lambda s, y, x: torch.autograd.grad(y, [x, s])[1],
    "in a graph": lambda s, y, x: torch.autograd.grad(y, s, create_graph=True)[0].detach(),
}


@pytest.mark.parametrize("name", WATCHED)
def test_who_looks_at_the_spikes_gradient_sees_all_of_it(name, taken):
    x, layer = normal(10, 24, 90).requires_grad_(), Linear(90, 70, spike_in=True)
    spikes = LIF(surrogate=Rectangular(0.5), spike_out=True)(x)
    seen = WATCHED[name](spikes, layer(spikes).sum(), x)
    torch.testing.assert_close(seen, layer.weight.detach().sum(0).expand_as(seen))
    assert not taken


def test_a_module_hook_sees_all_of_it(taken):
    layer, seen = Linear(90, 70, spike_in=True), []
    layer.register_full_backward_hook(lambda module, given, out: seen.append(given[0]))
    spikes = LIF(surrogate=Rectangular(0.5), spike_out=True)(normal(10, 24, 90).requires_grad_())
    layer(spikes).sum().backward()
    torch.testing.assert_close(seen[0], layer.weight.detach().sum(0).expand_as(seen[0]))
    assert not taken


def test_other_spikes_have_no_window(taken):
    layer = Linear(90, 70, spike_in=True)
    neurons = LIF(surrogate=Rectangular(0.5), spike_out=True)
    x = normal(10, 24, 90).requires_grad_()
    for spikes in (
        LIF(surrogate=ATan(), spike_out=True)(x),
        neurons(x).view(240, 90),
        neurons(x).detach().requires_grad_(),
        copy.deepcopy(neurons(x).detach()).requires_grad_(),
        SpikeTensor.from_dense((x > 1).float().requires_grad_()),
    ):
        layer(spikes).sum().backward()
    with torch.no_grad():
        assert neurons(x)._window is None
    assert not taken


def test_saved_tensors_may_be_replaced(taken):
    layer, results = Linear(90, 70, spike_in=True), []
    x = normal(10, 24, 90)
    results.append(gradients(LIF(surrogate=Rectangular(0.5), spike_out=True), layer, x))
    with torch.autograd.graph.save_on_cpu():
        results.append(gradients(LIF(surrogate=Rectangular(0.5), spike_out=True), layer, x))
    again = torch.utils.checkpoint.checkpoint
    lif = LIF(surrogate=Rectangular(0.5), spike_out=True)
    x = x.clone().requires_grad_()
    layer.zero_grad()
    again(lambda x: layer(lif(x)), x, use_reentrant=False).sin().sum().backward()
    results.append([x.grad, *[each.grad for each in layer.parameters()]])
    assert taken[0] == "event"
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_wide_windows_and_types_without_kernels_go_dense(taken):
    x = normal(10, 24, 90)
    gradients(LIF(surrogate=Rectangular(50.0), spike_out=True), Linear(90, 70, spike_in=True), x)
    half = Linear(90, 70, spike_in=True, dtype=torch.bfloat16)
    lif = LIF(surrogate=Rectangular(0.5), spike_out=True)
    gradients(lif, half, x.bfloat16())
    assert taken == ["dense", "dense"]


def test_the_plan_follows_from_the_count():
    ways = [
        plan_masked(512, 512, 512, int(share * 512 * 512), torch.float32).method
        for share in (0.0, 0.1, 0.2, 0.6, 0.9, 1.0)
    ]
    assert ways == ["event"] * 3 + ["dense"] * 3
