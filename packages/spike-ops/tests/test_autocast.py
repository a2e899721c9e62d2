import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spike_ops.nn
from spike_ops import Calibration, SpikeTensor, use_calibration
from spike_ops._synapses import Synapses, SynapseSums
from spike_ops.functional import conv2d, explain, linear as spike_linear, spike_attention, spike_mm
from spike_ops.neuron import LIF

METHODS = ["auto", "event", "dense"]
HALVES = [torch.bfloat16, torch.float16]


def spikes_of(*shape, density=0.3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).to(dtype)


def normal(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def products(method):
    """Return what computes with spikes, what torch computes instead, and the weight's shape."""
    batched = spikes_of(3, 9, 40)
    images = spikes_of(2, 3, 8, 8)
    rows = spikes_of(9, 40)
    bias = normal(20, seed=3)
    return {
        "mm": (lambda w: spike_mm(rows, w, method), lambda w: rows @ w, (40, 20)),
        "linear": (
            lambda w: spike_linear(rows, w, bias, method), lambda w: F.linear(rows, w, bias),
            (20, 40),
        ),
        "batched": (lambda w: spike_mm(batched, w, method), lambda w: batched @ w, (3, 40, 20)),
        "conv": (
            lambda w: conv2d(images, w, bias, padding=1, method=method),
            lambda w: F.conv2d(images, w, bias, padding=1), (20, 3, 3, 3),
        ),
        "given to torch": (
            lambda w: SpikeTensor.from_dense(rows) @ w, lambda w: rows @ w, (40, 20)
        ),
    }  # fmt: skip


NAMES = list(products("auto"))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_products_have_autocasts_type_whichever_way_they_take(name, method, dtype):
    ours, torchs, shape = products(method)[name]
    weight = normal(*shape)
    exact = torchs(weight).double()
    grads = []
    for product in (ours, torchs):
        leaf = weight.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            result = product(leaf)
            assert result.dtype == dtype
            without = product(weight)
        assert torch.equal(result, without)
        torch.testing.assert_close(result.double(), exact, rtol=2e-2, atol=5e-2)
        result.sum().backward()
        assert leaf.grad.dtype == torch.float32
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_double_stays_double(method):
    rows, weight = spikes_of(9, 40, dtype=torch.float64), normal(40, 20, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = spike_mm(rows, weight.requires_grad_(), method)
        got.sum().backward()
    torch.testing.assert_close(got, rows @ weight)
    torch.testing.assert_close(weight.grad, rows.sum(0)[:, None].expand(40, 20))


@pytest.mark.parametrize("method", METHODS)
def test_attention_counts_exactly(method):
    q, k, v = (spikes_of(2, 150, 64, density=0.8, seed=i).requires_grad_() for i in range(3))
    exact = (q.detach().double() @ k.detach().double().mT @ v.detach().double()).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = spike_attention(q, k, v, method=method)
        got.sum().backward()
    assert torch.equal(got, exact)
    assert torch.equal(q.grad, (v @ torch.ones(64, 1)).mT.expand(2, 150, 150) @ k)


@pytest.mark.parametrize("inside", [True, False])
def test_backward_passes_do_not_take_autocasts_type_on_their_own(inside):
    spikes, weight = spikes_of(9, 40).requires_grad_(), normal(40, 20)
    result = spike_mm(SpikeTensor.from_dense(spikes), weight, "dense")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
        result.backward(gradient := normal(9, 20, seed=4))
    torch.testing.assert_close(spikes.grad, gradient @ weight.t())


@pytest.mark.parametrize("free", [True, False], ids=["synapses", "rows"])
def test_layers_learn_under_autocast(free):
    torch.manual_seed(0)
    calibration = Calibration(synapse=0.0, event_call=0.0) if free else Calibration(synapse=1e9)
    net = nn.Sequential(
        nn.Linear(30, 24), LIF(threshold=0.2, spike_out=True),
        spike_ops.nn.Linear(24, 24, spike_in=True), LIF(threshold=0.1),
        spike_ops.nn.SparseSynapse(24, 10, connection="random", probability=0.2),
    )  # fmt: skip
    x, outcomes = normal(5, 8, 30), []
    for enabled in (False, True):
        net.zero_grad()
        with (
            use_calibration(calibration),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled),
        ):
            result = net(x)
        assert result.dtype == (torch.bfloat16 if enabled else torch.float32)
        result.float().square().sum().backward()
        outcomes.append([each.grad for each in net.parameters()])
    for plain, cast in zip(*outcomes, strict=True):
        assert cast.dtype == torch.float32
        assert F.cosine_similarity(plain.flatten(), cast.flatten(), 0) > 0.9


def test_plans_are_those_of_the_type_that_is_computed_in():
    rows, weight = spikes_of(64, 512, density=0.01), normal(512, 512)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = explain(rows, weight)
    assert inside == explain(rows.bfloat16(), weight.bfloat16())
    assert inside != explain(rows, weight)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_products_have_autocasts_type():
    rows, weight = spikes_of(9, 40), normal(40, 20).requires_grad_()

    def run(weight):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return spike_mm(rows, weight, "event")

    torch.compiler.reset()
    compiled = torch.compile(run, backend="aot_eager")(weight)
    assert compiled.dtype == torch.bfloat16
    torch.testing.assert_close(compiled, run(weight))
    compiled.sum().backward()
    torch.testing.assert_close(weight.grad, rows.sum(0)[:, None].expand(40, 20))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_many_synapses_add_up_in_half_precision(dtype):
    synapses = Synapses.of(torch.ones(1, 2000))
    spikes = SpikeTensor.from_dense(torch.ones(512, 2000, dtype=dtype))
    weight = torch.ones(1, 2000, dtype=dtype, requires_grad=True)
    got = SynapseSums.apply(spikes, weight, synapses)
    got.sum().backward()
    assert torch.equal(got.float(), torch.full((512, 1), 2000.0))
    assert torch.equal(weight.grad.float(), torch.full((1, 2000), 512.0))
