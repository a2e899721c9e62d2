"""What a format's reader makes of bytes, and the rules that all formats share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spike_ops.events._errors import Broken
from spike_ops.events._events import LARGEST_SIDE, Column, Events, goes_back

Order = Literal["check", "sort"]
Sensor = tuple[int, int]


@dataclass(frozen=True)
class Decoded:
    """Columns as they stand in a file, the byte that each event begins at, and the sensor."""

    x: Column
    y: Column
    t: Column
    p: Column
    at: Sequence[int] | Column
    sensor: Sensor


def to_events(decoded: Decoded, order: Order) -> Events:
    """Return the events of a file, or raise what it breaks.

    Raises:
        Broken: A pixel is off the sensor, or a time goes back and `order` is "check".
    """
    width, height = decoded.sensor
    for name, column, size in (("x", decoded.x, width), ("y", decoded.y, height)):
        if len(wrong := np.flatnonzero(column >= size)):
            first = wrong[0]
            rule = f"{name} must be below {size} on this sensor, got {column[first]}"
            rule += "; sensor=(width, height) tells another size"
            raise Broken(decoded.at[first], rule)
    columns = decoded.x, decoded.y, decoded.t, decoded.p
    if order == "sort":
        return Events.sorted(*columns, width=width, height=height)
    if len(back := goes_back(decoded.t)):
        first = back[0] + 1
        rule = f"time must never decrease, got {decoded.t[first]} after {decoded.t[first - 1]}"
        raise Broken(decoded.at[first], rule + "; order='sort' reads such files")
    return Events(*columns, width=width, height=height)


def header_lines(data: bytes, mark: bytes) -> tuple[list[str], int]:
    """Return the lines at the beginning that start with a mark, and the byte after them."""
    lines, place = [], 0
    while data.startswith(mark, place):
        end = data.find(b"\n", place)
        if end < 0:
            raise Broken(place, "a line of the header must end in a newline, the file ends before")
        lines.append(data[place:end].decode("latin-1").rstrip("\r"))
        place = end + 1
    return lines, place


def records(data: bytes, start: int, dtype: np.dtype[Any]) -> Column:
    """Return the records from a byte to the end of the file.

    Raises:
        Broken: The last one is cut off.
    """
    size = dtype.itemsize
    if rest := (len(data) - start) % size:
        rule = f"records must have {size} bytes, the last one has {rest}"
        raise Broken(len(data) - rest, rule)
    return np.frombuffer(data, dtype, offset=start)


def size_in(lines: list[str], pattern: str) -> Sensor | None:
    """Return the sensor size that a header tells by `width` and `height` groups, if it does."""
    found = re.search(pattern, "\n".join(lines))
    if found is None:
        return None
    size = int(found["width"][:9]), int(found["height"][:9])
    if not all(1 <= side <= LARGEST_SIDE for side in size):
        raise Broken(0, f"the sensor's sides must be in 1..{LARGEST_SIDE}, got {size[0]}x{size[1]}")
    return size


def known_size(asked: Sensor | None, told: Sensor | None) -> Sensor:
    """Return the sensor size that the caller gives, else the header's.

    Raises:
        Broken: Neither does.
    """
    size = asked or told
    if size is None:
        raise Broken(0, "the header must tell the size of the sensor; sensor=(width, height) does")
    return size
