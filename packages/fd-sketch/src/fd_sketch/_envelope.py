"""What all saved forms have in common: what they are at the start, a checksum at the end.

Little endian, in this order:

magic        8 bytes     never text, so that no transfer as text goes unnoticed
version      uint16      of the form of this method
method       uint8       see METHODS
dtype        uint8       of the rows: 0 no data yet, 1 float32, 2 float64
flags        uint8       1 centred, 2 non-finite rows raise
reserved     3 bytes     zero
...                      numbers and arrays of the method
checksum     uint32      CRC-32 of everything before it
"""

import math
import struct
import zlib
from typing import Any

import numpy as np

MAGIC = b"\x8aFDSK\r\n\x1a"
METHODS = {
    1: "FrequentDirections",
    2: "ExactGram",
    3: "SketchBank",
    4: "SlidingFrequentDirections",
}
DTYPES = {0: "", 1: "float32", 2: "float64"}
CENTER, RAISE = 1, 2
PREFIX, CHECKSUM = struct.Struct("<8sHBBB3s"), struct.Struct("<I")


def expect(got: object, field: str, rule: str, fine: bool) -> None:
    """Refuse data of which a field breaks a rule."""
    if not fine:
        raise ValueError(f"data: {field} must be {rule}, got {got!r}")


def as_bytes(data: Any) -> bytes:
    """Return the data, which must be bytes."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data must be bytes, got {type(data).__name__}")
    return bytes(data)


def code_of(names: dict[int, str], name: str) -> int:
    """Return the number that stands for a name."""
    return next(code for code, known in names.items() if known == name)


def little(A: np.ndarray) -> bytes:
    """Return the values of an array, little endian."""
    return A.astype(A.dtype.newbyteorder("<")).tobytes()


def signed(body: bytes) -> bytes:
    """Return the body with its checksum."""
    return body + CHECKSUM.pack(zlib.crc32(body))


def is_signed(data: bytes) -> bool:
    """Return whether the checksum is that of the data."""
    return len(data) >= 4 and CHECKSUM.unpack(data[-4:])[0] == zlib.crc32(data[:-4])


def sealed(method: str, version: int, dtype: str, flags: int, parts: list[bytes]) -> bytes:
    """Return a saved form."""
    codes = code_of(METHODS, method), code_of(DTYPES, dtype)
    return signed(b"".join([PREFIX.pack(MAGIC, version, *codes, flags, bytes(3)), *parts]))


class Reader:
    """Reads the numbers and arrays of a saved form one after the other, never beyond its end."""

    def __init__(self, data: Any, method: str, version: int, flags: int) -> None:
        self._data = data = as_bytes(data)
        expect(data[:8], "magic", repr(MAGIC), data[:8] == MAGIC)
        least = PREFIX.size + CHECKSUM.size
        expect(len(data), "length", f"at least {least}", len(data) >= least)
        _, got, code, dtype, self.flags, reserved = PREFIX.unpack_from(data)
        expect("another", "checksum", "that of the data", is_signed(data))
        name = METHODS.get(code, code)
        expect(name, "method", method, name == method)
        expect(got, "version", f"in 1..{version}", 1 <= got <= version)
        expect(dtype, "dtype", "0, 1 or 2", dtype in DTYPES)
        expect(self.flags, "flags", f"in 0..{flags}", self.flags <= flags)
        expect(reserved, "reserved", "zero", not any(reserved))
        self.dtype = DTYPES[dtype]
        self._at, self._end = PREFIX.size, len(data) - CHECKSUM.size

    def numbers(self, form: struct.Struct) -> tuple[Any, ...]:
        """Return the next numbers."""
        return form.unpack(self._taken(form.size))

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return the next array, finite, in native byte order and memory of its own."""
        kind = np.dtype(dtype).newbyteorder("<")
        A = np.frombuffer(self._taken(math.prod(shape) * kind.itemsize), kind)
        expect(name, name, "finite", bool(np.isfinite(A).all()))
        return A.reshape(shape).astype(dtype)

    def finish(self) -> None:
        """Expect that nothing is left."""
        expect(
            self._end, "length", f"{self._at} before the checksum as it says", self._at == self._end
        )

    def _taken(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        fine = self._at <= self._end
        expect(self._end, "length", f"at least {self._at} before the checksum as it says", fine)
        return self._data[start : self._at]
