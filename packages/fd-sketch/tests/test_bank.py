"""A bank of sketches: each of its members is the sketch it would be alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from fd_sketch import FrequentDirections, SketchBank
from fd_sketch.testing import exact_moments

STREAMS = (
    np.random.default_rng(0).standard_normal((5, 60, 12)) * np.logspace(0, 3, 5)[:, None, None]
)
STREAMS = STREAMS * np.logspace(0, -2, 12)


def lone(bank, X, batches, **options):
    """The sketches that the streams would have each for themselves."""
    options = {"buffer_size": bank.buffer_size, "decay": bank.decay, **options}
    sketches = []
    for rows in X:
        sketch = FrequentDirections(bank.n_features, bank.sketch_size, **options)
        for start in range(0, len(rows), batches):
            sketch.partial_fit(rows[start : start + batches])
        sketches.append(sketch)
    return sketches


def gram(B):
    B = np.asarray(B, dtype=np.float64)
    return B.T @ B


# six kinds of arrays each
@settings(max_examples=20)
@given(
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(1, 30),
    st.sampled_from([1.0, 0.8]),
)
def test_every_member_is_the_sketch_of_its_stream(kind, k, size, extra, batch, decay):
    X = STREAMS[:k] if k <= 5 else np.concatenate([STREAMS, STREAMS[:1]])
    bank = SketchBank(k, 12, size, buffer_size=extra, decay=decay)
    for start in range(0, 60, batch):
        bank.partial_fit(kind.array(X[:, start : start + batch]))
    parts = [kind.array(X[0, start : start + batch]) for start in range(0, 60, batch)]
    weight = exact_moments(parts, decay=decay)[2]
    for i, alone in enumerate(lone(bank, [kind.array(rows) for rows in X], batch)):
        room = 200 * kind.eps * alone.total_mass()
        assert np.abs(gram(bank.sketches()[i]) - gram(alone.sketch())).max() <= room
        assert abs(float(bank.error_bounds()[i]) - alone.error_bound()) <= room
        assert np.isclose(float(bank.total_masses()[i]), alone.total_mass(), rtol=1e-12)
        assert np.allclose(bank.diagonals()[i], alone.diagonal(), rtol=1e-12)
        assert np.isclose(alone.effective_weight, weight)
    assert np.asarray(bank.n_samples_seen).tolist() == [60] * k


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_merged_banks_keep_the_theorem(kind, size, other_size, twice):
    banks = [SketchBank(5, 12, s).partial_fit(kind.array(STREAMS)) for s in (size, other_size)]
    saved = np.asarray(banks[1].sketches())
    merged = banks[0].merge(banks[1])
    if twice:
        merged.merge(SketchBank(5, 12, 3))
    assert merged.sketch_size == min(size, other_size)
    assert np.array_equal(np.asarray(banks[1].sketches()), saved)
    for i, rows in enumerate(STREAMS):
        C = 2.0 * exact_moments([kind.array(rows)])[0]
        room = 200 * kind.eps * np.trace(C)
        missing = np.linalg.eigvalsh(C - gram(merged.sketches()[i]))
        Delta = float(merged.error_bounds()[i])
        assert missing[0] >= -room
        assert missing[-1] <= Delta + room
        lam = np.maximum(np.linalg.eigvalsh(C)[::-1], 0.0)
        least = min(size, other_size)
        best = min(lam[k:].sum() / (least + 1 - k) for k in range(least + 1))
        assert Delta <= best + room


def test_answers_with_the_kind_of_array_it_was_asked_with(kind):
    X = kind.array(STREAMS)
    bank = SketchBank(5, 12, 4).partial_fit(X)
    assert bank.sketches().dtype == X.dtype
    for answer in (bank.sketches(), bank.error_bounds(), bank.diagonals(), bank.n_skipped):
        assert type(answer) is type(X)


def test_asking_and_writing_to_answers_change_nothing(kind):
    bank, twin = (SketchBank(5, 12, 4).partial_fit(kind.array(STREAMS)) for _ in range(2))
    bank.sketches()[...] = 7.0
    bank.diagonals()[...] = 7.0
    bank.error_bounds()[...] = 7.0
    bank.partial_fit(kind.array(STREAMS))
    twin.partial_fit(kind.array(STREAMS))
    assert np.array_equal(np.asarray(bank.sketches()), np.asarray(twin.sketches()))
    assert np.array_equal(np.asarray(bank.diagonals()), np.asarray(twin.diagonals()))


def test_a_copy_is_independent_and_a_reset_bank_like_a_new_one():
    bank = SketchBank(5, 12, 4, decay=0.9).partial_fit(STREAMS)
    twin = bank.copy().partial_fit(STREAMS)
    assert twin.n_samples_seen.tolist() == [120] * 5
    assert bank.n_samples_seen.tolist() == [60] * 5
    again = twin.reset().partial_fit(STREAMS)
    assert np.array_equal(again.sketches(), bank.sketches())


def test_weights_and_bad_rows_are_those_of_each_stream():
    X, w = STREAMS.copy(), np.random.default_rng(0).random((5, 60))
    X[1, 3], X[4, :7, 2] = np.nan, np.inf
    bank = SketchBank(5, 12, 20).partial_fit(X, sample_weight=w)
    assert bank.n_skipped.tolist() == [0, 1, 0, 0, 7]
    for i in range(5):
        good = np.isfinite(X[i]).all(axis=1)
        C = (w[i, good] * X[i, good].T) @ X[i, good]
        assert np.allclose(gram(bank.sketches()[i]), C, atol=1e-10 * np.trace(C))


def test_a_wider_batch_widens_the_bank():
    bank = SketchBank(5, 12, 4).partial_fit(STREAMS.astype(np.float32))
    assert bank.sketches().dtype == np.float32
    assert bank.partial_fit(STREAMS).sketches().dtype == np.float64
    assert bank.partial_fit(STREAMS.astype(np.float32)).sketches().dtype == np.float64


def test_a_training_loop_does_not_reach_the_arithmetic(kind):
    X = kind.array(STREAMS)
    plain, hooked = SketchBank(5, 12, 4).partial_fit(X), SketchBank(5, 12, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        hooked.partial_fit(X * 1.0)
    hooked.partial_fit(X)
    plain.partial_fit(X)
    assert np.array_equal(np.asarray(hooked.sketches()), np.asarray(plain.sketches()))


@pytest.mark.parametrize(
    "call, error, what",
    [
        (lambda bank: bank.partial_fit(STREAMS[:4]), ValueError, r"X must have shape \[5, N, 12\]"),
        (lambda bank: bank.partial_fit(STREAMS[0]), ValueError, r"X must have shape \[5, N, 12\]"),
        (lambda bank: bank.partial_fit([[[1.0]]]), TypeError, "X must be an array"),
        (lambda bank: bank.partial_fit(STREAMS > 0), TypeError, "X must hold real numbers"),
        (lambda bank: bank.partial_fit(torch.ones(5, 2, 12)), TypeError, "X must be of numpy"),
        (lambda bank: bank.partial_fit(STREAMS, -1.0), ValueError, "sample_weight must be finite"),
        (lambda bank: bank.partial_fit(STREAMS, np.ones(5)), ValueError, "sample_weight must have"),
        (lambda bank: bank.merge(FrequentDirections(12, 4)), TypeError, "other must be a Sketch"),
        (lambda bank: bank.merge(SketchBank(4, 12, 4)), ValueError, "n_sketches must be equal"),
        (lambda bank: bank.merge(SketchBank(5, 11, 4)), ValueError, "n_features must be equal"),
        (lambda bank: SketchBank(0, 12, 4), ValueError, "n_sketches must be at least 1"),
        (lambda bank: SketchBank(5, 12, 4, decay=0.0), ValueError, "decay must be in"),
        (lambda bank: SketchBank(5, 12, 4, center=True), TypeError, "argument 'center'"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(call, error, what):
    bank = SketchBank(5, 12, 4).partial_fit(STREAMS)
    before = bank.sketches()
    with pytest.raises(error, match=what):
        call(bank)
    assert np.array_equal(bank.sketches(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_bank_computes_on_a_gpu():
    X = torch.from_numpy(STREAMS)
    host = SketchBank(5, 12, 4).partial_fit(X)
    there = SketchBank(5, 12, 4).partial_fit(X.cuda())
    assert there.sketches().device.type == "cuda"
    for i in range(5):
        room = 1e-12 * float(host.total_masses()[i])
        gap = gram(host.sketches()[i]) - gram(there.to("cpu").sketches()[i])
        assert np.abs(gap).max() <= room
