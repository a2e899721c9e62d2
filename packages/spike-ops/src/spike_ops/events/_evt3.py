"""EVT 3.0 (`.raw`): 16-bit words, little-endian, each changing a part of the state.

Bits 12-15 are the type: 0 the row y; 2 an event at x (polarity in bit 11); 3 the x and polarity
that the next vectors begin at; 4 and 5 vectors of 12 and 8 pixels, one bit each; 6 and 8 the lower
and the upper 12 bits of the time; others hold no events of pixels. Events before the first time
and row have none and are left out.
"""

import numpy as np

from spike_ops.events._decoded import Decoded, Sensor, known_size, records
from spike_ops.events._errors import Broken
from spike_ops.events._events import Column, Events
from spike_ops.events._evt import (
    check_kinds,
    header,
    last_before,
    unwrapped,
    version_of,
    written_header,
)

WORD = np.dtype("<u2")
ROW, AT_X, BASE_X, VECTOR_12, VECTOR_8, TIME_LOW, TIME_HIGH = 0, 2, 3, 4, 5, 6, 8
KNOWN = np.isin(np.arange(16), [0, 2, 3, 4, 5, 6, 7, 8, 0xA, 0xE, 0xF])
PIXELS = np.where(np.arange(16) == VECTOR_12, 12, np.where(np.arange(16) == VECTOR_8, 8, 0))
PERIOD = 2**12  # of the time words
LONGEST = 2**40
# the largest jump between two time words that cannot be taken for a turn of the counter
JUMP = 2**10


def matches(data: bytes) -> bool:
    """Say whether the header tells this version."""
    return version_of(data) == "3.0"


def decode(data: bytes, sensor: Sensor | None) -> Decoded:
    """Return the events of 16-bit words."""
    told, start = header(data, "3.0")
    word = records(data, start, WORD).astype(np.int64)
    kind, value = word >> 12, word & 0xFFF
    check_kinds(kind, KNOWN, start, WORD.itemsize)
    row, time = last_before(kind == ROW), _times(kind, value)
    word_of, x, p = _pixels(kind, value, start)
    kept = (row[word_of] >= 0) & (time[word_of] >= 0)
    word_of, x, p = word_of[kept], x[kept], p[kept]
    y, at = value[row[word_of]] & 0x7FF, start + WORD.itemsize * word_of
    return Decoded(x, y, time[word_of], p == 1, at, known_size(sensor, told))


def _times(kind: Column, value: Column) -> Column:
    """Return the time at each word, -1 before the first."""
    is_high = kind == TIME_HIGH
    high = np.zeros(len(kind), np.int64)
    high[is_high] = unwrapped(value[is_high], PERIOD)
    upper, lower = last_before(is_high), last_before(kind == TIME_LOW)
    # a lower part from before the upper one belongs to another span
    low = np.where(lower > upper, value[lower], 0)
    return np.where(upper >= 0, high[upper] * PERIOD + low, -1)


def _pixels(kind: Column, value: Column, start: int) -> tuple[Column, Column, Column]:
    """Return the word, x and polarity of all events, in the order of the file."""
    base = last_before(kind == BASE_X)
    if len(wrong := np.flatnonzero((PIXELS[kind] > 0) & (base < 0))):
        raise Broken(start + WORD.itemsize * wrong[0], "a vector must follow a base x, none came")
    passed = np.cumsum(PIXELS[kind]) - PIXELS[kind]
    vectors = np.flatnonzero(PIXELS[kind])
    bits = value[vectors, None] >> np.arange(12) & 1
    bits &= np.arange(12) < PIXELS[kind[vectors], None]
    which, place = np.nonzero(bits)
    from_vector = vectors[which]
    of = base[from_vector]
    x = (value[of] & 0x7FF) + passed[from_vector] - passed[of] + place
    single = np.flatnonzero(kind == AT_X)
    word_of = np.concatenate([from_vector, single])
    order = np.argsort(word_of, kind="stable")
    xs = np.concatenate([x, value[single] & 0x7FF])
    polarity = np.concatenate([value[of] >> 11, value[single] >> 11])
    return word_of[order], xs[order], polarity[order]


def encode(events: Events) -> bytes:
    """Return the words of events, each with what changed since the one before it.

    Raises:
        ValueError: A pixel does not fit into 11 bits, or a time into 40.
    """
    if max(events.width, events.height) > 2**11:
        size = f"{events.width}x{events.height}"
        raise ValueError(f"a sensor in EVT 3 must have sides of at most 2^11, got {size}")
    if len(events) and not 0 <= events.t[0] <= events.t[-1] < LONGEST:
        raise ValueError(f"t must be in 0..2^40 - 1 in EVT 3, got {events.t[0]}..{events.t[-1]}")
    high, y, x = events.t >> 12, events.y.astype(np.int64), events.x.astype(np.int64)
    # four columns: upper time, lower time, row, event; then those that say nothing new go
    words = np.stack([
        TIME_HIGH << 12 | high & 0xFFF, TIME_LOW << 12 | events.t & 0xFFF,
        ROW << 12 | y, AT_X << 12 | events.p.astype(np.int64) << 11 | x,
    ], axis=1)  # fmt: skip
    new_time = np.diff(events.t, prepend=-1) != 0
    said = np.stack([
        np.diff(high, prepend=-1) != 0, new_time,
        np.diff(y, prepend=-1) != 0, np.ones(len(events), bool),
    ], axis=1)  # fmt: skip
    place = np.cumsum(said.ravel()).reshape(said.shape)[:, 0] - said[:, 0]
    upto, between = _steps(high)
    flat = np.insert(words[said], place[upto], TIME_HIGH << 12 | between & 0xFFF)
    return written_header("3.0", events.width, events.height) + flat.astype(WORD).tobytes()


def _steps(high: Column) -> tuple[Column, Column]:
    """Return upper times to put before events so that no jump is taken for a turn."""
    # the first word tells where the counter stands only within its period
    first = np.where(high[:1] < PERIOD, high[:1], -JUMP)
    before = np.concatenate([first, high[:-1]])
    needed = np.maximum(0, (high - before - 1) // JUMP)
    upto = np.repeat(np.arange(len(high)), needed)
    number = np.arange(len(upto)) - np.repeat(np.cumsum(needed) - needed, needed) + 1
    return upto, before[upto] + JUMP * number
