from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings, strategies as st
from torch import nn

from spike_ops import SpikeTensor
from spike_ops.functional import conv1d, conv2d, conv3d, explain_conv

OURS, TORCHS = (conv1d, conv2d, conv3d), (F.conv1d, F.conv2d, F.conv3d)
METHODS = ["auto", "event", "dense"]


def spikes_of(*shape, density=0.2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).to(dtype)


def normal(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def results(function, spikes, weight, bias, *options):
    leaves = [each.clone().requires_grad_() for each in (spikes, weight, bias)]
    result = function(*leaves, *options)
    (result * normal(*result.shape, seed=2)).sum().backward()
    return [result.detach(), *[leaf.grad for leaf in leaves]]


def assert_same(method, spikes, weight, *options):
    axes, bias = weight.ndim - 3, normal(len(weight))
    expected = results(TORCHS[axes], spikes, weight, bias, *options)
    got = results(partial(OURS[axes], method=method), spikes, weight, bias, *options)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@st.composite
def problems(draw):
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    each, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def along(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    sides, kernel = along(1, 8), along(1, 4)
    options = (along(1, 3), along(0, 2), along(1, 2))
    for n, k, p, d in zip(sides, kernel, *options[1:], strict=True):
        assume(n + 2 * p >= d * (k - 1) + 1)
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    spikes = spikes_of(draw(st.integers(1, 3)), groups * each, *sides, density=density)
    return spikes, normal(groups * outputs, each, *kernel), *options, groups


@settings(max_examples=30)
@given(problems())
def test_events_give_torchs_result_and_gradients(problem):
    assert_same("event", *problem)


@settings(max_examples=20)
@given(problems())
def test_dense_gives_torchs_result_and_gradients(problem):
    assert_same("dense", *problem)


@pytest.mark.parametrize("options", [(), (2, 1), (1, 2, 2), (2, 0, 1, 4), ((2, 1), (0, 3), (1, 2))])
def test_sizes_worth_additions(options):
    groups = options[3] if len(options) == 4 else 1
    weight = normal(16, 8 // groups, 3, 3)
    assert_same("event", spikes_of(5, 8, 17, 14, density=0.1), weight, *options)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 2)])
def test_padding_by_name(padding, kernel):
    assert_same("event", spikes_of(2, 3, 6, 7), normal(4, 3, *kernel), 1, padding)


@pytest.mark.parametrize("samples", [1, 3])
def test_many_samples_go_in_parts(samples, monkeypatch):
    monkeypatch.setattr("spike_ops._conv_event.CHUNK", 1)
    monkeypatch.setattr("spike_ops._conv_grad.CHUNK", 1)
    monkeypatch.setattr("spike_ops._conv_event.KEYS", 50)
    assert_same("event", spikes_of(samples, 3, 6, 5), normal(4, 3, 3, 3), 1, 1)


def test_time_and_batch_are_both_kept():
    spikes, weight = spikes_of(4, 2, 3, 6, 6), normal(5, 3, 3, 3)
    got = conv2d(spikes, weight, padding=1, method="event")
    assert got.shape == (4, 2, 5, 6, 6)
    torch.testing.assert_close(got[1], F.conv2d(spikes[1], weight, padding=1))
    assert conv2d(spikes[0, 0], weight).shape == (5, 4, 4)
    assert conv2d(spikes[:0], weight).shape == (0, 2, 5, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_lower_precisions(dtype):
    spikes, weight = spikes_of(2, 8, 9, 9, dtype=dtype), normal(4, 8, 3, 3, dtype=dtype)
    got = conv2d(spikes, weight, padding=1, method="event")
    assert got.dtype == dtype
    exact = F.conv2d(spikes.double(), weight.double(), padding=1)
    sizes = F.conv2d(spikes.double(), weight.double().abs(), padding=1)
    assert ((got.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * sizes).all()


def test_samples_alone_are_those_of_the_batch_bit_for_bit():
    spikes = spikes_of(9, 16, 12, 12, dtype=torch.float32)
    weight = normal(32, 16, 3, 3, dtype=torch.float32)
    whole = conv2d(spikes, weight, padding=1, method="event")
    assert torch.equal(conv2d(spikes, weight, padding=1, method="event"), whole)
    for part in (slice(0, 1), slice(4, 9)):
        assert torch.equal(conv2d(spikes[part], weight, padding=1, method="event"), whole[part])


def test_weights_that_are_not_finite_stay_where_they_are():
    spikes, weight = torch.zeros(1, 1, 1, 7), torch.ones(1, 1, 1, 2)
    spikes[..., 3] = 1
    weight[..., 0] = float("inf")
    got = conv2d(spikes, weight, stride=(1, 3), method="event")
    assert got.flatten().tolist() == [0.0, float("inf")]


def test_second_derivatives():
    spikes = spikes_of(2, 2, 4, 4)
    for method in ("event", "dense"):

        def loss(weight, method=method):
            return conv2d(spikes, weight, padding=1, method=method).sin()

        weight = normal(2, 2, 3, 3).requires_grad_()
        assert torch.autograd.gradcheck(loss, weight, fast_mode=True)
        assert torch.autograd.gradgradcheck(loss, weight, fast_mode=True)


LAYERS = {
    "conv1d": (nn.Conv1d(6, 4, 3, padding=1), (2, 6, 9)),
    "conv2d": (nn.Conv2d(6, 4, 3, stride=2, groups=2), (2, 6, 9, 9)),
    "conv2d same": (nn.Conv2d(6, 4, 3, padding="same"), (2, 6, 9, 9)),
    "conv2d of one image": (nn.Conv2d(6, 4, 3), (6, 9, 9)),
    "conv2d reflecting": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 9, 9)),
    "conv3d": (nn.Conv3d(6, 4, 3, dilation=2), (2, 6, 5, 6, 7)),
    "conv transposed": (nn.ConvTranspose2d(6, 4, 3), (2, 6, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_own_layers_take_spikes(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    outcomes = []
    for wrap in (SpikeTensor.from_dense, torch.clone):
        leaf = spikes_of(*shape).requires_grad_()
        layer.zero_grad()
        result = layer(wrap(leaf))
        (result * normal(*result.shape)).sum().backward()
        outcomes.append([result.detach(), leaf.grad, layer.weight.grad, layer.bias.grad])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_torchs_own_layer_adds_where_few_fire(monkeypatch):
    calls = []
    monkeypatch.setattr("spike_ops._conv.event_conv", lambda *args: calls.append(args) or 1 / 0)
    layer, spikes = nn.Conv2d(64, 64, 3, padding=1), torch.zeros(1, 64, 32, 32)
    with torch.inference_mode(), pytest.raises(ZeroDivisionError):
        layer(SpikeTensor.from_dense(spikes))
    layer(SpikeTensor.from_dense(1 - spikes))
    assert len(calls) == 1


def test_largest_of_spikes_are_spikes():
    dense = spikes_of(3, 2, 6, 6, density=0.3)
    spikes = SpikeTensor.from_dense(dense)
    for pool in (nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AdaptiveMaxPool2d(2)):
        got = pool(spikes)
        assert isinstance(got, SpikeTensor)
        assert torch.equal(got.to_dense(), pool(dense))
    leaves = [dense.clone().requires_grad_() for _ in range(2)]
    nn.MaxPool2d(2)(SpikeTensor.from_dense(leaves[0])).sum().backward()
    nn.MaxPool2d(2)(leaves[1]).sum().backward()
    assert torch.equal(leaves[0].grad, leaves[1].grad)


def test_the_plan_follows_the_spikes():
    weight = torch.zeros(64, 64, 3, 3)
    few = explain_conv(spikes_of(2, 64, 32, 32, density=0.01), weight, padding=1)
    many = explain_conv(spikes_of(2, 64, 32, 32, density=0.9), weight, padding=1)
    assert (few.method, many.method) == ("event", "dense")
    assert few.density < 0.02 < many.density
    assert few.dense_seconds == many.dense_seconds


def test_wrong_arguments_are_named():
    spikes, weight = torch.zeros(1, 4, 5, 5), torch.zeros(2, 4, 3, 3)
    with pytest.raises(ValueError, match=r"need a weight \[O, C / groups, \.\.\.\]"):
        conv2d(spikes, weight, groups=2)
    with pytest.raises(ValueError, match=r"nothing is left of spikes \(1, 4, 2, 5\)"):
        conv2d(spikes[:, :, :2], weight)
    with pytest.raises(ValueError, match="stride must be 2 numbers of at least 1, got 0"):
        conv2d(spikes, weight, stride=0)
    with pytest.raises(ValueError, match=r"padding must be 2 numbers of at least 0, got \(1,\)"):
        conv2d(spikes, weight, padding=(1,))
    with pytest.raises(ValueError, match='padding must be numbers, "valid", or "same"'):
        conv2d(spikes, weight, stride=2, padding="same")
    with pytest.raises(ValueError, match="weight must have 3 axes and bias its first"):
        conv1d(spikes, weight)
    with pytest.raises(ValueError, match="spikes must have 3 axes or more"):
        conv2d(spikes[0, 0], weight)
    with pytest.raises(ValueError, match="method must be one of"):
        conv2d(spikes, weight, method="fft")
    with pytest.raises(TypeError, match="one dtype"):
        conv2d(spikes, weight.double())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_compiled_graphs_hold_the_same_convolutions():
    torch._dynamo.reset()

    def net(dense, weight):
        spikes = SpikeTensor.from_dense(dense)
        first = F.conv2d(spikes, weight, padding=1)
        return first + conv2d(spikes, weight, padding=1, method="event")

    dense, weight = spikes_of(2, 4, 6, 6), normal(3, 4, 3, 3)
    outcomes = []
    for call in (torch.compile(net, backend="aot_eager", fullgraph=True), net):
        leaves = [dense.clone().requires_grad_(), weight.clone().requires_grad_()]
        result = call(*leaves)
        result.square().sum().backward()
        outcomes.append([result.detach(), *[leaf.grad for leaf in leaves]])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected)


def test_dense_results_and_what_is_saved_outlive_the_next_call():
    spikes, weight = spikes_of(2, 3, 6, 6), normal(4, 3, 3, 3)
    first = conv2d(spikes, weight, method="dense")
    kept = first.clone()
    leaf = weight.clone().requires_grad_()
    result = conv2d(spikes, leaf, method="dense").square().sum()
    (gradient,) = torch.autograd.grad(result, leaf, create_graph=True)
    conv2d(1 - spikes, weight, method="dense")
    assert torch.equal(first, kept)
    (got,) = torch.autograd.grad(gradient.sum(), leaf)
    other = weight.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        F.conv2d(spikes, other).square().sum(), other, create_graph=True
    )
    (expected,) = torch.autograd.grad(gradient.sum(), other)
    torch.testing.assert_close(got, expected)
