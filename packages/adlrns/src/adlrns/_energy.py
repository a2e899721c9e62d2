"""Energy of a forward pass: by the machine's meter, or estimated and called so."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adlrns._inputs import call, count
from adlrns_models import AdaptiveConv2d, AdaptiveLayer
from rank_sched import (
    PROFILES,
    Cost,
    EnergyMeter,
    HardwareProfile,
    MeterError,
    PerfEstimator,
    RaplMeter,
)

# a counter ticks every millisecond: shorter windows would measure its clock
_WINDOW_S = 0.3


class EnergyReader:
    """Energy of forward passes on this machine.

    Without a meter it is estimated: joules for each FLOP and byte of the linear and convolution
    layers, and the idle power over the time that a pass was *measured* to take. A slower model
    never looks cheaper for being slow, whatever the roofline would have promised.

    Args:
        base: whose joules and idle power an estimate takes; by default a desktop processor's.

    Attributes:
        name: of the meter, or `estimated`.
        note: what the numbers are made of, for a reader.
    """

    def __init__(self, base: HardwareProfile = PROFILES["desktop-cpu"]) -> None:
        self._meter: EnergyMeter | None = None
        try:
            self._meter = RaplMeter()
            self.name, self.note = self._meter.name, "energy: the processor's own counters (RAPL)"
        except MeterError:
            self.name, self.hardware = "estimated", base
            self.note = (
                f"energy: estimated, no meter here; {base.energy_per_flop_j:.3g} J a FLOP and "
                f"{base.energy_per_byte_j:.3g} J a byte of the linear and convolution layers, and "
                f"{base.idle_power_w:g} W over the measured time, all three by the profile "
                f"'{base.name}'"
            )

    def per_sample_j(self, model: nn.Module, batch: Any, *, seconds: float) -> float:
        """Returns the joules of one sample of a batch.

        Args:
            model: what is run.
            batch: what on.
            seconds: that one such pass was measured to take; a meter measures its own.
        """
        if self._meter is not None:
            return _metered(self._meter, model, batch) / count(batch)
        cost = estimate(model, batch, PerfEstimator(self.hardware))
        work = self.hardware.energy_per_flop_j * cost.flops
        moved = self.hardware.energy_per_byte_j * cost.traffic_bytes
        return (work + moved + self.hardware.idle_power_w * seconds) / count(batch)


def _metered(meter: EnergyMeter, model: nn.Module, batch: Any) -> float:
    passes = 0
    with torch.no_grad(), meter.measure() as window:
        start = time.perf_counter()
        while time.perf_counter() - start < _WINDOW_S:
            call(model, batch)
            passes += 1
    return window.energy_j / passes


def estimate(model: nn.Module, batch: Any, estimator: PerfEstimator) -> Cost:
    """Returns the predicted cost of the linear and convolution layers in one forward pass."""
    costs: list[Cost] = []
    see = _watched(model, lambda layer, x: costs.append(_cost(layer, x, estimator)))
    with see, torch.no_grad():
        call(model, batch)
    return sum(costs, Cost())


@contextmanager
def _watched(model: nn.Module, see: Callable[[Any, Tensor], None]) -> Iterator[None]:
    kinds = (AdaptiveLayer, nn.Linear, nn.Conv2d)
    handles = [
        module.register_forward_pre_hook(lambda layer, args: see(layer, args[0]))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cost(layer: Any, x: Tensor, estimator: PerfEstimator) -> Cost:
    rank = None
    if isinstance(layer, AdaptiveLayer) and layer.current_rank() <= layer.break_even:
        rank = layer.current_rank()
    if isinstance(layer, AdaptiveConv2d | nn.Conv2d):
        return _conv_cost(layer, x, rank, estimator)
    m, n = layer.sizes if isinstance(layer, AdaptiveLayer) else layer.weight.shape
    return estimator.linear(x.shape[:-1].numel(), n, m, rank, dtype_bytes=x.element_size())


def _conv_cost(layer: Any, x: Tensor, rank: int | None, estimator: PerfEstimator) -> Cost:
    adaptive = isinstance(layer, AdaptiveConv2d)
    m, c, *kernel = layer.weight_shape if adaptive else layer.weight.shape
    padding = layer._reversed_padding_repeated_twice if not adaptive else layer.window.padding
    return estimator.conv2d(
        x.shape[0],
        x.shape[1],
        m,
        (kernel[0], kernel[1]),
        (x.shape[-2], x.shape[-1]),
        rank=rank,
        stride=layer.window.stride if adaptive else layer.stride,
        padding=(padding[2], padding[0]),
        dilation=layer.window.dilation if adaptive else layer.dilation,
        groups=x.shape[1] // c,
        dtype_bytes=x.element_size(),
    )
