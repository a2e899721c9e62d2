"""The saved form of a sketch: a fixed header, three arrays, a checksum; little endian.

Version 2, in this order:

    magic        8 bytes     never text, so that no transfer as text goes unnoticed
    version      uint16
    method       uint8       1 FrequentDirections, 2 ExactGram
    dtype        uint8       of the rows: 0 no data yet, 1 float32, 2 float64
    flags        uint8       1 centred, 2 non-finite rows raise
    reserved     3 bytes     zero
    n_features, sketch_size, buffer_size, n_rows, n_seen, n_skipped     uint64
    decay, weight, total, delta, scale, alpha                           float64
    mean, diagonal           float64 [n_features] each
    rows                     [n_rows, n_features], float64 for ExactGram, else dtype
    checksum     uint32      CRC-32 of everything before it

Version 1 has no alpha, which is 1 there. It is read, and written no more.
"""

import math
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from fd_sketch._consistency import check_consistent
from fd_sketch._moments import Moments

MAGIC = b"\x8aFDSK\r\n\x1a"
VERSION = 2
METHODS = {1: "FrequentDirections", 2: "ExactGram"}
DTYPES = {0: "", 1: "float32", 2: "float64"}
CENTER, RAISE = 1, 2
HEADERS = {1: struct.Struct("<8sHBBB3s6Q5d"), 2: struct.Struct("<8sHBBB3s6Q6d")}
HEADER = HEADERS[VERSION]
FIELDS = (
    *("magic", "version", "method", "dtype", "flags", "reserved"),
    *("n_features", "sketch_size", "buffer_size", "n_rows", "n_seen", "n_skipped"),
    *("decay", "weight", "total", "delta", "scale", "alpha"),
)
# by the same name in header and record
SAME = ("decay", "sketch_size", "buffer_size", "delta", "scale", "alpha")
CHECKSUM = struct.Struct("<I")


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
    codes = [
        next(code for code, name in names.items() if name == value)
        for names, value in ((METHODS, record.method), (DTYPES, record.dtype))
    ]
    flags = CENTER * record.center | RAISE * (record.nonfinite == "raise")
    counts = (d, record.sketch_size, record.buffer_size, len(record.rows), m.n_seen, m.n_skipped)
    numbers = (record.decay, m.weight, m.total, record.delta, record.scale, record.alpha)
    head = HEADER.pack(MAGIC, VERSION, *codes, flags, bytes(3), *counts, *numbers)
    arrays = (m.mean, m.diagonal, record.rows)
    body = b"".join((head, *(A.astype(A.dtype.newbyteorder("<")).tobytes() for A in arrays)))
    return body + CHECKSUM.pack(zlib.crc32(body))


def unpack(data: bytes, method: str) -> Record:
    """Return the record of a saved form.

    Raises:
        TypeError: `data` is not bytes.
        ValueError: the data are not what `pack` makes of a sketch of this method.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data must be bytes, got {type(data).__name__}")
    data = bytes(data)
    fields = _check_envelope(data)
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


def _expect(got: object, field: str, rule: str, fine: bool) -> None:
    if not fine:
        raise ValueError(f"data: {field} must be {rule}, got {got!r}")


def _header(data: bytes) -> dict[str, Any]:
    """Return the fields of the header, of any version, with what an older one means."""
    _expect(len(data), "length", "at least 10", len(data) >= 10)
    version = int.from_bytes(data[8:10], "little")
    _expect(version, "version", f"in 1..{VERSION}", 1 <= version <= VERSION)
    header = HEADERS[version]
    least = header.size + CHECKSUM.size
    _expect(len(data), "length", f"at least {least}", len(data) >= least)
    # an older header ends earlier
    return {"alpha": 1.0} | dict(zip(FIELDS, header.unpack_from(data), strict=False))


def _check_envelope(data: bytes) -> dict[str, Any]:
    """Return the header of what is a whole file of a version, and not anything else."""
    magic = data[: len(MAGIC)]
    _expect(magic, "magic", repr(MAGIC), magic == MAGIC)
    fields = _header(data)
    numbers = fields["n_features"] * (16 + fields["n_rows"] * _row_type(fields).itemsize)
    whole = HEADERS[fields["version"]].size + numbers + CHECKSUM.size
    _expect(len(data), "length", f"{whole} as the header says", len(data) == whole)
    saved, found = CHECKSUM.unpack(data[-4:])[0], zlib.crc32(data[:-4])
    _expect(saved, "checksum", f"{found}, that of the data", saved == found)
    return fields


def _check_fields(fields: dict[str, Any], method: str) -> None:
    """Check each field: a checksum does not make a file true."""

    def expect(name: str, rule: str, fine: bool) -> None:
        _expect(fields[name], name, rule, fine)

    name = METHODS.get(fields["method"], fields["method"])
    _expect(name, "method", method, name == method)
    expect("dtype", "0, 1 or 2", fields["dtype"] in DTYPES)
    expect("flags", "in 0..3", fields["flags"] < 4)
    expect("reserved", "zero", not any(fields["reserved"]))
    expect("n_features", "at least 1", fields["n_features"] >= 1)
    for name in ("decay", "scale"):
        expect(name, "in (0, 1]", 0.0 < fields[name] <= 1.0)
    expect("alpha", "in [0, 1]", 0.0 <= fields["alpha"] <= 1.0)
    for name in ("weight", "total", "delta"):
        expect(name, "finite and not negative", 0.0 <= fields[name] < math.inf)
    if method == "FrequentDirections":
        size, extra = fields["sketch_size"], fields["buffer_size"]
        expect("sketch_size", "at least 1", size >= 1)
        expect("buffer_size", "at least 1", extra >= 1)
        room = size + extra if fields["dtype"] else 0
        expect("n_rows", f"at most {room}", fields["n_rows"] <= room)
    else:
        want = fields["n_features"] if fields["dtype"] else 0
        expect("n_rows", f"{want}", fields["n_rows"] == want)


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
        _expect(name, name, "finite", bool(np.isfinite(A).all()))
        arrays.append(A.reshape(shape).astype(A.dtype.newbyteorder("=")))
    low = bool((arrays[1] >= 0.0).all())
    _expect("a negative entry", "diagonal", "at least 0", low)
    return arrays
