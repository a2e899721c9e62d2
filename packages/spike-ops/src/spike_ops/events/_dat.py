"""Prophesee's `.dat` (N-Cars): a text header, two bytes, then 64-bit records.

After lines that begin with % stand the type of the events (0, or 12 for change detection) and the
size of a record (8). A record has 32 bits of time in microseconds, then 14 bits of x, 14 of y and
4 of polarity, little-endian.
"""

import numpy as np

from spike_ops.events._decoded import Decoded, Sensor, header_lines, known_size, records, size_in
from spike_ops.events._errors import Broken
from spike_ops.events._events import Events

RECORD = np.dtype([("time", "<u4"), ("word", "<u4")])
TYPES = (0, 12)


def decode(data: bytes, sensor: Sensor | None) -> Decoded:
    """Return the events of 64-bit records."""
    lines, start = header_lines(data, b"%")
    if len(data) < start + 2:
        raise Broken(start, "the header must be followed by the type and size of events")
    kind, size = data[start : start + 2]
    if lines and (kind not in TYPES or size != RECORD.itemsize):
        got = f"type {kind} of {size} bytes"
        raise Broken(start, f"events must be of type 0 or 12 and have 8 bytes, got {got}")
    if not lines:
        raise Broken(0, f"the file must begin with a header of % lines, got {data[:10]!r}")
    start += 2
    held = records(data, start, RECORD)
    word, t = held["word"].astype(np.int64), held["time"].astype(np.int64)
    if len(wrong := np.flatnonzero(word >> 29)):
        rule = f"a polarity must be 0 or 1, got {word[wrong[0]] >> 28}"
        raise Broken(start + 8 * wrong[0] + 4, rule)
    size_told = known_size(sensor, _size(lines))
    at = range(start, len(data), RECORD.itemsize)
    return Decoded(word & 0x3FFF, word >> 14 & 0x3FFF, t, word >> 28 == 1, at, size_told)


def encode(events: Events) -> bytes:
    """Return a file of change detection events.

    Raises:
        ValueError: A pixel does not fit into 14 bits, or a time into 32.
    """
    if max(events.width, events.height) > 2**14:
        size = f"{events.width}x{events.height}"
        raise ValueError(f"a sensor in .dat must have sides of at most 2^14, got {size}")
    if len(events) and not 0 <= events.t[0] <= events.t[-1] < 2**32:
        raise ValueError(f"t must be in 0..2^32 - 1 in .dat, got {events.t[0]}..{events.t[-1]}")
    rows = np.empty(len(events), RECORD)
    rows["time"] = events.t
    word = events.x.astype(np.uint32) | events.y.astype(np.uint32) << 14
    rows["word"] = word | events.p.astype(np.uint32) << 28
    lines = ["Data file containing CD events", "Version 2"]
    lines += [f"Height {events.height}", f"Width {events.width}"]
    header = "".join(f"% {line}\n" for line in lines).encode()
    return header + bytes([12, RECORD.itemsize]) + rows.tobytes()


def _size(lines: list[str]) -> Sensor | None:
    # the two lines come in either order
    told = "\n".join(sorted(line for line in lines if line.startswith(("% Height", "% Width"))))
    pattern = r"% Height (?P<height>\d+)\s+% Width (?P<width>\d+)"
    return size_in([told], pattern)
