"""The saved form: to the bit, for good, and suspicious."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fd_sketch import ExactGram, FrequentDirections

DATA = Path(__file__).parent / "data"
# whole numbers: the same on every machine
ROWS = (np.arange(60).reshape(12, 5) * 7 % 11 - 5).astype(np.float32)


def golden_fd():
    sketch = FrequentDirections(5, 3, buffer_size=4, center=True, decay=0.5, nonfinite="raise")
    return sketch.partial_fit(ROWS[:7]).partial_fit(ROWS[7:])


def golden_exact():
    return ExactGram(5).partial_fit(ROWS.astype(np.float64))


def resealed(data, offset, value):
    """The data with some bytes replaced and a checksum that fits."""
    body = data[:offset] + value + data[offset + len(value) : -4]
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize(
    "name, make", [("frequent_directions_v1", golden_fd), ("exact_gram_v1", golden_exact)]
)
def test_files_of_version_1_load(name, make):
    data, want = (DATA / f"{name}.bin").read_bytes(), make()
    sketch = type(want).from_bytes(data)
    assert type(want).from_bytes(sketch.to_bytes()).to_bytes() == sketch.to_bytes()
    assert repr(sketch) == repr(want)
    assert sketch.sketch().dtype == want.sketch().dtype
    B, A = sketch.sketch().astype(float), want.sketch().astype(float)
    assert np.allclose(B.T @ B, A.T @ A, rtol=1e-5, atol=1e-4)
    assert sketch.error_bound() == pytest.approx(want.error_bound(), rel=1e-5)
    assert sketch.total_mass() == pytest.approx(want.total_mass(), rel=1e-12)
    assert np.allclose(sketch.mean, want.mean, rtol=1e-12)
    assert np.allclose(sketch.diagonal(), want.diagonal(), rtol=1e-12)


def test_a_whole_sketch_comes_back_with_its_arguments(kind):
    sketch = FrequentDirections(5, 3, buffer_size=4, center=True, decay=0.5, nonfinite="raise")
    X = kind.array(ROWS)
    sketch.partial_fit(X[:7]).partial_fit(X[7:])
    back = FrequentDirections.from_bytes(sketch.to_bytes(), like=X)
    assert repr(back) == repr(sketch)
    assert type(back.sketch()) is type(X)
    assert back.sketch().dtype == X.dtype
    assert back.partial_fit(X).to_bytes() == sketch.partial_fit(X).to_bytes()


def test_numpy_is_what_comes_back_by_default(kind):
    sketch = FrequentDirections(5, 3).partial_fit(kind.array(ROWS))
    back = FrequentDirections.from_bytes(memoryview(sketch.to_bytes()))
    assert isinstance(back.sketch(), np.ndarray)
    assert str(back.sketch().dtype) == kind.dtype
    assert back.to_bytes() == sketch.to_bytes()


def test_a_sketch_of_no_rows_comes_back():
    for sketch in (FrequentDirections(5, 3), ExactGram(5, center=True)):
        back = type(sketch).from_bytes(sketch.to_bytes())
        assert back.partial_fit(ROWS).to_bytes() == sketch.partial_fit(ROWS).to_bytes()


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_damage_is_found(position, flip):
    data = bytearray(golden_fd().to_bytes())
    data[position % len(data)] ^= flip
    with pytest.raises(ValueError, match="data: (magic|version|length|checksum) must be"):
        FrequentDirections.from_bytes(bytes(data))


@given(st.integers(0, 10_000))
def test_any_truncation_is_found(length):
    data = golden_fd().to_bytes()
    with pytest.raises(ValueError, match="data: (magic|length) must be"):
        FrequentDirections.from_bytes(data[: length % len(data)])
    with pytest.raises(ValueError, match="data: length must be"):
        FrequentDirections.from_bytes(data + bytes(1 + length))


@pytest.mark.parametrize(
    "offset, value, field",
    [
        (8, struct.pack("<H", 3), "version"),
        (8, struct.pack("<H", 0), "version"),
        (10, b"\x02", "method|length"),
        (10, b"\x09", "method|length"),
        (11, b"\x03", "dtype|length"),
        (12, b"\x04", "flags"),
        (13, b"\x01", "reserved"),
        (24, struct.pack("<Q", 0), "sketch_size"),
        (32, struct.pack("<Q", 0), "buffer_size"),
        (32, struct.pack("<Q", 1), "n_rows"),
        (40, struct.pack("<Q", 2**63), "length"),
        (64, struct.pack("<d", 0.0), "decay"),
        (64, struct.pack("<d", np.nan), "decay"),
        (72, struct.pack("<d", -1.0), "weight"),
        (80, struct.pack("<d", np.inf), "total"),
        (88, struct.pack("<d", np.nan), "delta"),
        (96, struct.pack("<d", 0.0), "scale"),
        (104, struct.pack("<d", -0.1), "alpha"),
        (104, struct.pack("<d", np.nan), "alpha"),
        (112, struct.pack("<d", np.nan), "mean"),
        (152, struct.pack("<d", -1.0), "diagonal"),
        (192, struct.pack("<f", np.inf), "rows"),
    ],
)
def test_a_forged_field_is_named(offset, value, field):
    data = resealed(golden_fd().to_bytes(), offset, value)
    with pytest.raises(ValueError, match=f"data: ({field}) must be"):
        FrequentDirections.from_bytes(data)


def test_another_method_is_named():
    with pytest.raises(ValueError, match="method must be ExactGram, got 'FrequentDirections'"):
        ExactGram.from_bytes(golden_fd().to_bytes())
    with pytest.raises(ValueError, match="method must be FrequentDirections, got 'ExactGram'"):
        FrequentDirections.from_bytes(golden_exact().to_bytes())


@pytest.mark.parametrize("data", [b"", b"FDSK", b"PK\x03\x04" + bytes(500), bytes(500)])
def test_foreign_data_are_refused(data):
    with pytest.raises(ValueError, match="data: magic must be"):
        FrequentDirections.from_bytes(data)


@pytest.mark.parametrize("data", [None, "text", 7])
def test_only_bytes_are_read(data):
    with pytest.raises(TypeError, match="data must be bytes, got"):
        FrequentDirections.from_bytes(data)
    with pytest.raises(TypeError, match="like must be an array"):
        FrequentDirections.from_bytes(golden_fd().to_bytes(), like="torch")
    with pytest.raises(TypeError, match="like must be an array, got the type float32"):
        FrequentDirections.from_bytes(golden_fd().to_bytes(), like=np.float32)


def test_claimed_room_is_not_taken_before_it_is_needed():
    data = resealed(golden_fd().to_bytes(), 32, struct.pack("<Q", 2**50))
    assert FrequentDirections.from_bytes(data).error_bound() >= 0.0
