import pytest
import torch
import torch.nn.functional as F

from spike_ops import SpikeTensor
from spike_ops._synapses import Synapses, SynapseSums
from spike_ops.functional import conv1d, conv2d, conv3d, linear as spike_linear, spike_mm

METHODS = ["auto", "event", "dense"]


def spikes_of(*shape, density=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).double()


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = spikes_of(7, 9, seed=5)
SYNAPSES = Synapses.of(MASK)
OPTIONS = {"stride": 2, "padding": 1, "groups": 2}
PRODUCTS = {
    "mm": (
        lambda s, w, b, method: spike_mm(s, w, method) + b, lambda s, w, b: s @ w + b,
        (5, 9), (9, 7), (7,),
    ),
    "linear": (spike_linear, F.linear, (4, 3, 9), (7, 9), (7,)),
    "batched": (
        lambda s, w, b, method: spike_mm(s, w, method) + b, lambda s, w, b: s @ w + b,
        (2, 5, 9), (2, 9, 7), (7,),
    ),
    "conv1d": (
        lambda s, w, b, method: conv1d(s, w, b, **OPTIONS, method=method),
        lambda s, w, b: F.conv1d(s, w, b, **OPTIONS), (2, 4, 9), (6, 2, 3), (6,),
    ),
    "conv2d": (
        lambda s, w, b, method: conv2d(s, w, b, **OPTIONS, method=method),
        lambda s, w, b: F.conv2d(s, w, b, **OPTIONS), (2, 4, 6, 5), (6, 2, 3, 2), (6,),
    ),
    "conv3d": (
        lambda s, w, b, method: conv3d(s, w, b, **OPTIONS, method=method),
        lambda s, w, b: F.conv3d(s, w, b, **OPTIONS), (1, 4, 4, 3, 5), (6, 2, 3, 2, 3), (6,),
    ),
    "convolution by torch": (
        lambda s, w, b, method: F.conv2d(s, w, b, padding=1),
        lambda s, w, b: F.conv2d(s, w, b, padding=1),
        (2, 4, 6, 5), (6, 4, 3, 3), (6,),
    ),
    "synapses": (
        lambda s, w, b, method: SynapseSums.apply(s, w, SYNAPSES) + b,
        lambda s, w, b: s @ (w * MASK).t() + b, (5, 9), (7, 9), (7,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_derivatives_of_gradients_are_those_of_dense_products(name, method):
    ours, torchs, *shapes = PRODUCTS[name]
    outcomes = []
    for way in ("ours", "torch"):
        leaves = [spikes_of(*shapes[0]), normal(*shapes[1]), normal(*shapes[2], seed=2)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        spikes, weight, bias = leaves
        if way == "ours":
            result = ours(SpikeTensor.from_dense(spikes), weight, bias, method)
        else:
            result = torchs(spikes, weight, bias)
        first = torch.autograd.grad(result.sin().sum(), leaves, create_graph=True)
        total = sum((grad**2).sum() for grad in first)
        outcomes.append([*first, *torch.autograd.grad(total, leaves)])
    for got, expected in zip(*outcomes, strict=True):
        assert expected.any()
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_only_the_gradients_that_are_asked_for_are_computed(wanted):
    leaves = [spikes_of(2, 4, 6, 5), normal(6, 4, 3, 3), normal(6, seed=2)]
    for place in wanted:
        leaves[place].requires_grad_()
    result = conv2d(SpikeTensor.from_dense(leaves[0]), *leaves[1:], method="event")
    asked = [leaves[place] for place in wanted]
    given = torch.autograd.grad(result.square().sum(), asked, create_graph=True)
    expected = torch.autograd.grad(F.conv2d(*leaves).square().sum(), asked, create_graph=True)
    torch.testing.assert_close(given, expected)
