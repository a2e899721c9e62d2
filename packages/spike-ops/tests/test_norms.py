"""Norms for spiking nets against the formulas of their papers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops import SpikeTensor
from spike_ops.neuron import LIF
from spike_ops.nn._norms import (
    FeatureNorm,
    MembraneBatchNormLIF,
    TemporalEffectiveBatchNorm,
    ThresholdBatchNorm,
    TimeBatchNorm,
)


def data(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 0.5


def learned(norm: Any) -> Any:
    norm = norm.double()
    generator = torch.Generator().manual_seed(1)
    for parameter in norm.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator).double() + 0.5
    return norm


def standardized(x: Tensor) -> Tensor:
    dims = [0, 1, *range(3, x.ndim)]
    return (x - x.mean(dims, keepdim=True)) / (
        x.var(dims, correction=0, keepdim=True) + 1e-5
    ).sqrt()


def channels(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *[1] * (x.ndim - 3))


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 5, 2), (4, 3, 5, 2, 2)])
def test_batch_norm_over_time_is_its_formula_and_that_of_torch(shape: tuple[int, ...]) -> None:
    x, norm = data(*shape), learned(TimeBatchNorm(5))
    expected = channels(norm.weight, x) * standardized(x) + channels(norm.bias, x)
    torch.testing.assert_close(norm(x), expected)
    kind = {3: nn.BatchNorm1d, 4: nn.BatchNorm1d, 5: nn.BatchNorm2d}[x.ndim]
    theirs = kind(5).double()
    theirs(x.flatten(0, 1))
    torch.testing.assert_close(norm.running_mean, theirs.running_mean)
    torch.testing.assert_close(norm.running_var, theirs.running_var)
    theirs.load_state_dict(norm.state_dict(), strict=False)
    assert torch.equal(norm.eval()(x), theirs.eval()(x.flatten(0, 1)).unflatten(0, shape[:2]))


def test_threshold_dependent_norm_is_its_formula() -> None:
    x = data(4, 3, 5, 2, 2)
    norm = learned(ThresholdBatchNorm(5, threshold=0.5, alpha=2**-0.5))
    scaled = 0.5 * 2**-0.5 * standardized(x)
    expected = channels(norm.weight, x) * scaled + channels(norm.bias, x)
    torch.testing.assert_close(norm(x), expected)


def test_temporal_effective_norm_is_its_formula() -> None:
    x, norm = data(4, 3, 5, 2), learned(TemporalEffectiveBatchNorm(5, steps=4))
    inner = channels(norm.weight, x) * standardized(x) + channels(norm.bias, x)
    for t in range(4):
        torch.testing.assert_close(norm(x)[t], norm.by_step[t] * inner[t])
    with pytest.raises(ValueError, match="T = 4"):
        norm(data(3, 3, 5))


def test_feature_norm_is_its_formula() -> None:
    x, norm = data(4, 3, 5, 2, 2), learned(FeatureNorm(5))
    centred = x - x.mean(2, keepdim=True)
    scaled = centred / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = channels(norm.weight, x) * scaled + channels(norm.bias, x)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("make", [TimeBatchNorm, FeatureNorm])
def test_spikes_may_be_bits(make: Callable[..., nn.Module]) -> None:
    dense = (data(4, 3, 5) > 0).float()
    assert torch.equal(make(5)(SpikeTensor.from_dense(dense)), make(5)(dense))


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_normalised_membrane_fires_by_its_formula_in_training(reset: Any) -> None:
    x, neuron = data(6, 8, 3), learned(MembraneBatchNormLIF(3, 2.0, reset=reset))
    v, spikes = torch.zeros(8, 3, dtype=torch.float64), neuron(x)
    for t in range(6):
        h = 0.5 * v + 0.5 * x[t]
        scaled = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()
        s = (neuron.norm.weight * scaled + neuron.norm.bias >= 1).double()
        assert torch.equal(spikes[t], s)
        v = h * (1 - s) if reset == "hard" else h - s
    assert 0 < spikes.mean() < 1


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("shape", [(9, 8, 3), (9, 4, 3, 2, 2)])
def test_folded_into_thresholds_it_fires_as_the_norm_would(
    sign: float, shape: tuple[int, ...]
) -> None:
    neuron = learned(MembraneBatchNormLIF(3, 2.0, reset="soft"))
    neuron(data(*shape))
    neuron.norm.weight.data *= sign
    x = data(*shape)
    neuron.eval()
    spikes, v = neuron(x), torch.zeros(shape[1:], dtype=torch.float64)
    for t in range(shape[0]):
        h = 0.5 * v + 0.5 * x[t]
        s = (neuron.norm(h.flatten(2) if h.ndim > 2 else h).reshape(h.shape) >= 1).double()
        assert torch.equal(spikes[t], s)
        v = h - s
    assert 0 < spikes.mean() < 1


def test_a_feature_without_a_slope_fires_always_or_never() -> None:
    neuron = MembraneBatchNormLIF(2).eval()
    neuron.norm.weight.data.zero_()
    neuron.norm.bias.data = torch.tensor([2.0, 0.0])
    assert neuron(torch.randn(5, 4, 2)).mean((0, 1)).tolist() == [1.0, 0.0]


def test_an_untrained_norm_of_the_membrane_is_a_plain_neuron() -> None:
    neuron = MembraneBatchNormLIF(3, 2.0, eps=0.0).double().eval()
    assert torch.equal(neuron(data(7, 4, 3)), LIF(2.0)(data(7, 4, 3)))


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: TimeBatchNorm(0), "features must be at least 1"),
        (lambda: TimeBatchNorm(3)(torch.zeros(2, 2, 4)), "T, B, 3"),
        (lambda: ThresholdBatchNorm(3, threshold=0.0), "must be positive"),
        (lambda: TemporalEffectiveBatchNorm(3, steps=0), "steps must be at least 1"),
        (lambda: FeatureNorm(3)(torch.zeros(2, 3)), "T, B, 3"),
        (lambda: MembraneBatchNormLIF(3, tau=0.5), "tau must be at least 1"),
        (lambda: MembraneBatchNormLIF(3)(torch.zeros(2, 2, 4)), "T, B, 3"),
    ],
)
def test_wrong_settings_are_refused(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()
