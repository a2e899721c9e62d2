"""Twenty thousand damaged files: refused with a reason, or a sketch that can be trusted."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections, SketchBank, SlidingFrequentDirections
from fd_sketch._bank_format import COUNTS as BANK_COUNTS
from fd_sketch._envelope import PREFIX
from fd_sketch._format import FIELDS, HEADERS
from fd_sketch._window_format import COUNTS as WINDOW_COUNTS, EPOCH

DATA = Path(__file__).parent / "data"
X = np.random.default_rng(0).standard_normal((40, 6)) + 1.0
INTERESTING = {
    "f": [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, 1e30, 1e300, 5e-324, np.inf, -np.inf, np.nan],
    "i": [0, 1, 2, 3, 7, 127, 128, 255, 256, 2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1],
}


def saved_sketches():
    """Saved forms of many kinds, with those of version 1."""
    narrow = X.astype(np.float32)
    sketches = [
        FrequentDirections(6, 3),
        FrequentDirections(6, 3).partial_fit(X),
        FrequentDirections(6, 4, center=True, decay=0.5).partial_fit(narrow).partial_fit(narrow),
        FrequentDirections(6, 2, buffer_size=3)
        .partial_fit(X, sample_weight=0.25)
        .merge(FrequentDirections(6, 5).partial_fit(X * 3)),
        ExactGram(6).partial_fit(X),
        ExactGram(6, center=True).partial_fit(narrow),
    ]
    streams = np.stack([X, X * 3, X + 1])
    banks = [
        SketchBank(3, 6, 2, decay=0.5).partial_fit(streams).partial_fit(streams[:, :3]),
        SketchBank(3, 6, 3, buffer_size=2).partial_fit(streams.astype(np.float32), 0.25),
        SketchBank(3, 6, 3).partial_fit(streams[:, :1]).merge(SketchBank(3, 6, 2)),
    ]
    windows = [
        SlidingFrequentDirections(6, 2, 15).partial_fit(X),
        SlidingFrequentDirections(6, 1, 30, buffer_size=3).partial_fit(narrow),
        SlidingFrequentDirections(6, 3, 90, nonfinite="raise").partial_fit(X[:2]),
    ]
    sketches += [*banks, *windows]
    old = [DATA / f"{name}_v1.bin" for name in ("frequent_directions", "exact_gram")]
    kinds = [type(sketch) for sketch in sketches] + [FrequentDirections, ExactGram]
    return list(
        zip(kinds, [s.to_bytes() for s in sketches] + [p.read_bytes() for p in old], strict=True)
    )


SAVED = saved_sketches()


def resealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


def flipped(data, rng):
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut(data, rng):
    return data[: rng.integers(len(data))]


def grown(data, rng):
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(rng.integers(1, 40)) + data[at:]


def spliced(data, rng):
    other = SAVED[rng.integers(len(SAVED))][1]
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def start_of_arrays(data):
    """Where the header ends."""
    if data[10] < 3:
        return HEADERS[int.from_bytes(data[8:10], "little")].size
    counts = BANK_COUNTS if data[10] == 3 else WINDOW_COUNTS
    return PREFIX.size + counts.size + 16 + (data[10] == 4) * EPOCH.size


def forged(data, rng):
    """A field of the header with another value, and a checksum that fits."""
    if data[10] > 2:
        return forged_number(data, rng)
    header = HEADERS[int.from_bytes(data[8:10], "little")]
    values = list(header.unpack_from(data))
    name = rng.choice(FIELDS[1 : len(values)])
    i = FIELDS.index(name)
    if name == "reserved":
        values[i] = rng.bytes(3)
    elif isinstance(values[i], float):
        choices = [*INTERESTING["f"], values[i] * 2, values[i] * (1 + 1e-9), -values[i]]
        values[i] = choices[rng.integers(len(choices))]
    else:
        choices = [*INTERESTING["i"], values[i] + 1, max(values[i] - 1, 0)]
        most = 2 ** {"version": 16, "method": 8, "dtype": 8, "flags": 8}.get(name, 64)
        values[i] = choices[rng.integers(len(choices))] % most
    return resealed(header.pack(*values) + data[header.size : -4])


def forged_number(data, rng):
    """A number of the header of a bank or a window with another value, as above."""
    counts, body = (BANK_COUNTS if data[10] == 3 else WINDOW_COUNTS).size // 8, bytearray(data[:-4])
    i = int(rng.integers((start_of_arrays(data) - PREFIX.size) // 8))
    at = PREFIX.size + 8 * i
    if i < counts or counts + 2 <= i < counts + 4:
        value = int.from_bytes(body[at : at + 8], "little")
        choices = [*INTERESTING["i"], value + 1, max(value - 1, 0)]
        body[at : at + 8] = (choices[rng.integers(len(choices))] % 2**64).to_bytes(8, "little")
    else:
        (value,) = struct.unpack_from("<d", body, at)
        choices = [*INTERESTING["f"], value * 2, value * (1 + 1e-9), -value]
        struct.pack_into("<d", body, at, choices[rng.integers(len(choices))])
    return resealed(bytes(body))


def rewritten(data, rng):
    """Numbers of the arrays with other values, and a checksum that fits."""
    start = start_of_arrays(data)
    body = bytearray(data[:-4])
    for _ in range(rng.integers(1, 3)):
        kind = "<f" if rng.random() < 0.3 else "<d"
        width = struct.calcsize(kind)
        at = start + width * int(rng.integers((len(body) - start) // width))
        value = INTERESTING["f"][rng.integers(len(INTERESTING["f"]))]
        with np.errstate(over="ignore"):
            body[at : at + width] = np.array(value, dtype=kind).tobytes()
    return resealed(bytes(body))


def resized(data, rng):
    """Bytes more or less, and a checksum that fits."""
    damaged = (cut, grown, spliced, flipped)[rng.integers(4)](data[:-4], rng)
    return resealed(damaged)


UNSEALED, SEALED = [flipped, cut, grown, spliced], [forged, rewritten, resized]


def expect_consistent(sketch, data):
    """Expect answers that could be those of a sketch of some rows."""
    saved = sketch.to_bytes()
    assert type(sketch).from_bytes(saved).to_bytes() == saved
    if isinstance(sketch, SketchBank):
        expect_consistent_bank(sketch)
    elif isinstance(sketch, SlidingFrequentDirections):
        expect_consistent_window(sketch)
    else:
        expect_consistent_sketch(sketch, saved, data)


def expect_consistent_bank(bank):
    total, Delta = bank.total_masses(), bank.error_bounds()
    B, diagonals = bank.sketches().astype(float), bank.diagonals()
    for answer in (total, Delta, B, diagonals):
        assert np.isfinite(answer).all()
    room = 2e-3 * total + 1e-280
    assert np.all((Delta >= 0.0) & (np.sum(B * B, axis=(1, 2)) + Delta <= total + room))
    assert np.all(np.sum(B * B, axis=1) <= diagonals + room[:, None])
    assert np.minimum(bank.n_samples_seen, bank.n_skipped).min() >= 0
    bank.partial_fit(np.ones((bank.n_sketches, 1, bank.n_features)))


def expect_consistent_window(sketch):
    for _ in range(2):
        bounds = sketch.error_bound(), sketch.excess_bound()
        assert np.isfinite([*bounds, np.sum(sketch.sketch())]).all()
        assert min(bounds) >= 0.0
        sketch.partial_fit(np.ones((1, sketch.n_features)))


def expect_consistent_sketch(sketch, saved, data):
    total, Delta, B = sketch.total_mass(), sketch.error_bound(), sketch.sketch().astype(float)
    room = 2e-3 * total + 1e-280
    diagonal = sketch.diagonal()
    for answer in (total, Delta, B, diagonal, sketch.mean, sketch.residual_mass()):
        assert np.isfinite(answer).all()
    assert abs(diagonal.sum() - total) <= room
    assert 0.0 <= Delta <= total + room
    assert np.sum(B * B) + Delta <= total + room
    assert np.all(np.sum(B * B, axis=0) <= diagonal + room)
    assert np.all(sketch.residual_diagonal() >= 0.0)
    assert 0 <= sketch.energy_rank(0.1) <= sketch.n_features
    assert sketch.n_samples_seen >= 0
    header = HEADERS[max(HEADERS)]
    if int.from_bytes(data[8:10], "little") == max(HEADERS):
        # every field means something; by value, since zeros may lose a sign
        assert header.unpack_from(saved) == header.unpack_from(data)
        assert saved[header.size : -4] == data[header.size : -4] or not sketch.n_samples_seen


@pytest.mark.parametrize("damage", UNSEALED)
def test_damage_is_always_found(damage):
    rng = np.random.default_rng(0)
    for trial in range(2500):
        kind, data = SAVED[trial % len(SAVED)]
        damaged = damage(data, rng)
        if damaged == data:
            continue
        with pytest.raises(ValueError, match="data: .* must be"):
            kind.from_bytes(damaged)


@pytest.mark.parametrize("damage", SEALED)
def test_what_is_forged_is_refused_or_consistent(damage):
    rng, reasons, loaded = np.random.default_rng(0), [], 0
    for trial in range(3400):
        kind, data = SAVED[trial % len(SAVED)]
        forgery = damage(data, rng)
        try:
            sketch = kind.from_bytes(forgery)
        except ValueError as error:
            reasons.append(str(error))
            continue
        loaded += 1
        expect_consistent(sketch, forgery)
    assert all(reason.startswith("data: ") for reason in reasons)
    # some changes are harmless: a count, an argument, a number set to what it was
    assert min(loaded, len(reasons)) > 0


@pytest.mark.parametrize("kind, data", SAVED)
def test_what_is_whole_is_read(kind, data):
    expect_consistent(kind.from_bytes(data), data)
