"""What a convolution of spikes costs by additions and dense."""

import math
from bisect import bisect_left
from typing import Literal

import torch

from spike_ops._calibration import calibration
from spike_ops._conv_event import CHUNK
from spike_ops._conv_shape import ConvShape, walk_of
from spike_ops._cost import Method, ProductPlan, choose, gathering, plan_product, rates_of
from spike_ops._event import GATHERED
from spike_ops._ways import KeptByCosts

# outputs that a kernel adds at once, nanoseconds to go to the next run, and how much longer the
# way back takes: it writes what the way there reads
TILE, WINDOW, BACKWARDS = 128, 4.0, 2.0
# without kernels: measured between other work, when what it reads has left the caches
COLD = 1.6


def plan_conv(
    shape: ConvShape,
    count: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    method: Method = "auto",
    transposed: bool = False,
) -> ProductPlan:
    """Return which way a convolution of `count` spikes takes, or its kernel's gradient."""
    density = count / max(shape.size, 1)
    if dtype not in GATHERED or device != "cpu":
        chosen: Literal["event", "dense"] = (
            "event" if method == "event" and dtype in GATHERED else "dense"
        )
        reason = f"no measured costs for {dtype} on {device}"
        return ProductPlan(chosen, density, float("nan"), float("nan"), reason)
    if shape.pointwise and not transposed and rates_of(dtype).lookup < math.inf:
        rows = shape.batch * shape.plane
        sizes = (rows, shape.channels, shape.outputs, count)
        return plan_product(*sizes, dtype=dtype, method=method)
    event = _gradient(shape, count, dtype) if transposed else _forward(shape, count, dtype)
    costs, rate = calibration(), rates_of(dtype)
    event += costs.byte * shape.size / 8 + costs.spike * count
    dense = 2 * costs.dense_call + rate.unpack * shape.size + rate.mac * shape.macs
    return choose(method, density, event * 1e-9, dense * 1e-9)


def _most(shape: ConvShape, dtype: torch.dtype, transposed: bool) -> int:
    """Return from how many spikes on a convolution is dense, with kernels: it stays so."""

    def dense(count: int) -> bool:
        return plan_conv(shape, count, dtype=dtype, transposed=transposed).method == "dense"

    return bisect_left(range(shape.size + 1), True, key=dense)


most = KeptByCosts(_most)


def _forward(shape: ConvShape, count: int, dtype: torch.dtype) -> float:
    costs, rate, walk = calibration(), rates_of(dtype), walk_of(shape)
    if costs.kernels:
        return _walking(shape, count, dtype)
    spread = math.prod(walk.spread)
    width = spread * (shape.outputs // shape.groups)
    first, outputs = walk.per_sample * shape.batch, _outputs(shape)
    chunks = -(-shape.batch * walk.per_sample // CHUNK)
    rows = walk.table_rows * walk.phases
    total = costs.event_call * (2 + 2 * chunks) + costs.sort * count
    total += gathering(rows, width, count * walk.phases, dtype) + rate.output * first
    total += rate.add * costs.third * outputs * spread + rate.output * outputs
    return COLD * (total + 3 * costs.turn * rows * width)


def _gradient(shape: ConvShape, count: int, dtype: torch.dtype) -> float:
    costs, rate, walk = calibration(), rates_of(dtype), walk_of(shape)
    if costs.kernels:
        # the gradient comes with its channels first and is read with its channels last
        return BACKWARDS * _walking(shape, count, dtype) + 2 * costs.turn * _outputs(shape)
    width = math.prod(walk.spread) * (shape.outputs // shape.groups)
    spread = shape.batch * walk.lines * walk.bags_along * width
    chunks = -(-spread // CHUNK)
    total = costs.event_call * (2 + 2 * chunks) + costs.turn * _outputs(shape)
    total += costs.sort * count * (1 + walk.run) + 2 * rate.output * spread
    return COLD * (total + rate.add * costs.third * count * walk.run * width)


def _walking(shape: ConvShape, count: int, dtype: torch.dtype) -> float:
    """Return the nanoseconds of the compiled kernel's walk along all windows."""
    costs, rate = calibration(), rates_of(dtype)
    positions = shape.batch * shape.groups * math.prod(shape.out_sides)
    width, each = shape.outputs // shape.groups, shape.channels // shape.groups
    windows = positions * math.prod(shape.kernel[:-1]) * -(-width // TILE)
    reached = count * math.prod(shape.kernel) / math.prod(shape.stride) * width
    total = 3 * costs.event_call + costs.sort * count + rate.output * _outputs(shape)
    total += WINDOW * windows + rate.add * reached
    return total + 2 * costs.turn * shape.outputs * each * math.prod(shape.kernel)


def _outputs(shape: ConvShape) -> int:
    return shape.batch * shape.outputs * math.prod(shape.out_sides)
