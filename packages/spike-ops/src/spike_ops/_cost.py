"""What a product costs by additions and what it costs dense: the model that decides.

The decision is a function of the shape, the number of spikes and the calibration in use, and of
nothing else: the same call takes the same way on every run. Nothing is timed unless
`calibrate()` is called.
"""

from math import inf
from typing import Literal, NamedTuple

import torch

from spike_ops._calibration import Calibration, Rates, calibration, use_calibration
from spike_ops._event import BLOCK_BYTES, LARGE_BYTES, block_width, few, short
from spike_ops._native_tables import LEAST, PAIRED

__all__ = [
    "Calibration",
    "Rates",
    "calibration",
    "use_calibration",
    "Method",
    "METHODS",
    "ProductPlan",
    "expected_seconds",
    "rates_of",
    "gathering",
    "plan_product",
    "choose",
]

# of the cost of a call, of an addition, and of one from the first cache, where kernels add
# straight from the bits
STRAIGHT_CALL, STRAIGHT, NEAR = 0.5, 1.25, 0.65
# of filling tables and of looking up, where tables are of pairs
PAIR_FILL, PAIR_LOOKUP = 0.57, 1.4
# one row is multiplied without putting the weight into another order
VECTOR = 0.35
Method = Literal["auto", "event", "dense"]
METHODS = ("auto", "event", "dense")


class ProductPlan(NamedTuple):
    """Which way a product takes, and the seconds the cost model expects of each."""

    method: Literal["event", "dense"]
    density: float
    event_seconds: float
    dense_seconds: float
    reason: str


def unmeasured(device: str, method: Method) -> ProductPlan:
    """Return the plan on a device that has no calibration: dense, unless told otherwise."""
    told = "as asked" if method != "auto" else f"no measured costs for {device}"
    nan = float("nan")
    return ProductPlan("dense" if method == "auto" else method, nan, nan, nan, told)


def expected_seconds(
    rows: int,
    columns: int,
    width: int,
    count: int,
    dtype: torch.dtype,
    *,
    transposed: bool = False,
    turned: bool = False,
) -> tuple[float, float]:
    """Return the seconds the calibration expects by additions and dense."""
    costs, rate, size = calibration(), rates_of(dtype), rows * columns
    dense = multiplying(rows, columns, width, rate)
    if transposed or turned:
        event = costs.sort * count if transposed else 0.0
    else:
        dense = min(dense, looking_up(rows, columns, width, dtype))
        if costs.kernels and rate.lookup < inf:
            straight = STRAIGHT_CALL * costs.event_call + costs.byte * size / 8
            if few(rows, columns, width):
                return (straight + STRAIGHT * rate.add * count * width) * 1e-9, dense * 1e-9
            if short(columns, width):
                straight += (rate.output * rows + NEAR * rate.add * count) * width
                return straight * 1e-9, dense * 1e-9
        event = 0.0
    event += costs.event_call + costs.byte * size / 8 + costs.spike * count
    event += rate.output * rows * width + gathering(columns, width, count, dtype, turned=turned)
    return event * 1e-9, dense * 1e-9


def multiplying(rows: int, columns: int, width: int, rate: Rates) -> float:
    """Return the nanoseconds of a dense product."""
    size = rows * columns
    dense = calibration().dense_call + rate.unpack * size
    once = VECTOR if rows == 1 else 1.0
    return dense + (rate.mac * size + rate.read * columns) * width * once


def looking_up(rows: int, columns: int, width: int, dtype: torch.dtype) -> float:
    """Return the nanoseconds of a product from tables of sums of four rows of the weight."""
    rate = rates_of(dtype)
    if rows < LEAST:
        return inf
    fill, lookup = rate.fill * columns, rate.lookup * rows * -(-columns // 4)
    additions = fill + lookup if rows > PAIRED else PAIR_FILL * fill + PAIR_LOOKUP * lookup
    return STRAIGHT_CALL * calibration().event_call + additions * width


def plan_masked(
    rows: int, columns: int, width: int, count: int, dtype: torch.dtype, *, turned: bool = False
) -> ProductPlan:
    """Return whether G Wᵀ, G [rows, width], is computed for `count` elements alone or for all.

    `turned`: W [columns, width] is not contiguous.
    """
    costs, rate, size = calibration(), rates_of(dtype), rows * columns
    event = costs.event_call + costs.byte * size / 8 + rate.output * size
    event += rate.masked * count * width + costs.turn * columns * width * turned
    dense = costs.dense_call + (rate.mac * size + rate.read * columns) * width
    return choose("auto", count / max(size, 1), event * 1e-9, dense * 1e-9)


def rates_of(dtype: torch.dtype) -> Rates:
    """Return the rates of a data type."""
    try:
        return calibration().rates[str(dtype).removeprefix("torch.")]
    except KeyError:
        known = ", ".join(calibration().rates)
        raise TypeError(f"dtype must be one of {known}, got {dtype}") from None


def gathering(
    rows: int, width: int, count: int, dtype: torch.dtype, *, turned: bool = False
) -> float:
    """Return the nanoseconds of adding up `count` rows of a table [rows, width]."""
    costs, elements = calibration(), rows * width
    blocked = block_width(rows, width, count, dtype.itemsize) < width
    copied = costs.turn if turned else costs.copy if blocked else 0.0
    return copied * elements + _per_addition(elements, dtype, blocked) * count * width


def _per_addition(elements: int, dtype: torch.dtype, blocked: bool) -> float:
    costs, add, size = calibration(), rates_of(dtype).add, elements * dtype.itemsize
    if blocked or size <= BLOCK_BYTES:
        return add
    return add * (costs.third if size <= LARGE_BYTES else costs.memory)


def plan_product(
    rows: int,
    columns: int,
    width: int,
    count: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    method: Method = "auto",
    transposed: bool = False,
    turned: bool = False,
) -> ProductPlan:
    """Return which way S @ W takes: S [rows, columns] with `count` spikes, W [columns, width].

    Args:
        rows: Rows of S.
        columns: Columns of S, rows of W.
        width: Columns of W.
        count: Spikes in S.
        dtype: Type of W.
        device: Type of the device.
        method: What was asked for; `"auto"` decides.
        transposed: S is stored as its transpose, as for the gradient of a weight.
        turned: W is not contiguous.

    Raises:
        ValueError: There are more spikes than elements, a number is negative, the method unknown.
        TypeError: `dtype` is no floating-point type.

    Example:
        >>> plan_product(1024, 1024, 1024, 10_000).method
        'event'
        >>> plan_product(1024, 1024, 1024, 900_000).method
        'dense'
    """
    size = rows * columns
    if not 0 <= count <= size or min(rows, columns, width) < 0:
        got = f"{count} in {rows} by {columns}, times a width of {width}"
        raise ValueError(f"count must be in 0..rows * columns, sizes from 0, got {got}")
    density = count / max(size, 1)
    if device != "cpu":
        return unmeasured(device, method)._replace(density=density)
    event, dense = expected_seconds(
        rows, columns, width, count, dtype, transposed=transposed, turned=turned
    )
    return choose(method, density, event, dense)


def choose(method: Method, density: float, event: float, dense: float) -> ProductPlan:
    """Return the plan: what was asked for, else the cheaper."""
    if method != "auto":
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        return ProductPlan(method, density, event, dense, "as asked")
    chosen: Literal["event", "dense"] = "event" if event < dense else "dense"
    return ProductPlan(chosen, density, event, dense, "the cheaper by the calibration")
