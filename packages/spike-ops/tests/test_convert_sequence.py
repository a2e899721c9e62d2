"""Converted networks as sequences over time, for graphs and chips."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops.chips import check, quantize
from spike_ops.convert import QCFS, ConversionError, convert
from spike_ops.neuron import IF
from spike_ops.nir import to_nir


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 4, 3, groups=1), nn.Linear(4 * 36, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.flatten(self.relu(self.conv(x)), 1))


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x) + x)


def pictures() -> Tensor:
    return torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(),
        nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10, bias=False),
        nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


def trained(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in net.parameters():
        if parameter.ndim:
            nn.init.uniform_(parameter, -0.3, 0.5)
    return net.eval()


@pytest.mark.parametrize(
    "activation, channelwise",
    [(nn.ReLU(), False), (nn.ReLU(), True), (QCFS(4, threshold=0.5), False)],
)
@pytest.mark.parametrize("calibration", ["none", "current", "potential"])
def test_neurons_behind_a_constant_current_fire_as_often(
    activation: nn.Module, channelwise: bool, calibration: Any
) -> None:
    net, x = trained(nn.Sequential(nn.Conv2d(1, 4, 3), activation)), pictures()
    made = convert(net, x, channelwise=channelwise, calibration=calibration, steps=8)
    net_over_time = made.to_sequential().double()
    counts = net_over_time(x.double().expand(8, *x.shape)).sum(0)
    apart = (counts - made.counts(x)["1"]).abs()
    assert apart.max() <= 1  # where a current just reaches a threshold, rounding decides
    assert apart.mean() < 1e-3
    assert counts.any()


@pytest.mark.parametrize("net", [deep(), Flat()])
@pytest.mark.parametrize("channelwise", [False, True])
def test_the_mean_over_time_comes_to_the_output_of_the_network(
    net: nn.Module, channelwise: bool
) -> None:
    net, x = trained(net), pictures()
    made = convert(net, x, method="max", channelwise=channelwise)
    expected = made.ann(x)
    scale = expected.abs().max()
    for steps in (64, 512):
        out = made.to_sequential(steps)(x.expand(steps, *x.shape)).mean(0)
        assert (out - expected).abs().max() < 8 * scale / steps


def test_graphs_and_chips_take_the_sequence_and_ask_for_it() -> None:
    net = trained(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU()))
    x = pictures()[:, 0, 0]
    made = convert(net, x)
    whole = made.to_sequential()
    assert [type(each) for each in whole] == [nn.Linear, IF, nn.Linear, IF]
    assert check(whole, "speck", 8).fits
    assert quantize(whole, 8, chip="loihi2")(torch.ones(4, 2, 8)).shape == (4, 2, 4)
    for refused in (
        lambda: check(made, "speck", 8), lambda: quantize(made, 8), lambda: to_nir(made, dt=1e-3)
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"got ConvertedNet: take its to_sequential\(\)"):
            refused()
    nir = pytest.importorskip("nir")
    assert isinstance(to_nir(whole, dt=1e-3), nir.NIRGraph)
    with pytest.raises(ValueError, match="Spiking: ConvertedNet.to_sequential"):
        to_nir(made.net, dt=1e-3)


@pytest.mark.parametrize(
    "net, options, rule",
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), {"neurons": "signed"}, "kind 'if'"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), {"neurons": "phased"}, "got 'phased'"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)), {}, "2: .*got WinnerPool"),
        (nn.Sequential(nn.AvgPool2d(2), nn.ReLU()), {}, "1: neurons .* right behind weights"),
        (nn.Sequential(nn.ReLU(), nn.Linear(8, 2)), {}, "0: neurons .* right behind weights"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(2)), {}, "got Flatten"),
        (Skipping(), {}, "without branches"),
    ],
)
def test_what_is_no_sequence_is_refused_by_name(net: nn.Module, options: Any, rule: str) -> None:
    made = convert(net, pictures(), **options)
    with pytest.raises(ConversionError, match=rule):
        made.to_sequential()


def test_a_sequence_shares_no_weights_with_the_network() -> None:
    x = pictures()[:, 0, 0]
    made = convert(trained(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))), x)
    before = made(x)
    with torch.no_grad():
        for parameter in made.to_sequential().parameters():
            parameter.zero_()
    assert torch.equal(made(x), before)


def test_a_sequence_takes_its_number_of_steps() -> None:
    made = convert(trained(nn.Sequential(nn.Linear(8, 2), nn.ReLU())), torch.rand(4, 8), steps=4)
    bias = made.to_sequential()[0].bias
    assert torch.equal(made.to_sequential(4)[0].bias, bias)
    torch.testing.assert_close(bias - made.to_sequential(8)[0].bias, torch.full((2,), 0.0625))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        made.to_sequential(0)
