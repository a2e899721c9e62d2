"""The saved form of a bank: sizes, then one array after the other.

Version 1, after what `_envelope` says of all saved forms:

    n_sketches, n_features, sketch_size, buffer_size, used       uint64
    decay, scale                                                 float64
    delta [k], diagonal [k, d]                                   float64
    n_seen, n_skipped [k]                                        int64
    rows [k, sketch_size + buffer_size, d]                       dtype, none before any data

All rows are saved, also those of zeros that are not in use yet: no file claims more room than it
has itself.
"""

import math
import struct
from typing import NamedTuple

import numpy as np

from fd_sketch._buffer import FOLD_BELOW
from fd_sketch._consistency import ROUNDING, TINY
from fd_sketch._envelope import Reader, expect, little, sealed
from fd_sketch.functional import FDState

VERSION = 1
COUNTS, SCALARS = struct.Struct("<5Q"), struct.Struct("<2d")


class BankRecord(NamedTuple):
    """Arguments and state of a bank."""

    n_sketches: int
    n_features: int
    sketch_size: int
    buffer_size: int
    decay: float
    state: FDState | None  # numpy's; none before the first batch


def pack_bank(record: BankRecord) -> bytes:
    """Return the saved form of a bank."""
    k, d, state = record.n_sketches, record.n_features, record.state
    counts = (k, d, record.sketch_size, record.buffer_size)
    if state is None:
        none = np.zeros(k, dtype=np.int64)
        arrays = [np.zeros(k), np.zeros((k, d)), none, none]
        head = [COUNTS.pack(*counts, 0), SCALARS.pack(record.decay, 1.0)]
        return sealed("SketchBank", VERSION, "", 0, [*head, *map(little, arrays)])
    rows = np.concatenate([state.kept, state.fresh], axis=1)
    arrays = [state.delta, state.diagonal, state.n_seen, state.n_skipped, rows]
    head = [COUNTS.pack(*counts, int(state.used)), SCALARS.pack(record.decay, float(state.scale))]
    return sealed("SketchBank", VERSION, rows.dtype.name, 0, [*head, *map(little, arrays)])


def unpack_bank(data: bytes) -> BankRecord:
    """Return the bank of a saved form.

    Raises:
        TypeError: `data` is not bytes.
        ValueError: the data are not what `pack_bank` makes of a bank.
    """
    read = Reader(data, "SketchBank", VERSION, 0)
    k, d, size, extra, used = read.numbers(COUNTS)
    decay, scale = read.numbers(SCALARS)
    for name, n in zip(BankRecord._fields, (k, d, size, extra), strict=False):
        expect(n, name, "at least 1", n >= 1)
    expect(decay, "decay", "in (0, 1]", 0.0 < decay <= 1.0)
    arrays = [read.array(*wanted) for wanted in (("delta", (k,), "f8"), ("diagonal", (k, d), "f8"))]
    arrays += [read.array(name, (k,), "i8") for name in ("n_seen", "n_skipped")]
    if not read.dtype:
        read.finish()
        expect(used, "used", "0 without a dtype", used == 0)
        expect(scale, "scale", "1 without a dtype", scale == 1.0)
        expect("more", "n_seen", "0 with all else without a dtype", not any(map(np.any, arrays)))
        return BankRecord(k, d, size, extra, decay, None)
    rows = read.array("rows", (k, size + extra, d), read.dtype)
    read.finish()
    expect(used, "used", f"at most {size + extra}", used <= size + extra)
    state = FDState(rows[:, :size], rows[:, size:], np.array(used), np.array(scale), *arrays)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        _check(state, rows)
    return BankRecord(k, d, size, extra, decay, state)


def _check(state: FDState, rows: np.ndarray) -> None:
    """Check that some rows could have led to this state."""
    scale, delta, diagonal = float(state.scale), state.delta, state.diagonal
    expect(scale, "scale", f"in {FOLD_BELOW}..1", FOLD_BELOW <= scale <= 1.0)
    for name in ("delta", "diagonal", "n_seen", "n_skipped"):
        values = getattr(state, name)
        expect(float(values.min()), name, "at least 0", bool((values >= 0).all()))
    unused = rows[:, int(state.used) :]
    expect("more", "rows", "zero from the first unused one on", not unused.any())
    total = diagonal.sum(axis=1)
    expect("infinite", "diagonal", "of a finite sum", math.isfinite(float(total.sum())))
    room = ROUNDING * total + TINY
    squares = np.sum(np.square(rows.astype(np.float64) * scale), axis=1)
    within = bool((squares <= diagonal + room[:, None]).all())
    expect("more in a column", "rows", "within the diagonal", within)
    lost = bool((delta <= total - squares.sum(axis=1) + room).all())
    expect("more", "delta", "at most the mass that is lost", lost)
    none = state.n_seen == 0
    empty = not (total[none].any() or delta[none].any() or squares[none].any())
    expect("more", "diagonal", "0 with all else where no row was seen", empty)
