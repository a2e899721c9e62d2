"""AEDAT 3.1 (DVS128 Gesture; `.aedat`): packets of events behind a text header.

A packet has a header of 28 bytes, little-endian: type, source, size of an event, where its time
stands, overflows of the clock, capacity, number and valid events. A polarity event has 32 bits of
data (bit 0 valid, bit 1 polarity, bits 2-16 y, bits 17-31 x) and 31 bits of time in microseconds.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spike_ops.events._decoded import Decoded, Sensor, header_lines, known_size, size_in
from spike_ops.events._errors import Broken
from spike_ops.events._events import Column, Events

PACKET = struct.Struct("<hhiiiiii")
EVENT = np.dtype([("data", "<u4"), ("time", "<u4")])
POLARITY = 1
LARGEST_PACKET = 4096
# cameras that name themselves in the header instead of their size
CAMERAS = {"DVS128": (128, 128), "DAVIS240": (240, 180), "DAVIS346": (346, 260)}


class Packet(NamedTuple):
    """One packet: where its events begin, what they are and how many."""

    start: int
    kind: int
    size: int
    overflow: int
    number: int


def matches(data: bytes) -> bool:
    """Say whether the bytes call themselves AEDAT 3."""
    return data.startswith(b"#!AER-DAT3")


def decode(data: bytes, sensor: Sensor | None) -> Decoded:
    """Return the polarity events of all packets."""
    if not matches(data):
        raise Broken(0, f"the file must begin with #!AER-DAT3, got {data[:10]!r}")
    lines, start = header_lines(data, b"#")
    layout = next((line for line in lines if line.startswith("#Format:")), "#Format: RAW")
    if layout.split(":", 1)[1].strip() != "RAW":
        raise Broken(0, f"the format must be RAW, got {layout[8:80].strip()!r}")
    size = known_size(sensor, _size(lines))
    polarity = [packet for packet in packets(data, start) if packet.kind == POLARITY]
    parts = [np.frombuffer(data, EVENT, packet.number, packet.start) for packet in polarity]
    held = np.concatenate([np.zeros(0, EVENT), *parts])
    each = [packet.number for packet in polarity]
    epoch = np.repeat(np.array([packet.overflow for packet in polarity], np.int64), each)
    within = np.arange(len(held)) - np.repeat(np.cumsum([0, *each])[:-1].astype(np.int64), each)
    at = np.repeat(np.array([packet.start for packet in polarity], np.int64), each) + 8 * within
    return _columns(held, epoch, at, size)


def _columns(held: Column, epoch: Column, at: Column, size: Sensor) -> Decoded:
    if len(wrong := np.flatnonzero(held["time"] >> 31)):
        rule = f"a time must have 31 bits, got {held['time'][wrong[0]]:#x}"
        raise Broken(at[wrong[0]] + 4, rule)
    kept = np.flatnonzero(held["data"] & 1)
    word, t = held["data"][kept].astype(np.int64), held["time"][kept].astype(np.int64)
    x, y = word >> 17 & 0x7FFF, word >> 2 & 0x7FFF
    return Decoded(x, y, epoch[kept] << 31 | t, word >> 1 & 1 == 1, at[kept], size)


def packets(data: bytes, start: int) -> Iterator[Packet]:
    """Yield the packets from a byte to the end of the file.

    Raises:
        Broken: A header makes no sense, or the file ends inside a packet.
    """
    while start < len(data):
        left = len(data) - start - PACKET.size
        if left < 0:
            raise Broken(start, f"a packet's header must have 28 bytes, {left + 28} are left")
        kind, _, size, _, overflow, capacity, number, valid = PACKET.unpack_from(data, start)
        if not (kind >= 0 and size >= 0 and overflow >= 0 and 0 <= valid <= number <= capacity):
            got = f"type {kind}, size {size}, {overflow} overflows, {valid}/{number}/{capacity}"
            raise Broken(start, f"a packet must hold valid <= number <= capacity, got {got}")
        if kind == POLARITY and size != EVENT.itemsize:
            raise Broken(start + 4, f"a polarity event must have 8 bytes, got {size}")
        if size * number > left:
            raise Broken(start, f"a packet must hold {size * number} bytes, {left} are left")
        yield Packet(start + PACKET.size, kind, size, overflow, number)
        start += PACKET.size + size * number


def encode(events: Events) -> bytes:
    """Return the events in packets of at most 4096.

    Raises:
        ValueError: A pixel does not fit into 15 bits, or a time is out of range.
    """
    if max(events.width, events.height) > 2**15:
        size = f"{events.width}x{events.height}"
        raise ValueError(f"a sensor in AEDAT 3 must have sides of at most 2^15, got {size}")
    if len(events) and not 0 <= events.t[0] <= events.t[-1] < 2**62:
        raise ValueError(f"t must be in 0..2^62 - 1, got {events.t[0]}..{events.t[-1]}")
    rows = np.empty(len(events), EVENT)
    word = events.x.astype(np.uint32) << 17 | events.y.astype(np.uint32) << 2
    rows["data"] = word | events.p.astype(np.uint32) << 1 | 1
    rows["time"] = events.t & (2**31 - 1)
    turns = np.flatnonzero(np.diff(events.t >> 31)) + 1
    borders = np.union1d(turns, np.arange(0, len(events), LARGEST_PACKET)).astype(int)
    parts = [_packet(part, rows, events) for part in np.split(np.arange(len(events)), borders)]
    return _header(events.width, events.height) + b"".join(parts)


def _packet(part: Column, rows: Column, events: Events) -> bytes:
    if not len(part):
        return b""
    overflow, number = int(events.t[part[0]] >> 31), len(part)
    head = PACKET.pack(POLARITY, 1, EVENT.itemsize, 4, overflow, number, number, number)
    return head + rows[part].tobytes()


def _header(width: int, height: int) -> bytes:
    lines = ["#!AER-DAT3.1", "#Format: RAW", f"#Size: {width}x{height}", "#!END-HEADER"]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _size(lines: list[str]) -> Sensor | None:
    text = "\n".join(lines)
    named = next((size for camera, size in CAMERAS.items() if camera in text), None)
    return size_in(lines, r"#Size: (?P<width>\d+)x(?P<height>\d+)") or named
