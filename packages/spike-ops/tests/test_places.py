"""Where tensors lie and what hangs on them: default devices, negative bits, transforms."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops import SpikeTensor, _calibration, _native
from spike_ops._c_build import compiler
from spike_ops.functional import conv2d, linear, spike_mm
from spike_ops.neuron import ALIF, LIF, PLIF, Neuron, build

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


@pytest.fixture(params=[False, True], ids=["plain", "kernels"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    before = list(_calibration._in_use)
    if request.param:
        _native.compile_kernels()
    yield
    _native._libraries.clear()
    _calibration._in_use[:] = before


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spikes_of(*shape: int, density: float) -> SpikeTensor:
    chance = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    return SpikeTensor.from_dense((chance < density).float())


@pytest.mark.parametrize("method", ["event", "dense"])
@pytest.mark.parametrize("rows", [1, 2, 7, 600])
@pytest.mark.parametrize("density", [0.02, 0.6])
@pytest.mark.usefixtures("kernels")
def test_products_know_the_sign_of_weights_that_are_views(
    method: Any, rows: int, density: float
) -> None:
    spikes, weight = spikes_of(rows, 64, density=density), normal(64, 48)
    negative = torch._neg_view(weight)
    got = spike_mm(spikes, negative, method)
    torch.testing.assert_close(got, -spike_mm(spikes, weight, method))
    assert got.abs().sum() > 0
    turned = linear(spikes, torch._neg_view(weight.t().contiguous()), None, method)
    torch.testing.assert_close(turned, got)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.usefixtures("kernels")
def test_convolutions_know_the_sign_of_weights_that_are_views(side: int) -> None:
    spikes, weight = spikes_of(2, 3, 8, 8, density=0.1), normal(4, 3, side, side)
    torch.testing.assert_close(conv2d(spikes, torch._neg_view(weight)), -conv2d(spikes, weight))


NEURONS: dict[str, Callable[..., Neuron]] = {
    "lif": LIF,
    "bits": lambda **o: LIF(reset="soft", spike_out=True, **o),
    "alif": ALIF,
    "plif": PLIF,
}


@pytest.mark.parametrize("row", NEURONS)
def test_built_neurons_know_the_sign_of_currents_that_are_views(row: str) -> None:
    x, g = 2 * normal(6, 2, 5), normal(6, 2, 5, seed=1)
    found = []
    for current, gradient in ((x, g), (torch._neg_view(-x), torch._neg_view(-g))):
        given = current.detach().requires_grad_()
        out = NEURONS[row](backend="compiled")(given)
        (by,) = torch.autograd.grad(out, given, gradient)
        found.append((out.to_dense() if isinstance(out, SpikeTensor) else out, by))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("row", NEURONS)
def test_built_neurons_run_where_their_currents_are(row: str) -> None:
    x = 2 * normal(6, 2, 5).double()
    expected, neuron = NEURONS[row]()(x), NEURONS[row]()
    build(neuron, x)
    threshold = 0.875 + len(row) / 64  # settings of its own: built under the device too
    later = NEURONS[row](threshold=threshold)
    with torch.device("meta"):
        given = x.clone().requires_grad_()
        got = neuron(given)
        (by,) = torch.autograd.grad(got, given, torch.ones_like(x))
        build(later, x)
        after = later(x)
    assert torch.equal(*(torch.as_tensor(each).to_dense() for each in (got, expected)))
    assert by.is_cpu
    assert torch.equal(after.to_dense(), NEURONS[row](threshold=threshold)(x).to_dense())


@pytest.mark.parametrize("method", ["event", "dense"])
@pytest.mark.parametrize("density", [0.02, 0.6])
@pytest.mark.usefixtures("kernels")
def test_products_run_where_their_spikes_are(method: Any, density: float) -> None:
    spikes, weight = spikes_of(9, 64, density=density), normal(64, 48)
    expected = spike_mm(spikes, weight, method)
    fresh = SpikeTensor(spikes.packed, spikes.shape, spikes.dtype)
    with torch.device("meta"):
        got = spike_mm(fresh, weight, method)
    assert torch.equal(got, expected)


@pytest.mark.usefixtures("kernels")
def test_biases_may_be_mapped_over() -> None:
    spikes, weight, biases = spikes_of(4, 16, density=0.3), normal(5, 16), normal(3, 5)
    got = torch.vmap(lambda bias: linear(spikes, weight, bias))(biases)
    torch.testing.assert_close(got, linear(spikes, weight)[None] + biases[:, None])


@pytest.mark.filterwarnings("error")
def test_one_row_of_weights_that_are_not_finite_warns_of_nothing() -> None:
    weight = nn.Parameter(torch.full((64, 8), torch.inf)).detach()
    assert spike_mm(spikes_of(1, 64, density=0.6), weight, "dense").isnan().all()
