"""The saved form of a sliding window: sizes, then epoch by epoch, then all rows.

Version 1, after what `_envelope` says of all saved forms:

    n_features, sketch_size, window, buffer_size, end, n_skipped     uint64
    n_epochs, rows of D, fresh rows                                  uint64
    fresh_mass, grain                                                float64
    for the last epoch before the window and all epochs within:
        end, n_rows                                                  uint64
        mass, residual, delta, energy                                float64
    rows of the epochs, of D and fresh, [n, d]                       dtype
"""

import math
import struct
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fd_sketch._consistency import ROUNDING, TINY
from fd_sketch._envelope import RAISE, Reader, expect, little, sealed
from fd_sketch._window import Epoch, Window

VERSION = 1
COUNTS, SCALARS, EPOCH = struct.Struct("<9Q"), struct.Struct("<2d"), struct.Struct("<2Q4d")


class WindowRecord(NamedTuple):
    """Arguments and state of a sketch of the newest rows."""

    n_features: int
    sketch_size: int
    window: int
    buffer_size: int
    nonfinite: str
    n_skipped: int
    dtype: str
    state: Window | None  # numpy's; none before the first batch


def pack_window(record: WindowRecord) -> bytes:
    """Return the saved form of a window."""
    state, d = record.state, record.n_features
    sizes = (d, record.sketch_size, record.window, record.buffer_size)
    flags = RAISE * (record.nonfinite == "raise")
    name = "SlidingFrequentDirections"
    if state is None:
        counts = COUNTS.pack(*sizes, 0, record.n_skipped, 0, 0, 0)
        return sealed(name, VERSION, "", flags, [counts, SCALARS.pack(0.0, 0.0)])
    held = (len(state.epochs), len(state.D), len(state.fresh))
    counts = COUNTS.pack(*sizes, state.end, record.n_skipped, *held)
    epochs = [
        EPOCH.pack(e.end, len(e.rows), e.mass, e.residual, e.delta, e.energy)
        for e in (state.before, *state.epochs)
    ]
    parts = [counts, SCALARS.pack(state.fresh_mass, state.grain), *epochs, little(state.rows)]
    return sealed(name, VERSION, record.dtype, flags, parts)


def unpack_window(data: bytes) -> WindowRecord:
    """Return the window of a saved form.

    Raises:
        TypeError: `data` is not bytes.
        ValueError: the data are not what `pack_window` makes of a window.
    """
    read = Reader(data, "SlidingFrequentDirections", VERSION, RAISE)
    expect(read.flags, "flags", f"0 or {RAISE}", read.flags in (0, RAISE))
    d, size, length, extra, end, n_skipped, n_epochs, n_D, n_fresh = read.numbers(COUNTS)
    for name, n in zip(WindowRecord._fields, (d, size, length, extra), strict=False):
        expect(n, name, "at least 1", n >= 1)
    expect(extra, "buffer_size", f"at most {length}, the window", extra <= length)
    scalars = read.numbers(SCALARS)
    policy = "raise" if read.flags else "skip"
    record = WindowRecord(d, size, length, extra, policy, n_skipped, read.dtype, None)
    if not read.dtype:
        read.finish()
        empty = not any((end, n_skipped, n_epochs, n_D, n_fresh, *scalars))
        expect("more", "end", "0 with all else without a dtype", empty)
        return record
    state = _window(read, d, end, (n_epochs, n_D, n_fresh), scalars)
    expect(n_D, "rows of D", f"at most {size}", n_D <= size)
    expect(n_fresh, "fresh rows", f"fewer than {extra}", n_fresh < extra)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        _check(state, length)
    return record._replace(state=state)


def _window(
    read: Reader, d: int, end: int, held: tuple[int, int, int], scalars: tuple[float, ...]
) -> Window:
    """Return the window that the epochs and rows of a file make."""
    n_epochs, n_D, n_fresh = held
    # each of them takes room in the file, which is all there is
    heads = [read.numbers(EPOCH) for _ in range(n_epochs + 1)]
    kept = [head[1] for head in heads]
    rows = read.array("rows", (sum(kept) + n_D + n_fresh, d), read.dtype)
    read.finish()
    *parts, D, fresh = np.split(rows, np.cumsum([*kept, n_D]))
    epochs = [
        Epoch(head[0], head[2], head[3], head[4], part, head[5])
        for head, part in zip(heads, parts, strict=True)
    ]
    return Window(tuple(epochs[1:]), epochs[0], D, fresh, scalars[0], end, scalars[1])


def _check(state: Window, length: int) -> None:
    """Check that some rows could have led to this state."""
    epochs = (state.before, *state.epochs)
    for name, values in (
        ("fresh_mass", [state.fresh_mass]),
        ("grain", [state.grain]),
        *((n, [getattr(e, n) for e in epochs]) for n in ("mass", "residual", "delta", "energy")),
    ):
        fine = all(0.0 <= value < math.inf for value in values)
        expect(min(values), name, "finite and not negative", fine)
    _check_times(state, length)
    rising = all(a.delta <= b.delta for a, b in pairwise(epochs))
    expect("falling", "delta", "rising from epoch to epoch", rising)
    expect(len(state.before.rows), "n_rows before the window", "0", not len(state.before.rows))
    for name, rows, mass in (
        *(("energy", epoch.rows, epoch.energy) for epoch in epochs),
        ("fresh_mass", state.fresh, state.fresh_mass),
    ):
        energy = float(np.sum(np.square(rows.astype(np.float64))))
        fine = abs(energy - mass) <= ROUNDING * mass + TINY
        expect(mass, name, f"{energy}, that of the rows", fine)
    norms = np.sum(np.square(state.D.astype(np.float64)), axis=1)
    expect("infinite", "rows of D", "of a finite norm", bool(np.isfinite(norms).all()))
    largest, held = float(norms.max(initial=0.0)), ROUNDING * state.mass + TINY
    last = epochs[-1].residual
    expect(last, "residual", f"{largest}, that of D", abs(last - largest) <= held)


def _check_times(state: Window, length: int) -> None:
    """Check that the epochs follow each other, up to the fresh rows, and lie in the window."""
    ends = [epoch.end for epoch in (state.before, *state.epochs)]
    expect("another order", "end", "rising", all(a < b for a, b in pairwise(ends)))
    fresh = state.end - ends[-1]
    expect(
        len(state.fresh),
        "fresh rows",
        f"{fresh}, those since the last epoch",
        fresh == len(state.fresh),
    )
    start = state.end - length
    inside = all(end > start for end in ends[1:])
    expect("outside", "end", "in the window for all epochs but the first", inside)
    expect(ends[0], "end before the window", f"at most {max(start, 0)}", ends[0] <= max(start, 0))
