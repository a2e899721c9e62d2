"""What fused LIF layers keep for the backward pass: how much, and that it is enough."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops.neuron import LIF
from spike_ops.neuron._lif_fused import kept_for
from spike_ops.neuron._lif_kernel import kernel_backward, kernel_forward
from spike_ops.neuron._lif_loops import eager_backward, eager_forward
from spike_ops.surrogate import ATan, Rectangular, Sigmoid

RUNS = {"eager": (eager_forward, eager_backward), "compiled": (kernel_forward, kernel_backward)}


def dyadic(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 192, shape, generator=generator).float() / 64


def saved_bytes(net: nn.Module, x: Tensor) -> int:
    """Bytes of all storages that autograd holds on to, parameters and the input left out."""
    left_out = {p.untyped_storage().data_ptr() for p in (*net.parameters(), x)}
    held: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        bits = getattr(saved, "packed", saved)
        storage = bits.untyped_storage()
        if storage.data_ptr() not in left_out:
            held[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        result = net(x)  # keeps the storages alive, so that no address comes twice
    total = sum(held.values())
    del result
    return total


def network(**options: Any) -> nn.Sequential:
    layers = []
    for _ in range(4):
        layers += [nn.Linear(256, 256), LIF(2.0, reset="soft", surrogate=Rectangular(), **options)]
    return nn.Sequential(*layers)


def test_two_bits_of_a_neuron_and_step_are_at_least_24_times_less_than_membrane_and_spikes() -> (
    None
):
    x = torch.randn(16, 32, 256)
    full = 4 * 16 * 32 * 256 * 8  # a float of membrane and a float of spikes for each
    for backend in ("eager", "compiled"):
        kept = saved_bytes(network(backend=backend, spike_out=True), x)
        assert full / 33 <= kept <= full / 24
    # the counting sees what is kept where nothing is packed: a membrane and spikes
    dense = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(256, 256), LIF(2.0))))
    assert saved_bytes(dense, x) >= full * 7 / 8


@pytest.mark.parametrize("backend", RUNS)
@pytest.mark.parametrize("reset", ["soft", "none"])
@pytest.mark.parametrize("detach", [False, True])
def test_the_two_bit_backward_is_that_of_full_storage_bit_for_bit(
    backend: str, reset: Any, detach: bool
) -> None:
    rule = LIF(3.3, reset=reset, detach_reset=detach, surrogate=Rectangular(0.7)).rule
    assert kept_for(rule, "exact") == "bits"
    forward, backward = RUNS[backend]
    x, g, v = torch.randn(9, 500), torch.randn(9, 500), torch.zeros(500)
    found = []
    for kept in ("bits", "membrane"):
        run = forward(rule, x, v, kept=kept, dense=True)
        found.append(backward(rule, g, g[0], run.fired, run.saved, kept))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][0].abs().sum() > 0


def test_weight_gradients_through_four_layers_are_those_of_the_reference() -> None:
    x = dyadic(8, 4, 256)
    found = []
    for options in ({"backend": "reference"}, {"backend": "compiled", "spike_out": True}):
        torch.manual_seed(0)
        net = network(**options).double()
        for parameter in net.parameters():
            parameter.data = (parameter.data * 4096).round() / 512  # sums are exact
        net(x.double()).to_dense().square().sum().backward() if "spike_out" in options else (
            net(x.double()).square().sum().backward()
        )
        found.append([p.grad for p in net.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert all(one is not None and one.abs().sum() > 0 for one in found[0])


@pytest.mark.parametrize("surrogate", [ATan(), Sigmoid()])
@pytest.mark.parametrize("backend", RUNS)
def test_a_derivative_in_a_byte_is_off_by_half_a_level_at_most(
    surrogate: Any, backend: Any
) -> None:
    x = torch.randn(1, 400, dtype=torch.float64)
    g = torch.randn(1, 400, dtype=torch.float64)
    found = []
    for saving in ("exact", "8bit"):
        neuron = LIF(2.0, reset="soft", surrogate=surrogate, saving=saving, backend=backend)
        given = x.clone().requires_grad_()
        (neuron(given) * g).sum().backward()
        found.append(given.grad)
    assert found[0] is not None
    assert found[1] is not None
    # one step: gx = gain g σ', and a level is peak / 255
    bound = 0.5 * g.abs() * surrogate.peak / 255 / 2 * (1 + 1e-9)
    assert ((found[1] - found[0]).abs() <= bound).all()
    assert not torch.equal(found[0], found[1])


def test_a_hard_reset_with_a_gradient_keeps_the_membrane() -> None:
    assert kept_for(LIF(2.0, surrogate=Rectangular()).rule, "8bit") == "membrane"
    assert kept_for(LIF(2.0, surrogate=Rectangular(), detach_reset=True).rule, "exact") == "bits"
    assert kept_for(LIF(2.0, reset="soft").rule, "8bit") == "bytes"
