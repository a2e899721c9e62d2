"""A linear layer and LIF neurons in one call, where no GPU is at hand: that of the two layers."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from spike_ops import SpikeTensor
from spike_ops.functional import linear_lif
from spike_ops.functional._linear_lif import linear_lif_reference
from spike_ops.neuron import ALIF, IF, LIF

BACKENDS = ("reference", "eager", "compiled", "auto")


def layer(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return spikes, weight and bias whose products add up without rounding."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(9, 3, 12, generator=generator) < 0.3).to(dtype)
    weight, bias = (
        (torch.randint(-16, 24, shape, generator=generator).to(dtype) / 16).requires_grad_()
        for shape in ((7, 12), (7,))
    )
    return x, weight, bias


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", [LIF, IF])
def test_it_is_the_specification_in_every_backend(backend: Any, packed: bool, kind: Any) -> None:
    x, weight, bias = layer()
    neurons = kind(reset="soft", backend=backend)
    given = SpikeTensor.from_dense(x) if packed else x
    runs = [run(given, weight, bias, neurons=neurons) for run in (linear_lif, linear_lif_reference)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1][0], runs[1][1][0])
    assert 0 < runs[0][0].mean() < 1
    got, want = (torch.autograd.grad(s.sum() + v.sum(), (weight, bias)) for s, (v,) in runs)
    torch.testing.assert_close(got, want)


def test_it_goes_on_from_a_state() -> None:
    x, weight, bias = layer()
    whole, (end,) = linear_lif(x, weight, bias, neurons=LIF())
    first, state = linear_lif(x[:4], weight, bias, neurons=LIF())
    second, (after,) = linear_lif(x[4:], weight, bias, neurons=LIF(), state=state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(after, end)


def test_spikes_may_come_out_as_bits() -> None:
    x, weight, bias = layer()
    spikes, _ = linear_lif(x, weight, bias, neurons=LIF(spike_out=True))
    assert isinstance(spikes, SpikeTensor)
    assert torch.equal(spikes.to_dense(), linear_lif(x, weight, bias, neurons=LIF())[0])


@pytest.mark.parametrize(
    "change, kind, message",
    [
        ({"neurons": ALIF()}, TypeError, "neurons must be a LIF or an IF, got ALIF"),
        ({"weight": torch.ones(12).double()}, ValueError, r"must be \[out, in\] and \[out\]"),
        ({"bias": torch.ones(6).double()}, ValueError, r"got \(7, 12\) and \(6,\)"),
        ({"inputs": torch.ones(9, 3, 11).double()}, ValueError, r"got \(9, 3, 11\) and \(7, 12\)"),
        ({"inputs": torch.ones(12).double()}, ValueError, r"inputs \[T, ..., in\] need a weight"),
        ({"bias": torch.ones(7)}, TypeError, "must have one dtype, got .*float32"),
        ({"neurons": LIF(steps=8)}, ValueError, "must be 8 steps, got 9"),
        ({"neurons": LIF(backend="triton")}, ValueError, "needs currents on a CUDA device"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict[str, Any], kind: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    given: dict[str, Any] = dict(zip(("inputs", "weight", "bias"), layer(), strict=True))
    with pytest.raises(kind, match=message):
        linear_lif(**(given | {"neurons": LIF()} | change))


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "spike_ops._triton._linear_lif", None)
    x, weight, bias = layer()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'spike-ops\[triton\]'"):
        linear_lif(x, weight, bias, neurons=LIF(backend="triton"))
