"""Energy of a forward pass: by the machine's meter, or estimated and called so."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
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
_BASE = PROFILES["desktop-cpu"]


class EnergyReader:
    """Energy of forward passes on this machine.

    Attributes:
        name: of the meter, or `estimated`.
        note: what the numbers are made of, for a reader.
    """

    def __init__(self) -> None:
        self._meter: EnergyMeter | None = None
        try:
            self._meter = RaplMeter()
            self.name, self.note = self._meter.name, "energy: the processor's own counters (RAPL)"
        except MeterError:
            self.name = "estimated"
            self.hardware = calibrate(_BASE)
            self.note = (
                f"energy: estimated, no meter here; roofline of '{self.hardware.name}': "
                f"{self.hardware.peak_flops_per_s / 1e9:.0f} GFLOP/s and "
                f"{self.hardware.bandwidth_bytes_per_s / 1e9:.0f} GB/s fitted to products timed "
                f"now, joules per FLOP and byte from the datasheet of '{_BASE.name}'"
            )

    def per_sample_j(self, model: nn.Module, batch: Any) -> float:
        """Returns the joules of one sample of a batch."""
        if self._meter is not None:
            return _metered(self._meter, model, batch) / count(batch)
        return estimate(model, batch, PerfEstimator(self.hardware)).energy_j / count(batch)


def _metered(meter: EnergyMeter, model: nn.Module, batch: Any) -> float:
    passes = 0
    with torch.no_grad(), meter.measure() as window:
        start = time.perf_counter()
        while time.perf_counter() - start < _WINDOW_S:
            call(model, batch)
            passes += 1
    return window.energy_j / passes


def calibrate(base: HardwareProfile) -> HardwareProfile:
    """Returns a profile whose peak, bandwidth and overhead are fitted to products timed now."""
    rows = []
    for size in (16, 64, 128, 256, 512):
        a, b = torch.randn(size, size), torch.randn(size, size)
        seconds = _median_s(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        rows.append((2.0 * size**3, 4.0 * 3 * size**2, 1.0, seconds))
    for length in (1 << 20, 1 << 22):  # beyond the caches: what memory gives
        x = torch.randn(length)
        rows.append((float(length), 8.0 * length, 1.0, _median_s(lambda x=x: x.neg())))  # type: ignore[misc]
    return base.calibrated(rows)


def _median_s(work: Callable[[], Tensor], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[1:])


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
