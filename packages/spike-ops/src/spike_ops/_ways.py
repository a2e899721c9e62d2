"""What the cost model decides for a shape, found once: from then on spikes are only counted."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from spike_ops._calibration import Calibration, calibration
from spike_ops._cost import choose, expected_seconds, looking_up, multiplying, rates_of
from spike_ops._event import block_width

V = TypeVar("V")
SHAPES = 4096  # whose ways are kept


class KeptByCosts(Generic[V]):
    """A function whose results are kept as long as one calibration is in use."""

    def __init__(self, find: Callable[..., V]) -> None:
        self._find = find
        self._kept: tuple[Calibration | None, dict[Any, V]] = (None, {})

    def __call__(self, *key: Any) -> V:
        """Return what the function finds."""
        costs, kept = calibration(), self._kept
        if kept[0] is not costs:
            kept = self._kept = (costs, {})
        if key not in kept[1]:
            if len(kept[1]) >= SHAPES:
                kept[1].clear()
            kept[1][key] = self._find(*key)
        return kept[1][key]


class Ways(NamedTuple):
    """Which counts of spikes go by additions, for one shape: the plan, without its seconds."""

    blocked: int  # from so many on, the weight is copied into blocks
    below: int  # by additions if fewer fired than this (all elements and more: always),
    below_blocked: int  # or than this, in blocks
    looked_up: bool  # else by tables, and not by a dense product

    def event(self, count: Callable[[], int]) -> bool:
        """Say whether S goes by additions; it is counted only where that decides."""
        if not self.below and self.below_blocked <= self.blocked:
            return False
        fired = count()
        return fired < (self.below if fired < self.blocked else self.below_blocked)


def _found_ways(
    rows: int, columns: int, width: int, dtype: torch.dtype, transposed: bool, turned: bool
) -> Ways:
    """Return for which counts of spikes `plan_product` decides for additions."""
    size, told = rows * columns, {"transposed": transposed, "turned": turned}

    def dense(count: int) -> bool:
        event, dense = expected_seconds(rows, columns, width, count, dtype, **told)
        return choose("auto", 0.0, event, dense).method == "dense"

    def in_blocks(count: int) -> bool:
        return block_width(columns, width, count, dtype.itemsize) < width

    blocked = bisect_left(range(size + 1), True, key=in_blocks)
    below = bisect_left(range(blocked), True, key=dense)
    after = bisect_left(range(blocked, size + 1), True, key=dense)
    rate = rates_of(dtype)
    pays = looking_up(rows, columns, width, dtype) < multiplying(rows, columns, width, rate)
    # always by additions, if by additions up to the last count there is
    all_of_them = below == blocked and blocked + after == size + 1
    return Ways(blocked, size + 1 if all_of_them else below, blocked + after, pays)


ways = KeptByCosts(_found_ways)
