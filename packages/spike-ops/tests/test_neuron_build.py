"""Neurons built in C: what their kernels are given, and when they still hold."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spike_ops import SpikeTensor
from spike_ops._c_build import check
from spike_ops.neuron import ALIF, GLIF, KLIF, LIF, PLIF, Neuron, build


def currents(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5


LEARNED: dict[str, Callable[..., Neuron]] = {
    "klif": lambda **o: KLIF(slope=1.3, **o),
    "plif": lambda **o: PLIF(3.0, shape=(5,), **o),
    "glif": lambda **o: GLIF(alpha=0.7, leak=0.05, **o),
}


@pytest.mark.parametrize("row", LEARNED)
def test_single_parameters_serve_double_currents(row: str) -> None:
    x, g, found = currents(7, 3, 5), currents(7, 3, 5, seed=1), []
    for backend in ("reference", "compiled"):
        neuron = LEARNED[row](backend=backend)
        given = x.clone().requires_grad_()
        out, after = neuron.run(given)
        inputs = [given, *neuron.parameters()]
        by = torch.autograd.grad((out * g).sum() + (after[0] * g[0]).sum(), inputs)
        assert [each.dtype for each in by] == [each.dtype for each in inputs]
        found.append([out.detach(), *after, *by])
    assert torch.equal(found[0][0], found[1][0])
    assert 0 < found[0][0].mean() < 1
    for one, other in zip(*found, strict=True):
        bound = 1e-9 if one.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


@pytest.mark.parametrize("make", [LIF, ALIF, lambda **o: LIF(reset="soft", saving="8bit", **o)])
@pytest.mark.parametrize("backend", ["reference", "eager", "compiled"])
def test_gradients_may_come_as_spikes(make: Callable[..., Neuron], backend: Any) -> None:
    if backend == "eager" and make is ALIF:
        backend = "auto"
    x = currents(4, 2, 5).requires_grad_()
    dense = torch.ones(4, 2, 5, dtype=torch.float64)
    out = make(backend=backend)(x)
    (packed,) = torch.autograd.grad(out, x, SpikeTensor.from_dense(dense), retain_graph=True)
    (plain,) = torch.autograd.grad(out, x, dense)
    assert torch.equal(packed, plain)
    assert plain.abs().sum() > 0


@pytest.mark.parametrize("make", [LIF, ALIF, PLIF])
def test_a_second_derivative_of_a_built_neuron_is_refused(make: Callable[..., Neuron]) -> None:
    x = currents(4, 2, 5).requires_grad_()
    neuron = make(backend="compiled").double()
    (first,) = torch.autograd.grad(neuron(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="has no derivative"):
        (first.sum() + x.sum()).backward()


def test_a_second_derivative_is_refused_among_other_terms_too() -> None:
    x = currents(4, 2, 5).requires_grad_()
    for neuron, loss in ((ALIF(), torch.sum), (LIF(), lambda out: (out * x).sum())):
        build(neuron, x)
        (first,) = torch.autograd.grad(loss(neuron(x)), x, create_graph=True)
        with pytest.raises(RuntimeError, match="has no derivative"):
            torch.autograd.grad(first.sum() + x.sum(), x)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2, dtype=torch.float64),
        torch.zeros(2, 4)[:, ::2],
        torch.zeros(2, 2, device="meta"),
        SpikeTensor.from_dense(torch.zeros(2, 2)),
    ],
    ids=["type", "order", "device", "spikes"],
)
def test_kernels_are_called_on_plain_memory_alone(tensor: Tensor) -> None:
    check([torch.zeros(2, 2)], [torch.float32])
    with pytest.raises(TypeError, match="plain tensors in order"):
        check([tensor], [torch.float32])
