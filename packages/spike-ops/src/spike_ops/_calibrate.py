"""Measure what pieces of work cost on this machine."""

import math
import platform
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spike_ops import _native
from spike_ops._bits import count_bits, pack_bits, unpack_bits
from spike_ops._calibration import Calibration, Rates
from spike_ops._dense import float_mm, onednn_product
from spike_ops._event import event_mm
from spike_ops._index import SpikeIndex
from spike_ops._native_masked import masked_product
from spike_ops._native_tables import look_up

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROWS, COLUMNS, WIDTH = 256, 512, 128  # the table of the event path fits a second-level cache
DENSE, FEW = 512, 8  # sides of the dense weight, and the fewer rows it is multiplied with
Clock = Callable[[Callable[[], object]], float]


def calibrate(seconds: float = 0.5) -> Calibration:
    """Return what products cost on this machine, measured now with the threads torch has now.

    With or without the kernels of `compile_kernels`, whichever are in use.

    Nothing is kept: pass the result to `use_calibration`, or `save` it. Costs of memory beyond the
    caches are not measured; the defaults stand for them.

    Args:
        seconds: About how long to measure.

    Raises:
        ValueError: `seconds` is not positive.

    Example:
        >>> costs = calibrate(seconds=0.01)
        >>> costs.rates["float32"].add > 0
        True
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    clock = _clock(seconds / 48)
    with torch.no_grad():
        onednn = _onednn_wins(clock)
        rates = {
            str(dtype).removeprefix("torch."): _rates(clock, dtype, onednn=onednn)
            for dtype in DTYPES
        }
        kernels = _native.compiled()
        costs = Calibration(_machine(), onednn=onednn, kernels=kernels, rates=rates)
        measured: dict[str, Any] = {**_index_costs(clock), **_copies(clock), **_calls(clock, rates)}
        return replace(costs, **measured)


def _clock(budget: float) -> Clock:
    def shortest(call: Callable[[], object]) -> float:
        """Return the nanoseconds of the fastest of several calls: interruptions only ever add."""
        call()
        stop = perf_counter() + budget
        times: list[float] = []
        while not times or perf_counter() < stop:
            start = perf_counter()
            call()
            times.append(perf_counter() - start)
        return min(times) * 1e9

    return shortest


def _spikes(rows: int, columns: int, density: float) -> Tensor:
    # a generator of its own: measuring must not move the caller's random numbers
    generator = torch.Generator().manual_seed(0)
    return torch.rand(rows, columns, generator=generator) < density


def _matrix(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, columns, generator=generator).to(dtype)


def _rates(clock: Clock, dtype: torch.dtype, *, onednn: bool) -> Rates:
    table = _matrix(COLUMNS, WIDTH, dtype)
    few, many = (_bags_time(clock, table, density) for density in (0.02, 0.2))
    add = max((many[1] - few[1]) / (many[0] - few[0]) / WIDTH, 1e-4)
    call = _bags_time(clock, table, 0.02, rows=1)[1]
    output = max((few[1] - call - few[0] * WIDTH * add) / (ROWS * WIDTH), 1e-4)
    weight, left = _matrix(DENSE, DENSE, dtype), _matrix(128, DENSE, dtype)
    few_rows = clock(lambda: float_mm(left[:FEW], weight, onednn=onednn))
    all_rows = clock(lambda: float_mm(left, weight, onednn=onednn))
    mac = max((all_rows - few_rows) / ((len(left) - FEW) * DENSE**2), 1e-5)
    packed = pack_bits(_spikes(ROWS, COLUMNS, 0.1))
    unpack = clock(lambda: unpack_bits(packed, (ROWS, COLUMNS), dtype)) / (ROWS * COLUMNS)
    read = max(few_rows / DENSE**2 - FEW * mac, 0.0)
    return Rates(add, output, mac, unpack, read, *_kernel_rates(clock, left, weight))


def _kernel_rates(clock: Clock, left: Tensor, weight: Tensor) -> tuple[float, float, float]:
    """Return what only the kernels do: `masked`, `lookup` and `fill` of Rates."""
    if not _native.compiled() or not _native.knows(left.dtype):
        return math.inf, math.inf, math.inf
    packed = pack_bits(_spikes(len(left), DENSE, 0.5))
    few, many = (
        clock(lambda rows=rows: look_up(packed, rows, weight))  # type: ignore[misc]
        for rows in (4 * FEW, len(left))
    )
    lookup = max((many - few) / ((len(left) / 4 - FEW) * DENSE**2), 1e-5)
    fill = max(few / DENSE**2 - FEW * lookup, 1e-5)
    return _masked_rate(clock, left, weight), lookup, fill


def _masked_rate(clock: Clock, left: Tensor, weight: Tensor) -> float:
    """Return what a multiply-add of a product takes that is computed in some places alone."""
    windows = [pack_bits(_spikes(len(left), len(weight), density)) for density in (0.05, 0.25)]
    few, many = (
        clock(lambda window=window: masked_product(window, left, weight))  # type: ignore[misc]
        for window in windows
    )
    more = (count_bits(windows[1]) - count_bits(windows[0])) * weight.shape[1]
    return max((many - few) / more, 1e-5)


def _bags_time(clock: Clock, table: Tensor, density: float, rows: int = ROWS) -> tuple[int, float]:
    index = SpikeIndex(pack_bits(_spikes(rows, COLUMNS, density)), rows * COLUMNS)
    index.by_row(COLUMNS)
    return index.count, clock(lambda: event_mm(index, COLUMNS, table))


def _onednn_wins(clock: Clock) -> bool:
    if onednn_product() is None:
        return False
    weight, left = _matrix(1024, 1024, torch.float32), _matrix(256, 1024, torch.float32)
    onednn, default = (
        clock(lambda which=which: float_mm(left, weight, onednn=which))  # type: ignore[misc]
        for which in (True, False)
    )
    return bool(onednn < default)


def _index_costs(clock: Clock) -> dict[str, float]:
    rows, columns = 512, 1024
    packs = [pack_bits(_spikes(rows, columns, density)) for density in (0.005, 0.08)]
    size = rows * columns

    def found(packed: Tensor) -> SpikeIndex:
        index = SpikeIndex(packed, size)
        index.by_row(columns)
        return index

    few, many = (clock(lambda packed=packed: found(packed)) for packed in packs)  # type: ignore[misc]
    counts = [SpikeIndex(packed, size).count for packed in packs]
    spike = max((many - few) / (counts[1] - counts[0]), 0.1)
    sorted_too = clock(lambda: found(packs[1]).by_column(columns))
    return {
        "spike": spike,
        "byte": max((few - spike * counts[0]) / (size / 8), 0.01),
        "sort": max((sorted_too - many) / counts[1], 0.1),
    }


def _copies(clock: Clock) -> dict[str, float]:
    weight, many = _matrix(1024, 1024, torch.float32), torch.arange(1 << 14)
    values = _matrix(1, 1 << 14, torch.float32)[0]
    synapses = clock(lambda: torch.zeros(1 << 14).index_add_(0, many, values[many]))
    blocks = clock(lambda: [weight[:, i : i + 128].contiguous() for i in range(0, 1024, 128)])
    turned = clock(lambda: weight.t().contiguous())
    return {
        "copy": blocks / weight.numel(),
        "turn": turned / weight.numel(),
        # as much again goes into finding them
        "synapse": 2 * synapses / len(many),
    }


def _calls(clock: Clock, rates: dict[str, Rates]) -> dict[str, float]:
    weight, packed = _matrix(64, 64, torch.float32), pack_bits(_spikes(1, 64, 0.1))
    event = clock(lambda: event_mm(SpikeIndex(packed, 64), 64, weight))
    dense = clock(lambda: unpack_bits(packed, (1, 64), torch.float32) @ weight)
    known = (rates["float32"].read + rates["float32"].mac) * weight.numel()
    return {"event_call": event, "dense_call": max(dense - known, 500.0)}


def _machine() -> str:
    threads = torch.get_num_threads()
    return (
        f"{platform.processor() or platform.machine()}, {threads} thread(s), numpy {np.__version__}"
    )
