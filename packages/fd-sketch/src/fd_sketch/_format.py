"""The saved form of a sketch: a fixed header, three arrays, a checksum.

Version 2, after what `_envelope` says of all saved forms:

    n_features, sketch_size, buffer_size, n_rows, n_seen, n_skipped     uint64
    decay, weight, total, delta, scale, alpha                           float64
    mean, diagonal           float64 [n_features] each
    rows                     [n_rows, n_features], float64 for ExactGram, else dtype

Version 1 has no alpha, which is 1 there. It is read, and written no more.
"""

import math
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from fd_sketch._consistency import check_consistent
from fd_sketch._envelope import (
    CENTER,
    CHECKSUM,
    DTYPES,
    MAGIC,
    METHODS,
    RAISE,
    as_bytes,
    code_of,
    expect,
    is_signed,
    little,
    signed,
)
from fd_sketch._moments import Moments

VERSION = 2
OWN = ("FrequentDirections", "ExactGram")
HEADERS = {1: struct.Struct("<8sHBBB3s6Q5d"), 2: struct.Struct("<8sHBBB3s6Q6d")}
HEADER = HEADERS[VERSION]
FIELDS = (
    *("magic", "version", "method", "dtype", "flags", "reserved"),
    *("n_features", "sketch_size", "buffer_size", "n_rows", "n_seen", "n_skipped"),
    *("decay", "weight", "total", "delta", "scale", "alpha"),
)
# by the same name in header and record
SAME = ("decay", "sketch_size", "buffer_size", "delta", "scale", "alpha")


class Record(NamedTuple):
    """Everything that is saved."""

    method: str
    dtype: str
    center: bool
    nonfinite: str
    decay: float
    moments: Moments
    rows: np.ndarray  # [n, d]
    sketch_size: int = 0
    buffer_size: int = 0
    delta: float = 0.0
    scale: float = 1.0
    alpha: float = 1.0


def pack(record: Record) -> bytes:
    """Return the saved form of a record."""
    m, d = record.moments, record.rows.shape[1]
    codes = code_of(METHODS, record.method), code_of(DTYPES, record.dtype)
    flags = CENTER * record.center | RAISE * (record.nonfinite == "raise")
    counts = (d, record.sketch_size, record.buffer_size, len(record.rows), m.n_seen, m.n_skipped)
    numbers = (record.decay, m.weight, m.total, record.delta, record.scale, record.alpha)
    head = HEADER.pack(MAGIC, VERSION, *codes, flags, bytes(3), *counts, *numbers)
    return signed(b"".join((head, *map(little, (m.mean, m.diagonal, record.rows)))))


def unpack(data: bytes, method: str) -> Record:
    """Return the record of a saved form.

    Raises:
        TypeError: `data` is not bytes.
        ValueError: the data are not what `pack` makes of a sketch of this method.
    """
    data = as_bytes(data)
    fields = _check_envelope(data, method)
    _check_fields(fields, method)
    mean, diagonal, rows = _arrays(data, fields)
    moments = Moments(
        mean, diagonal, *(fields[name] for name in ("total", "weight", "n_seen", "n_skipped"))
    )
    record = Record(
        method=method,
        dtype=DTYPES[fields["dtype"]],
        center=bool(fields["flags"] & CENTER),
        nonfinite="raise" if fields["flags"] & RAISE else "skip",
        moments=moments,
        rows=rows,
        **{name: fields[name] for name in SAME},
    )
    check_consistent(record)
    return record


def _header(data: bytes) -> dict[str, Any]:
    """Return the fields of the header, of any version, with what an older one means."""
    expect(len(data), "length", "at least 10", len(data) >= 10)
    version = int.from_bytes(data[8:10], "little")
    expect(version, "version", f"in 1..{VERSION}", 1 <= version <= VERSION)
    header = HEADERS[version]
    least = header.size + CHECKSUM.size
    expect(len(data), "length", f"at least {least}", len(data) >= least)
    # an older header ends earlier
    return {"alpha": 1.0} | dict(zip(FIELDS, header.unpack_from(data), strict=False))


def _check_envelope(data: bytes, method: str) -> dict[str, Any]:
    """Return the header of what is a whole file of a version, and not anything else."""
    magic = data[: len(MAGIC)]
    expect(magic, "magic", repr(MAGIC), magic == MAGIC)
    if len(data) > 10 and (name := METHODS.get(data[10])) not in {*OWN, None} and is_signed(data):
        expect(name, "method", method, False)
    fields = _header(data)
    numbers = fields["n_features"] * (16 + fields["n_rows"] * _row_type(fields).itemsize)
    whole = HEADERS[fields["version"]].size + numbers + CHECKSUM.size
    expect(len(data), "length", f"{whole} as the header says", len(data) == whole)
    saved, found = CHECKSUM.unpack(data[-4:])[0], zlib.crc32(data[:-4])
    expect(saved, "checksum", f"{found}, that of the data", saved == found)
    return fields


def _check_fields(fields: dict[str, Any], method: str) -> None:
    """Check each field: a checksum does not make a file true."""

    def check(name: str, rule: str, fine: bool) -> None:
        expect(fields[name], name, rule, fine)

    name = METHODS.get(fields["method"], fields["method"])
    expect(name, "method", method, name == method)
    check("dtype", "0, 1 or 2", fields["dtype"] in DTYPES)
    check("flags", "in 0..3", fields["flags"] < 4)
    check("reserved", "zero", not any(fields["reserved"]))
    check("n_features", "at least 1", fields["n_features"] >= 1)
    for name in ("decay", "scale"):
        check(name, "in (0, 1]", 0.0 < fields[name] <= 1.0)
    check("alpha", "in [0, 1]", 0.0 <= fields["alpha"] <= 1.0)
    for name in ("weight", "total", "delta"):
        check(name, "finite and not negative", 0.0 <= fields[name] < math.inf)
    if method == "FrequentDirections":
        size, extra = fields["sketch_size"], fields["buffer_size"]
        check("sketch_size", "at least 1", size >= 1)
        check("buffer_size", "at least 1", extra >= 1)
        room = size + extra if fields["dtype"] else 0
        check("n_rows", f"at most {room}", fields["n_rows"] <= room)
    else:
        want = fields["n_features"] if fields["dtype"] else 0
        check("n_rows", f"{want}", fields["n_rows"] == want)


def _row_type(fields: dict[str, Any]) -> np.dtype:
    """Return the dtype of the saved rows."""
    narrow = METHODS.get(fields["method"]) == "FrequentDirections" and fields["dtype"] == 1
    return np.dtype("<f4" if narrow else "<f8")


def _arrays(data: bytes, fields: dict[str, Any]) -> list[np.ndarray]:
    """Return mean, diagonal and rows, in native byte order and memory of their own."""
    d, n, kind = fields["n_features"], fields["n_rows"], _row_type(fields)
    arrays, start = [], HEADERS[fields["version"]].size
    for name, shape, dtype in (
        ("mean", (d,), "<f8"),
        ("diagonal", (d,), "<f8"),
        ("rows", (n, d), kind),
    ):
        A = np.frombuffer(data, dtype, math.prod(shape), start)
        start += A.nbytes
        expect(name, name, "finite", bool(np.isfinite(A).all()))
        arrays.append(A.reshape(shape).astype(A.dtype.newbyteorder("=")))
    low = bool((arrays[1] >= 0.0).all())
    expect("a negative entry", "diagonal", "at least 0", low)
    return arrays
