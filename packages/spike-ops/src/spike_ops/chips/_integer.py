"""Networks in whole numbers, as digital chips compute them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spike_ops._checked import tensor
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.chips._blocks import Block, Shape
from spike_ops.neuron import LIF
from spike_ops.nn._stepwise import Stepwise

DECAY_BITS = 12


@dataclass(frozen=True)
class IntegerLayer:
    """A layer in whole numbers.

    Attributes:
        block: What it came from.
        weight: Whole weights, int32.
        bias: Whole biases, int32, added at every step.
        scale: What a unit of the membrane is worth in the network that was quantised.
        threshold: Whole threshold; None in a readout.
        v_reset: Whole membrane after a hard reset.
        decay: β times 2^12.
        shift: k where the membrane loses v >> k instead; None otherwise.
    """

    block: Block
    weight: Tensor
    bias: Tensor
    scale: float
    threshold: int | None
    v_reset: int
    decay: int
    shift: int | None


class IntegerNet(nn.Module):
    """Return the spikes of a network computed in whole numbers: int32 [T, B, ...] in and out.

    One step of a layer, all numbers whole, >> rounding down:

        i = Σ w s + b
        h = (v 2^12-scaled decay: (v d) >> 12, or v - (v >> k)) + i, saturated to the state's bits
        s = 1 where h >= θ (h > θ of strict neurons);   v = h - θ s (soft) or v_reset where s (hard)

    A readout, weights without neurons at the end, returns i.

    Made by `quantize`.

    Raises:
        TypeError: Inputs are not whole.
        ValueError: They are not [T, B, *sample].
        OverflowError: A sum of the readout does not fit 32 bits; membranes saturate.
    """

    def __init__(self, layers: list[IntegerLayer], state_bits: int, sample: Shape) -> None:
        super().__init__()
        self.quantised, self.state_bits, self.sample = layers, state_bits, sample

    def forward(self, spikes: Tensor) -> Tensor:
        """Return the spikes of spikes (or counts) [T, B, ...]."""
        values = spikes.to_dense() if isinstance(spikes, SpikeTensor) else tensor("spikes", spikes)
        if not self._takes(values):
            told = ", ".join(map(str, self.sample))
            raise ValueError(f"spikes must be [T, B, {told}], got {tuple(values.shape)}")
        whole = values.to(torch.int64)
        if (odd := whole.to(values.dtype) != values).any():
            got = values[odd].flatten()[0].item()
            raise TypeError(f"inputs must be whole numbers: spikes or counts, got {got:g}")
        for layer in self.quantised:
            whole = self._over_time(layer, _currents(layer, whole))
        if whole.numel() and whole.abs().max() >= 2**31:
            most = int(whole.abs().max())
            less = "fewer counts, or fewer bits of weights, make less"
            raise OverflowError(f"sums of the readout must be below 2^31, got {most}: {less}")
        return whole.to(torch.int32)

    def _takes(self, values: Tensor) -> bool:
        """Return whether these are samples, flat or not where the first layer is linear."""
        first, each = self.quantised[0].block, values.shape[2:]
        is_flat = isinstance(first.layer, nn.Linear) and not first.pools
        alike = each == self.sample or (is_flat and each.numel() == math.prod(self.sample))
        return values.ndim > 2 and alike

    def _over_time(self, layer: IntegerLayer, currents: Tensor) -> Tensor:
        if layer.threshold is None:
            return currents
        neurons: Any = layer.block.neurons
        rule, top = neurons.rule, 2 ** (self.state_bits - 1)
        v = torch.full_like(currents[0], layer.v_reset if rule.reset == "hard" else 0)
        out = []
        for current in currents:
            h = _decayed(layer, v) + current
            h = h.clamp(-top, top - 1)
            s = (h > layer.threshold if rule.strict else h >= layer.threshold).long()
            v = h
            if rule.reset == "hard":
                v = torch.where(s > 0, torch.full_like(h, layer.v_reset), h)
            elif rule.reset == "soft":
                v = h - layer.threshold * s
            out.append(s)
        return torch.stack(out)

    def to_float(self) -> nn.Sequential:
        """Return the network in float64 with these whole numbers as weights and thresholds.

        It is what `spike_ops.nir.to_nir` hands to a chip's tools. Its spikes are those of the whole
        numbers where nothing decays; with a decay it lacks the rounding down.
        """
        modules: list[nn.Module] = []
        for layer in self.quantised:
            block = layer.block
            for pool, _ in block.pools:
                modules.append(Stepwise(_sums(pool)))
            if block.area is not None:
                modules.append(nn.Flatten(2))
            modules.append(_floats(layer))
            if layer.threshold is not None:
                modules.append(_neurons(layer))
        made = nn.Sequential(*modules)
        made.register_forward_pre_hook(_in_double)
        return made


def _in_double(net: nn.Module, inputs: tuple[Any, ...]) -> None:
    del net
    for each in inputs:
        if isinstance(each, Tensor) and each.dtype != torch.float64:
            rule = "input must be float64, in which whole numbers are added exactly: input.double()"
            raise TypeError(f"{rule}, got {each.dtype}")


def _sums(pool: nn.AvgPool2d) -> nn.AvgPool2d:
    return nn.AvgPool2d(
        pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, divisor_override=1
    )


def _decayed(layer: IntegerLayer, v: Tensor) -> Tensor:
    if layer.shift is not None:
        return v - (v >> layer.shift)
    return (v * layer.decay) >> DECAY_BITS


def _currents(layer: IntegerLayer, spikes: Tensor) -> Tensor:
    """Return Σ w s + b: in float64, in which sums of whole numbers below 2^53 are exact."""
    block, x = layer.block, spikes.double().flatten(0, 1)
    for pool, _ in block.pools:
        x = _sums(pool)(x)
    weight, bias = layer.weight.double(), layer.bias.double()
    if isinstance(block.layer, nn.Conv2d):
        own = block.layer
        x = F.conv2d(x, weight, bias, own.stride, own.padding, own.dilation, own.groups)
    else:
        x = F.linear(x.flatten(1), weight, bias)
    return x.long().unflatten(0, spikes.shape[:2])


def _floats(layer: IntegerLayer) -> nn.Module:
    own = layer.block.layer
    if isinstance(own, nn.Conv2d):
        made: Any = nn.Conv2d(
            own.in_channels, own.out_channels, own.kernel_size, own.stride, own.padding,  # type: ignore[arg-type]
            own.dilation, own.groups, padding_mode=own.padding_mode,  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        made = nn.Linear(own.in_features, own.out_features)
    made.weight = nn.Parameter(layer.weight.double())
    made.bias = nn.Parameter(layer.bias.double())
    module: nn.Module = made
    return Stepwise(module) if isinstance(own, nn.Conv2d) else module


def _neurons(layer: IntegerLayer) -> LIF:
    neurons: Any = layer.block.neurons
    beta = layer.decay / 2**DECAY_BITS if layer.shift is None else 1 - 2.0**-layer.shift
    assert layer.threshold is not None
    return LIF(
        1 / (1 - beta) if beta < 1 else float("inf"), threshold=float(layer.threshold),
        v_reset=float(layer.v_reset), v_leak=0.0, reset=neurons.rule.reset,
        strict=neurons.rule.strict, decay_input=False,
    )  # fmt: skip
