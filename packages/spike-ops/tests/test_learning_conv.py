"""Rules of kernels: the window of a convolution, place by place."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops import SpikeTensor
from spike_ops.learning import (
    BCM,
    ConvGeometry,
    Oja,
    PairSTDP,
    RewardSTDP,
    SynapticRule,
    SynapticScaling,
    TripletSTDP,
    geometry_of,
)

LAYERS: dict[str, tuple[type[Any], dict[str, Any], tuple[int, ...]]] = {
    "1d": (nn.Conv1d, {"kernel_size": 3, "padding": 1}, (7,)),
    "1d, stride": (nn.Conv1d, {"kernel_size": 4, "stride": 3}, (11,)),
    "2d": (nn.Conv2d, {"kernel_size": 3}, (6, 5)),
    "2d, odd": (nn.Conv2d, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}, (7, 5)),
    "2d, groups": (nn.Conv2d, {"kernel_size": 2, "groups": 2, "dilation": 2}, (6, 7)),
    "3d": (nn.Conv3d, {"kernel_size": 2, "stride": 2}, (4, 4, 5)),
}
RULES: list[SynapticRule] = [
    PairSTDP(3.0, 4.0, 1.0, 0.6),
    PairSTDP(3.0, 4.0, pairing="nearest"),
    TripletSTDP(2.0, 3.0, 6.0, 8.0, 0.5, 0.7, 0.6, 0.3),
]


def made(name: str) -> tuple[Any, Tensor, Tensor]:
    kind, options, places = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(4, 6, bias=False, **options).double()
    pre = (torch.rand(5, 2, 4, *places) < 0.4).double()
    shape = layer(pre[0]).shape
    return layer, pre, (torch.rand(5, *shape) < 0.4).double()


@pytest.mark.parametrize("name", LAYERS)
def test_a_kernel_meets_activity_as_its_window_does(name: str) -> None:
    layer, pre, post = made(name)
    geometry = geometry_of(layer)
    assert isinstance(geometry, ConvGeometry)
    wanted = geometry.correlate_reference(post, pre, layer.weight.detach())
    found = geometry.correlate(post, pre, layer.weight.detach())
    assert (found - wanted).abs().max() <= 1e-12


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rule", RULES, ids=["pairs", "nearest", "triplets"])
def test_a_kernel_learns_like_the_linear_layers_of_its_places(
    name: str, rule: SynapticRule
) -> None:
    # one output neuron at a time: the linear layer that the convolution is for it
    layer, pre, post = made(name)
    found = rule(pre, post, layer.weight, geometry=geometry_of(layer)).dw
    wanted = torch.zeros_like(found)
    for place in product(*(range(size) for size in post.shape[3:])):
        inputs = torch.stack([seen(layer, pre[:, b], place) for b in range(pre.shape[1])], 1)
        for group in range(layer.groups):
            outs = slice(group * 6 // layer.groups, (group + 1) * 6 // layer.groups)
            x = inputs[:, :, group].flatten(2)
            at: tuple[Any, ...] = (slice(None), slice(None), outs, *place)
            y = post[at]
            w = layer.weight.detach()[outs].flatten(1)
            wanted[outs] += rule(x, y, w).dw.reshape(wanted[outs].shape)
    assert (found - wanted).abs().max() <= 1e-11


def seen(layer: Any, pre: Tensor, place: tuple[int, ...]) -> Tensor:
    """Return what the kernel sees at a place of the output: [T, groups, C / groups, ...]."""
    sides = [pad for side in reversed(layer.padding) for pad in (side, side)]
    x = nn.functional.pad(pre, sides).unflatten(1, (layer.groups, -1))
    for axis, (at, size) in enumerate(zip(place, layer.kernel_size, strict=True)):
        taken = at * layer.stride[axis] + torch.arange(size) * layer.dilation[axis]
        x = x.index_select(3 + axis, taken)
    return x


@pytest.mark.parametrize("rule", [Oja(), BCM(3.0, 20.0)], ids=["Oja", "BCM"])
def test_a_kernel_of_one_place_is_a_linear_layer(rule: SynapticRule) -> None:
    torch.manual_seed(0)
    pre, post = torch.rand(5, 2, 4, 1).double(), torch.rand(5, 2, 3, 1).double()
    layer = nn.Conv1d(4, 3, 1).double()
    found = rule(pre, post, layer.weight, geometry=geometry_of(layer)).dw
    wanted = rule(pre[..., 0], post[..., 0], layer.weight[..., 0]).dw
    assert (found[..., 0] - wanted).abs().max() <= 1e-12


def test_rewards_and_scaling_reach_kernels() -> None:
    layer, pre, post = made("2d")
    geometry, reward = geometry_of(layer), torch.ones(5, 2).double()
    plain = PairSTDP(3.0, 4.0)
    gated = RewardSTDP(plain, tau_eligibility=None)
    found = gated(pre, post, layer.weight, reward, geometry=geometry).dw
    assert (found - plain(pre, post, layer.weight, geometry=geometry).dw).abs().max() <= 1e-12
    scaling = SynapticScaling(0.4, 1.0)
    dw, (rate,) = scaling(pre, post, layer.weight, geometry=geometry)
    assert rate.tolist() == pytest.approx(post[-1].mean((0, 2, 3)).tolist())
    assert (dw - (1 - rate / 0.4)[:, None, None, None] * layer.weight).abs().max() <= 1e-12
    with pytest.raises(ValueError, match="carry needs a weight"):
        RewardSTDP(plain, carry=True)(pre, post, layer.weight, reward, geometry=geometry)


def test_a_convolution_takes_packed_spikes_and_learns_in_place() -> None:
    layer, pre, post = made("2d, odd")
    rule, before = PairSTDP(3.0, 4.0), layer.weight.detach().clone()
    rule.step(layer, SpikeTensor.from_dense(pre), SpikeTensor.from_dense(post), lr=0.5)
    wanted = before + 0.5 * rule(pre, post, before, geometry=geometry_of(layer)).dw
    assert (layer.weight - wanted).abs().max() <= 1e-12


def test_what_does_not_fit_a_kernel_is_refused() -> None:
    layer, pre, post = made("2d")
    with pytest.raises(ValueError, match="post must be"):
        PairSTDP().step(layer, pre, post[..., 1:])
    with pytest.raises(ValueError, match="pre must be .T, B, 4"):
        PairSTDP().step(layer, pre[:, :, :3], post)
    with pytest.raises(TypeError, match="zeros as padding"):
        geometry_of(nn.Conv2d(1, 1, 3, padding="same"))
    with pytest.raises(TypeError, match="connection must have a weight"):
        geometry_of(nn.ReLU())
