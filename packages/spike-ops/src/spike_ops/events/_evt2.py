"""EVT 2.0 (`.raw`): 32-bit words, little-endian.

Bits 28-31 are the type: 0 off, 1 on, 8 the upper 28 bits of the time; others hold no events of
pixels. An event has the lower 6 bits of the time (22-27), x (11-21) and y (0-10). Events before
the first time word have no time and are left out.
"""

import numpy as np

from spike_ops.events._decoded import Decoded, Sensor, known_size, records
from spike_ops.events._events import Events
from spike_ops.events._evt import (
    check_kinds,
    header,
    last_before,
    unwrapped,
    version_of,
    written_header,
)

WORD = np.dtype("<u4")
TIME_HIGH = 8
KNOWN = np.isin(np.arange(16), [0, 1, TIME_HIGH, 0xA, 0xE, 0xF])
LOW_BITS = 6
PERIOD = 2**28  # of the time words


def matches(data: bytes) -> bool:
    """Say whether the header tells this version."""
    return version_of(data) == "2.0"


def decode(data: bytes, sensor: Sensor | None) -> Decoded:
    """Return the events of 32-bit words."""
    told, start = header(data, "2.0")
    word = records(data, start, WORD).astype(np.int64)
    kind = word >> 28
    check_kinds(kind, KNOWN, start, WORD.itemsize)
    is_high = kind == TIME_HIGH
    base = last_before(is_high)
    high = np.zeros(len(word), np.int64)
    high[is_high] = unwrapped(word[is_high] & (PERIOD - 1), PERIOD)
    kept = np.flatnonzero((kind <= 1) & (base >= 0))
    event = word[kept]
    t = high[base[kept]] << LOW_BITS | event >> 22 & 0x3F
    at = start + WORD.itemsize * kept
    size = known_size(sensor, told)
    return Decoded(event >> 11 & 0x7FF, event & 0x7FF, t, kind[kept] == 1, at, size)


def encode(events: Events) -> bytes:
    """Return the words of events.

    Raises:
        ValueError: A pixel does not fit into 11 bits, or a time into 34.
    """
    if max(events.width, events.height) > 2**11:
        size = f"{events.width}x{events.height}"
        raise ValueError(f"a sensor in EVT 2 must have sides of at most 2^11, got {size}")
    if len(events) and not 0 <= events.t[0] <= events.t[-1] < 2**34:
        raise ValueError(f"t must be in 0..2^34 - 1 in EVT 2, got {events.t[0]}..{events.t[-1]}")
    x, y = events.x.astype(np.int64), events.y.astype(np.int64)
    low = events.t & (2**LOW_BITS - 1)
    word = events.p.astype(np.int64) << 28 | low << 22 | x << 11 | y
    high = events.t >> LOW_BITS
    turns = np.flatnonzero(np.diff(high, prepend=-1))
    word = np.insert(word, turns, TIME_HIGH << 28 | high[turns])
    return written_header("2.0", events.width, events.height) + word.astype(WORD).tobytes()
