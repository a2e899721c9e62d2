"""Ten thousand damaged files: refused with a reason, or a sketch that can be trusted."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections
from fd_sketch._format import FIELDS, HEADERS

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


def forged(data, rng):
    """A field of the header with another value, and a checksum that fits."""
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


def rewritten(data, rng):
    """Numbers of the arrays with other values, and a checksum that fits."""
    start = HEADERS[int.from_bytes(data[8:10], "little")].size
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
    saved = sketch.to_bytes()
    assert type(sketch).from_bytes(saved).to_bytes() == saved
    header = HEADERS[max(HEADERS)]
    if int.from_bytes(data[8:10], "little") == max(HEADERS):
        # every field means something; by value, since zeros may lose a sign
        assert header.unpack_from(saved) == header.unpack_from(data)
        assert saved[header.size : -4] == data[header.size : -4] or not sketch.n_samples_seen


@pytest.mark.parametrize("damage", UNSEALED)
def test_damage_is_always_found(damage):
    rng = np.random.default_rng(0)
    for trial in range(1250):
        kind, data = SAVED[trial % len(SAVED)]
        damaged = damage(data, rng)
        if damaged == data:
            continue
        with pytest.raises(ValueError, match="data: .* must be"):
            kind.from_bytes(damaged)


@pytest.mark.parametrize("damage", SEALED)
def test_what_is_forged_is_refused_or_consistent(damage):
    rng, reasons, loaded = np.random.default_rng(0), [], 0
    for trial in range(1700):
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
