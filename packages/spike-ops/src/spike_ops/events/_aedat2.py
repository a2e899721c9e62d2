"""AEDAT 2 with the addresses of a DVS128 (CIFAR10-DVS and recordings of jAER; `.aedat`).

Lines that begin with #, then big-endian pairs of a 32-bit address and a 32-bit time in
microseconds. Bit 0 of the address is zero for on, bits 1-7 are 127 - x, bits 8-14 count the rows
from the bottom; with bit 15 the record is no event of a pixel. The format does not tell the size of
a crop; a comment of the header does here.
"""

import numpy as np

from spike_ops.events._decoded import Decoded, Sensor, header_lines, records, size_in
from spike_ops.events._errors import Broken
from spike_ops.events._events import Events

RECORD = np.dtype([("address", ">u4"), ("time", ">u4")])
SIDE = 128
SPECIAL = 1 << 15
SIZE = "# Size: "


def matches(data: bytes) -> bool:
    """Say whether the bytes call themselves AEDAT 2."""
    return data.startswith(b"#!AER-DAT2")


def decode(data: bytes, sensor: Sensor | None) -> Decoded:
    """Return the events of a DVS128's recording."""
    if not matches(data):
        raise Broken(0, f"the file must begin with #!AER-DAT2, got {data[:10]!r}")
    lines, start = header_lines(data, b"#")
    chip = next((line for line in lines if "AEChip:" in line), "")
    if chip and "128" not in chip:
        raise Broken(0, f"the addresses must be those of a DVS128, got {chip[:80]!r}")
    held = records(data, start, RECORD)
    address = held["address"].astype(np.int64)
    if len(wrong := np.flatnonzero(address >= 1 << 16)):
        rule = f"an address of a DVS128 must have 16 bits, got {address[wrong[0]]:#x}"
        raise Broken(start + 8 * wrong[0], rule)
    kept = np.flatnonzero(address & SPECIAL == 0)
    address, t = address[kept], held["time"][kept].astype(np.int64)
    x, y = SIDE - 1 - (address >> 1 & 0x7F), SIDE - 1 - (address >> 8 & 0x7F)
    size = sensor or size_in(lines, rf"{SIZE}(?P<width>\d+)x(?P<height>\d+)") or (SIDE, SIDE)
    return Decoded(x, y, t, address & 1 == 0, start + 8 * kept, size)


def encode(events: Events) -> bytes:
    """Return a DVS128's recording.

    Raises:
        ValueError: The sensor is larger, or a time does not fit into 31 bits.
    """
    if max(events.width, events.height) > SIDE:
        size = f"{events.width}x{events.height}"
        raise ValueError(f"AEDAT 2 is written for at most {SIDE}x{SIDE} pixels, got {size}")
    if len(events) and not 0 <= events.t[0] <= events.t[-1] < 2**31:
        raise ValueError(f"t must be in 0..2^31 - 1 in AEDAT 2, got {events.t[0]}..{events.t[-1]}")
    rows = np.empty(len(events), RECORD)
    x, y = SIDE - 1 - events.x.astype(np.int64), SIDE - 1 - events.y.astype(np.int64)
    rows["address"] = y << 8 | x << 1 | ~events.p
    rows["time"] = events.t
    lines = ["#!AER-DAT2.0", "# AEChip: DVS128", "# 32-bit address, 32-bit time in microseconds"]
    if (events.width, events.height) != (SIDE, SIDE):
        lines.append(f"{SIZE}{events.width}x{events.height}")
    return "".join(f"{line}\r\n" for line in lines).encode() + rows.tobytes()
