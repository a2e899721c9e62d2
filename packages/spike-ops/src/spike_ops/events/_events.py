"""Events: columns x, y, t, p of one recording, in the order of time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from spike_ops._checked import whole_number

Column = npt.NDArray[Any]
LARGEST_SIDE = 2**16
# the end of a recording, just after its last event, is a number of 64 bits as well
LATEST = 2**63 - 1


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """Return events as columns, ordered by time and inside their sensor.

    Event i happened at pixel (x[i], y[i]) and time t[i]; p[i] says whether it got brighter (on).
    The columns are read-only. `events[a:b]`, `events[mask]` and `between` return events again.

    Args:
        x: Column of the pixel, 0 at the left: [n] of integers.
        y: Row of the pixel, 0 at the top: [n] of integers.
        t: Time in microseconds, never decreasing: [n] of integers.
        p: Polarity, True (or 1) for on: [n].
        width: Pixels in a row of the sensor.
        height: Rows of the sensor.

    Raises:
        TypeError: A column is not of integers, a side no number.
        ValueError: The columns differ in length, leave the sensor or go back in time.

    Example:
        >>> events = Events([0, 3, 1], [0, 1, 1], [10, 20, 40], [1, 0, 1], width=4, height=2)
        >>> events
        Events(3 events, 4x2, 10..40 us)
        >>> events.between(15, 45).x
        array([3, 1], dtype=uint16)
    """

    x: Column
    y: Column
    t: Column
    p: Column
    width: int = field(kw_only=True)
    height: int = field(kw_only=True)

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            size = whole_number(name, getattr(self, name))
            object.__setattr__(self, name, size)
            if not 1 <= size <= LARGEST_SIDE:
                raise ValueError(f"{name} must be in 1..{LARGEST_SIDE}, got {size}")
        columns = {name: _integers(name, getattr(self, name)) for name in "xytp"}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"x, y, t and p must have one length, got {lengths}")
        _check_range("x", columns["x"], self.width)
        _check_range("y", columns["y"], self.height)
        _check_range("p", columns["p"], 2)
        if len(columns["t"]) and columns["t"].max() >= LATEST:
            raise ValueError(f"t must be below 2^63 - 1, got {columns['t'].max()}")
        if len(back := goes_back(columns["t"])):
            first, then = columns["t"][back[0] : back[0] + 2]
            raise ValueError(f"t must never decrease, got {then} after {first} at {back[0] + 1}")
        kinds = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.bool_}
        for name, column in columns.items():
            stored: Column = column.astype(kinds[name])  # a copy: what it came from may change
            stored.flags.writeable = False
            object.__setattr__(self, name, stored)

    @classmethod
    def sorted(
        cls, x: Column, y: Column, t: Column, p: Column, *, width: int, height: int
    ) -> "Events":
        """Return events given in any order, sorted by time; equal times keep their order."""
        x, y, t, p = (np.asarray(each) for each in (x, y, t, p))
        if t.ndim == 1 and {each.shape for each in (x, y, p)} == {t.shape}:  # else refused below
            order = np.argsort(t, kind="stable")
            x, y, t, p = (each[order] for each in (x, y, t, p))
        return cls(x, y, t, p, width=width, height=height)

    @classmethod
    def empty(cls, *, width: int, height: int) -> "Events":
        """Return no events of a sensor."""
        none = np.zeros(0, np.int64)
        return cls(none, none, none, none, width=width, height=height)

    @property
    def duration(self) -> int:
        """Microseconds from the first event to the last; 0 without events."""
        return int(self.t[-1]) - int(self.t[0]) if len(self) else 0

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: Any) -> "Events":
        """Return the events of a slice or of a mask (or of ascending row numbers)."""
        if isinstance(rows, int | np.integer):
            raise TypeError(f"events take a slice or a mask, got the number {rows}")
        return self.like(self.x[rows], self.y[rows], self.t[rows], self.p[rows])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Events):
            return NotImplemented
        size = (self.width, self.height) == (other.width, other.height)
        pairs = [(getattr(self, name), getattr(other, name)) for name in "xytp"]
        return size and all(np.array_equal(ours, theirs) for ours, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        span = f", {self.t[0]}..{self.t[-1]} us" if len(self) else ""
        return f"Events({len(self)} events, {self.width}x{self.height}{span})"

    def like(self, x: Column, y: Column, t: Column, p: Column) -> "Events":
        """Return other events of the same sensor."""
        return Events(x, y, t, p, width=self.width, height=self.height)

    def between(self, start: int, stop: int) -> "Events":
        """Return the events with start <= t < stop, in microseconds."""
        bounds = [min(max(time, -LATEST - 1), LATEST) for time in (start, stop)]
        first, last = np.searchsorted(self.t, bounds)
        return self[first : max(first, last)]

    def since_start(self) -> "Events":
        """Return the events with the first at t = 0.

        Raises:
            ValueError: The recording is longer than times can tell.
        """
        if self.duration >= LATEST:
            raise ValueError(f"the recording must be shorter than 2^63 - 1, got {self.duration}")
        return self.like(self.x, self.y, self.t - self.t[:1], self.p)


def concat(parts: Sequence[Events]) -> Events:
    """Return the events of several recordings of one sensor as one, merged by time.

    Events of equal times come in the order of the parts.

    Raises:
        ValueError: There are no parts, or their sensors differ.
        TypeError: `parts` are one recording alone.

    Example:
        >>> late = Events([0], [0], [30], [1], width=2, height=2)
        >>> early = Events([1], [1], [10], [0], width=2, height=2)
        >>> concat([late, early]).t
        array([10, 30])
    """
    if isinstance(parts, Events):
        raise TypeError("parts must be several recordings, got one Events")
    sizes = sorted({(part.width, part.height) for part in parts})
    if len(sizes) != 1:
        raise ValueError(f"parts must be events of one sensor size, got {sizes}")
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in "xytp"]
    return Events.sorted(*columns, width=sizes[0][0], height=sizes[0][1])


def goes_back(t: Column) -> Column:
    """Return the rows after which a time is smaller; differences might overflow."""
    return np.flatnonzero(t[1:] < t[:-1])


def _integers(name: str, values: Any) -> Column:
    column = np.asarray(values)
    if column.ndim != 1:
        raise ValueError(f"{name} must have one axis, got shape {column.shape}")
    if not column.size:
        return column.astype(np.int64)
    if column.dtype.kind not in "bui":
        unit = " (microseconds)" if name == "t" else ""
        raise TypeError(f"{name} must hold integers{unit}, got {column.dtype}")
    if column.dtype == np.uint64 and column.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit into 63 bits, got {column.max()}")
    # unsigned differences would never be negative
    return column if column.dtype.kind == "b" else column.astype(np.int64, copy=False)


def _check_range(name: str, column: Column, limit: int) -> None:
    if column.dtype.kind == "b":
        return
    if len(wrong := np.flatnonzero((column < 0) | (column >= limit))):
        got = f"{column[wrong[0]]} at {wrong[0]}"
        raise ValueError(f"{name} must be in 0..{limit - 1}, got {got}")
