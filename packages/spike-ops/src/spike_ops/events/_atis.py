"""The 40-bit records of N-MNIST and N-Caltech101 (`.bin`).

Byte 0 is x, byte 1 is y, bit 7 of byte 2 the polarity, the other 23 bits the time in
microseconds. A record with y = 240 is no event: from there on 2^13 is added to the times.

Source: G. Orchard et al., "Converting static image datasets to spiking neuromorphic datasets using
saccades", Frontiers in Neuroscience 2015.
"""

import numpy as np

from spike_ops.events._decoded import Decoded, Sensor, records
from spike_ops.events._events import Events

RECORD = np.dtype((np.void, 5))
OVERFLOW_ROW = 240
OVERFLOW = 2**13
LARGEST_TIME = 2**23 - 1
# a longer recording would be almost nothing but overflow records
LONGEST = 2**27


def decode(data: bytes, sensor: Sensor) -> Decoded:
    """Return the events of 40-bit records."""
    held = records(data, 0, RECORD).view(np.uint8).reshape(-1, 5).astype(np.int64)
    x, y, high, middle, low = held.T
    overflow = y == OVERFLOW_ROW
    t = ((high & 0x7F) << 16 | middle << 8 | low) + OVERFLOW * np.cumsum(overflow)
    kept = np.flatnonzero(~overflow)
    return Decoded(x[kept], y[kept], t[kept], high[kept] >> 7 == 1, kept * 5, sensor)


def encode(events: Events) -> bytes:
    """Return the 40-bit records of events.

    Raises:
        ValueError: A pixel or a time does not fit.
    """
    for name, column, largest in (
        ("x", events.x, 255),
        ("y", events.y, OVERFLOW_ROW - 1),
        ("t", events.t, LONGEST),
    ):
        if len(column) and not 0 <= column.min() <= column.max() <= largest:
            got = f"{column.min()}..{column.max()}"
            raise ValueError(f"{name} must be in 0..{largest} in 40-bit records, got {got}")
    needed = np.maximum(0, -((LARGEST_TIME - events.t) // OVERFLOW))
    added = np.diff(needed, prepend=0)
    t = events.t - OVERFLOW * needed
    rows = np.empty((len(events), 5), np.uint8)
    rows[:, 0], rows[:, 1] = events.x, events.y
    rows[:, 2] = events.p.astype(np.int64) << 7 | t >> 16
    rows[:, 3], rows[:, 4] = t >> 8 & 0xFF, t & 0xFF
    overflow = np.array([0, OVERFLOW_ROW, 0, 0, 0], np.uint8)
    return np.insert(rows, np.repeat(np.arange(len(events)), added), overflow, axis=0).tobytes()
