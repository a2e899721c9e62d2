"""Trained networks as spiking ones."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spike_ops._checked import input_of, module, number
from spike_ops._tracing import warn_of_training
from spike_ops.convert._network import ConvertedNet, number_of_steps
from spike_ops.convert._neurons import KINDS, Kind, Spiking, WinnerPool
from spike_ops.convert._statistics import Method, thresholds, watch
from spike_ops.convert._trace import NORMS, activations, traced

Calibration = Literal["none", "current", "potential"]


def convert(
    model: nn.Module,
    batches: Tensor | Iterable[Tensor | Sequence[Any]],
    *,
    method: Method = "percentile",
    percentile: float = 99.9,
    channelwise: bool = False,
    neurons: Kind = "if",
    calibration: Calibration = "none",
    steps: int = 32,
) -> ConvertedNet:
    """Return a trained network with spiking neurons in place of its activations.

    The model stays as it is, and is taken as in evaluation: norms that train warn. Batch norms are
    folded into the layers before; each ReLU becomes integrate-and-fire neurons whose threshold is
    the largest activation of the layer on the batches (or the percentile), each `QCFS` neurons with
    its own λ; max pooling lets spikes through that make the largest count of a window larger. The
    error of a rate falls as 1/T.

    Args:
        model: A network in ReLU or `QCFS` that torch.fx can trace.
        batches: Inputs [B, ...] to look at, one batch or several; of tuples, as loaders give them
            with labels, the first is looked at.
        method: `"percentile"` is robust against single large activations; `"max"` cuts off none.
        percentile: Of all activations of a layer, how many per cent are below the threshold: 50
            to 100.
        channelwise: A threshold for each channel instead of one for the layer. Not for `QCFS`.
        neurons: `"if"`; `"signed"`, which may take spikes back; or `"phased"`, where a layer
            waits for the whole answer of the one before: T steps a layer, and counts that are exact
            for networks in `QCFS` at T = L.
        calibration: With the batches, layer by layer: a constant current for each channel
            (`"current"`) or where membranes begin (`"potential"`) makes the mean rate after
            `steps` steps the mean activation.
        steps: T to calibrate for, and that the network takes by default.

    Raises:
        ConversionError: A part of the network cannot be converted, and it names the part; or there
            is no activation.
        ValueError: An argument is outside its range, there are no batches, or the network does not
            take them.
        TypeError: `model` is no module, a batch is no tensor of floats, or a setting no number.

    Source: B. Rueckauer et al., "Conversion of Continuous-Valued Deep Networks to Efficient
    Event-Driven Networks for Image Classification", Frontiers in Neuroscience 2017 (percentile);
    T. Bu et al., ICLR 2022 (θ and V0 = θ/2); Y. Li et al., "A Free Lunch from ANN: Towards
    Efficient, Accurate Spiking Neural Networks Calibration", ICML 2021 (calibration).

    Example:
        >>> from spike_ops.convert import QCFS
        >>> model = nn.Sequential(nn.Linear(4, 8), QCFS(4), nn.Linear(8, 2))
        >>> x = torch.rand(16, 4)
        >>> spiking = convert(model, x, neurons="phased", steps=4)
        >>> bool(torch.allclose(spiking(x), model(x), atol=1e-5))
        True
    """
    for name, got, known in (
        ("method", method, ("percentile", "max")),
        ("neurons", neurons, KINDS),
        ("calibration", calibration, ("none", "current", "potential")),
    ):
        if got not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {got!r}")
    module("model", model)
    number(percentile=percentile)
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile must be 50 to 100 per cent, got {percentile}")
    steps, shown = number_of_steps(steps), _inputs(batches)
    ann = traced(model)
    net = copy.deepcopy(ann)
    found = thresholds(ann, shown, method=method, percentile=percentile, channelwise=channelwise)
    for name, theta in found.items():
        net.add_submodule(name, Spiking(theta, kind=neurons))
    for name, each in list(net.named_modules()):
        if isinstance(each, nn.MaxPool2d):
            net.add_submodule(name, WinnerPool(each))
    made = ConvertedNet(net, ann, steps)
    if calibration != "none":
        _calibrate(made, shown, in_potential=calibration == "potential")
    warn_of_training(model, NORMS)
    return made


def _inputs(batches: Tensor | Iterable[Tensor | Sequence[Any]]) -> list[Tensor]:
    shown = [batches] if isinstance(batches, Tensor) else [input_of(each) for each in batches]
    if not shown or any(not each.ndim or not len(each) for each in shown):
        raise ValueError("batches must hold at least one batch of at least one input")
    for each in shown:
        if not each.is_floating_point():
            told = "; one batch with labels goes into a list, [(inputs, labels)]"
            raise TypeError(f"batches must be inputs in floats, got {each.dtype}{told}")
    return shown


@torch.no_grad()
def _calibrate(made: ConvertedNet, batches: list[Tensor], *, in_potential: bool) -> None:
    """Give each layer, in order, the current or first membrane that its mean rates lack."""
    expected = [watch(made.ann, inputs) for inputs in batches]
    for name in activations(made.ann):
        layer, missing, seen = made.layers()[name], torch.zeros(()), 0
        for inputs, activation in zip(batches, expected, strict=True):
            made.run(inputs)
            gap = activation[name] - layer.rates()
            missing = missing + gap.transpose(0, 1).flatten(1).mean(1) * len(inputs)
            seen += len(inputs)
        lacking = missing / seen / layer.thresholds
        if in_potential:
            layer.start = made.steps * lacking
        else:
            layer.offset = lacking
