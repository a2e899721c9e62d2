"""Saved banks and windows: to the bit, for good, and suspicious."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections, SketchBank, SlidingFrequentDirections

DATA = Path(__file__).parent / "data"
# whole numbers: the same on every machine
ROWS = (np.arange(600).reshape(2, 60, 5) * 7 % 11 - 5).astype(np.float32)
LOOKS = np.repeat([1.0, 32.0, 4.0], 20)[:, None]  # the mass rises and falls


def bank(X=ROWS):
    fed = SketchBank(2, 5, 3, buffer_size=4, decay=0.5).partial_fit(X[:, :9])
    return fed.partial_fit(X[:, 9:21], sample_weight=0.25)


def narrowed_bank(X=ROWS):
    return bank(X).merge(SketchBank(2, 5, 2).partial_fit(X))


def window(X=ROWS):
    made = SlidingFrequentDirections(5, 2, 25, buffer_size=4, nonfinite="raise")
    return made.partial_fit(X[0] * like(LOOKS, X)).partial_fit(X[1][:7])


def skipping_window(X=ROWS):
    made = SlidingFrequentDirections(5, 3, 30)
    return made.partial_fit(X[0] * like(LOOKS, X) * np.inf).partial_fit(X[1])


def like(values, X):
    return values.astype(X.dtype) if isinstance(X, np.ndarray) else X.new_tensor(values)


MAKE = {
    "bank": bank,
    "narrowed bank": narrowed_bank,
    "window": window,
    "skipping window": skipping_window,
}
EMPTY = [SketchBank(2, 5, 3), SlidingFrequentDirections(5, 3, 20, nonfinite="raise")]


def answers(sketch):
    if isinstance(sketch, SketchBank):
        return [sketch.sketches(), sketch.error_bounds(), sketch.diagonals(), sketch.n_skipped]
    bounds = [sketch.error_bound(), sketch.excess_bound()]
    return [sketch.sketch(), *bounds, sketch.n_samples_seen, sketch.n_skipped]


def expect_equal(one, two):
    for a, b in zip(answers(one), answers(two), strict=True):
        assert type(a) is type(b)
        assert np.array_equal(np.asarray(a), np.asarray(b))


def fed(sketch, X):
    return sketch.partial_fit(X if isinstance(sketch, SketchBank) else X[0])


@pytest.mark.parametrize("name", MAKE)
def test_the_whole_state_comes_back_and_goes_on(kind, name):
    X = kind.array(ROWS)
    with np.errstate(invalid="ignore"):
        sketch = MAKE[name](X)
    saved = sketch.to_bytes()
    back = type(sketch).from_bytes(memoryview(saved), like=X)
    assert back.to_bytes() == saved
    assert repr(back).split(" object")[0] == repr(sketch).split(" object")[0]
    expect_equal(back, sketch)
    assert fed(back, X).to_bytes() == fed(sketch, X).to_bytes()
    expect_equal(back, sketch)
    if name != "narrowed bank":  # whose sketches stay as small as the merge has made them
        expect_equal(fed(back.reset(), X), fed(sketch.reset(), X))


@pytest.mark.parametrize("name", MAKE)
def test_numpy_is_what_comes_back_by_default(kind, name):
    with np.errstate(invalid="ignore"):
        sketch = MAKE[name](kind.array(ROWS))
    back = type(sketch).from_bytes(sketch.to_bytes())
    assert isinstance(answers(back)[0], np.ndarray)
    assert str(answers(back)[0].dtype) == kind.dtype
    assert back.to_bytes() == sketch.to_bytes()


@pytest.mark.parametrize("sketch", EMPTY, ids=lambda sketch: type(sketch).__name__)
def test_what_has_seen_nothing_comes_back(kind, sketch):
    X = kind.array(ROWS)
    back = type(sketch).from_bytes(sketch.to_bytes(), like=X)
    assert back.to_bytes() == sketch.to_bytes()
    expect_equal(fed(back, X), fed(sketch.copy(), X))


@pytest.mark.parametrize("make, name", [(bank, "sketch_bank"), (window, "sliding")])
def test_files_of_version_1_load(make, name):
    data, want = (DATA / f"{name}_v1.bin").read_bytes(), make()
    back = type(want).from_bytes(data)
    assert back.to_bytes() == data
    room = 1e-5 * np.sum(np.square(np.asarray(answers(want)[0])))
    for a, b in zip(answers(back)[1:], answers(want)[1:], strict=True):
        assert np.allclose(a, b, atol=room)
    B, A = (np.asarray(answers(sketch)[0], dtype=np.float64) for sketch in (back, want))
    assert B.dtype == A.dtype
    assert np.abs(np.swapaxes(B, -1, -2) @ B - np.swapaxes(A, -1, -2) @ A).max() <= room


def test_another_method_is_named():
    saved = {type(s): s.to_bytes() for s in (bank(), window(), ExactGram(5))}
    saved[FrequentDirections] = FrequentDirections(5, 2).to_bytes()
    for kind in saved:
        for other, data in saved.items():
            if other is not kind:
                what = f"data: method must be {kind.__name__}, got '{other.__name__}'"
                with pytest.raises(ValueError, match=what):
                    kind.from_bytes(data)


@pytest.mark.parametrize("kind", [SketchBank, SlidingFrequentDirections])
def test_only_bytes_are_read(kind):
    with pytest.raises(TypeError, match="data must be bytes, got str"):
        kind.from_bytes("text")
    for foreign in (b"", b"FDSK", b"PK\x03\x04" + bytes(500)):
        with pytest.raises(ValueError, match="data: (magic|length) must be"):
            kind.from_bytes(foreign)
    data = bank().to_bytes() if kind is SketchBank else window().to_bytes()
    with pytest.raises(TypeError, match="like must be an array"):
        kind.from_bytes(data, like="torch")


def resealed(data, offset, value):
    body = data[:offset] + value + data[offset + len(value) : -4]
    return body + struct.pack("<I", zlib.crc32(body))


FORGED = [
    (bank, 8, struct.pack("<H", 2), "version"),
    (bank, 11, b"\x03", "dtype"),
    (bank, 11, b"\x00", "length"),
    (bank, 12, b"\x01", "flags"),
    (bank, 13, b"\x01", "reserved"),
    (bank, 16, struct.pack("<Q", 0), "n_sketches"),
    (bank, 16, struct.pack("<Q", 2**60), "length"),
    (bank, 32, struct.pack("<Q", 2**63), "length"),
    (bank, 40, struct.pack("<Q", 0), "buffer_size"),
    (bank, 48, struct.pack("<Q", 8), "used"),
    (bank, 48, struct.pack("<Q", 1), "rows"),
    (bank, 56, struct.pack("<d", 1.5), "decay"),
    (bank, 64, struct.pack("<d", 2.0**-11), "scale"),
    (bank, 72, struct.pack("<d", -1.0), "delta"),
    (bank, 72, struct.pack("<d", 1e9), "delta"),
    (bank, 88, struct.pack("<d", np.nan), "diagonal"),
    (bank, 88, struct.pack("<d", 0.0), "rows"),
    (bank, 168, struct.pack("<q", 0), "diagonal"),
    (bank, 168, struct.pack("<q", -1), "n_seen"),
    (bank, 200, struct.pack("<f", 1e9), "rows"),
    (window, 12, b"\x01", "flags"),
    (window, 12, b"\x04", "flags"),
    (window, 24, struct.pack("<Q", 0), "sketch_size"),
    (window, 32, struct.pack("<Q", 3), "buffer_size"),
    (window, 32, struct.pack("<Q", 4), "end"),
    (window, 48, struct.pack("<Q", 66), "fresh rows"),
    (window, 64, struct.pack("<Q", 2**63), "length"),
    (window, 88, struct.pack("<d", 1e9), "fresh_mass"),
    (window, 96, struct.pack("<d", -1.0), "grain"),
    (window, 104, struct.pack("<Q", 1000), "end"),
    (window, 120, struct.pack("<d", np.nan), "mass"),
    (window, 136, struct.pack("<d", 1e9), "delta"),
]


@pytest.mark.parametrize("make, offset, value, field", FORGED)
def test_a_forged_field_is_named(make, offset, value, field):
    data = resealed(make().to_bytes(), offset, value)
    with pytest.raises(ValueError, match=f"data: {field} .*must be|data: {field} must be"):
        type(make()).from_bytes(data)


def test_room_that_is_not_there_is_not_taken():
    data = resealed(EMPTY[0].to_bytes(), 40, struct.pack("<Q", 2**60))
    with pytest.raises(ValueError, match="data: sizes must leave room"):
        SketchBank.from_bytes(data)
