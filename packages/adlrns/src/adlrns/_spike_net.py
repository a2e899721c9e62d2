"""The spiking network that is trained, and how a batch becomes time."""

import math
from collections import OrderedDict

from torch import Tensor, nn

from adlrns._errors import UseError
from adlrns._spike_data import Material
from adlrns._spike_settings import Settings
from spike_ops import encoding
from spike_ops.neuron import LIF
from spike_ops.nn import Conv2d, Linear

Layers = list[tuple[str, nn.Module]]


class TimedConv2d(nn.Conv2d):
    """A convolution of currents that have a time axis."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the currents [..., O, H, W] of [..., C, H, W]."""
        leading = input.shape[:-3]
        out = super().forward(input.reshape(-1, *input.shape[-3:]))
        return out.reshape(*leading, *out.shape[1:])


def build(settings: Settings, material: Material) -> nn.Sequential:
    """Returns the network, drawn by torch's random state: [T, B, ...] in, scores [T, B, C] out.

    Hidden layers spike; the last one only adds, and a class's score is the mean of its currents.

    Raises:
        UseError: if the network is not for such data.
    """
    make = _convolutions if settings.net == "conv" else _dense
    layers, width = make(settings, material.shape, spikes_in=spikes_come_in(settings, material))
    layers.append(("out", Linear(width, len(material.classes), spike_in=True)))
    for _, layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(OrderedDict(layers))


def spikes_come_in(settings: Settings, material: Material) -> bool:
    """Says whether the first layer is given spikes."""
    coded = material.kind == "images" and settings.encoding != "direct"
    return material.kind == "events" or coded


def encode(settings: Settings, material: Material, x: Tensor) -> Tensor:
    """Returns a batch [B, ...] as what goes into the network [T, B, ...]."""
    if material.kind != "images":
        return x.movedim(1, 0)
    if settings.encoding == "direct":
        return encoding.direct(x, settings.steps)
    low, high = x.flatten(1).min(1).values, x.flatten(1).max(1).values
    spread = (high - low).clamp(min=1e-6)
    unit = (x - _like(low, x)) / _like(spread, x)
    code = encoding.rate if settings.encoding == "rate" else encoding.latency
    return code(unit.clamp(0, 1), settings.steps)


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.ndim - 1))


def _neurons(settings: Settings) -> LIF:
    return LIF(
        settings.tau, reset="soft" if settings.reset == "soft" else "hard", decay_input=False,
        detach_reset=True, spike_out=True,
    )  # fmt: skip


def _dense(settings: Settings, shape: tuple[int, ...], *, spikes_in: bool) -> tuple[Layers, int]:
    layers: Layers = [("flat", nn.Flatten(2))] if len(shape) > 1 else []
    width = math.prod(shape)
    for place, size in enumerate(settings.hidden, 1):
        first_current = place == 1 and not spikes_in
        layer = nn.Linear(width, size) if first_current else Linear(width, size, spike_in=True)
        layers += [(f"linear{place}", layer), (f"lif{place}", _neurons(settings))]
        width = size
    return layers, width


def _convolutions(
    settings: Settings, shape: tuple[int, ...], *, spikes_in: bool
) -> tuple[Layers, int]:
    if len(shape) != 3:
        raise UseError(f"--net conv is for images and events, got steps of shape {list(shape)}")
    layers: Layers = []
    channels, high, wide = shape
    for place, size in enumerate(settings.hidden, 1):
        if place == 1 and not spikes_in:
            layer: nn.Module = TimedConv2d(channels, size, 3, 2, 1)
        else:
            layer = Conv2d(channels, size, 3, 2, 1, spike_in=True)
        layers += [(f"conv{place}", layer), (f"lif{place}", _neurons(settings))]
        channels, high, wide = size, -(-high // 2), -(-wide // 2)
    layers.append(("flat", nn.Flatten(2)))
    return layers, channels * high * wide
