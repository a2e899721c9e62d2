"""Arrays in, arrays of the same kind out, whatever the training loop has switched on."""

import copy
import pickle

import numpy as np
import pytest
import torch

from fd_sketch import ExactGram, FrequentDirections

VALUES = np.random.default_rng(0).standard_normal((40, 6))
ANSWERS = ("diagonal", "residual_diagonal")


@pytest.mark.parametrize("make", [lambda: FrequentDirections(6, 3), lambda: ExactGram(6)])
def test_answers_with_the_kind_of_array_it_was_asked_with(kind, make):
    X = kind.array(VALUES)
    sketch = make().partial_fit(X)
    assert type(sketch.sketch()) is type(X)
    assert sketch.sketch().dtype == X.dtype
    for answer in (sketch.mean, *(getattr(sketch, name)() for name in ANSWERS)):
        assert type(answer) is type(X)
        assert "float64" in str(answer.dtype)


def test_device_arithmetic_agrees_with_numpy(kind):
    ours = FrequentDirections(6, 3, center=True).partial_fit(VALUES.astype(kind.dtype))
    other = FrequentDirections(6, 3, center=True).partial_fit(kind.array(VALUES))
    room = 100 * kind.eps * ours.total_mass()
    B, A = np.asarray(other.sketch(), dtype=float), ours.sketch().astype(float)
    assert np.abs(A.T @ A - B.T @ B).max() <= room
    assert abs(ours.error_bound() - other.error_bound()) <= room


@pytest.mark.parametrize(
    "given, kept",
    [
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("uint8", "float64"),
        ("int64", "float64"),
    ],
)
def test_keeps_rows_in_the_dtype_that_is_documented(kind, given, kept):
    X = torch.arange(12).reshape(4, 3).to(getattr(torch, given))
    if kind.library == "numpy":
        X = X.numpy()
    sketch = FrequentDirections(3, 3).partial_fit(X)
    B = np.asarray(sketch.sketch(), dtype=float)
    C = np.arange(12.0).reshape(4, 3).T @ np.arange(12.0).reshape(4, 3)
    assert str(sketch.sketch().dtype).endswith(kept)
    assert np.allclose(B.T @ B, C, rtol=1e-5)
    assert sketch.total_mass() == np.trace(C)


@pytest.mark.parametrize("make", [lambda: FrequentDirections(6, 3), lambda: ExactGram(6)])
def test_a_wider_batch_widens_the_sketch_and_a_narrower_one_does_not_narrow_it(kind, make):
    wide, narrow = kind._replace(dtype="float64"), kind._replace(dtype="float32")
    sketch = make().partial_fit(narrow.array(VALUES[:20]))
    assert "float32" in str(sketch.sketch().dtype)
    sketch.partial_fit(wide.array(VALUES[20:]))
    assert "float64" in str(sketch.sketch().dtype)
    sketch.partial_fit(narrow.array(VALUES))
    assert "float64" in str(sketch.sketch().dtype)
    merged = make().partial_fit(narrow.array(VALUES)).merge(sketch)
    assert "float64" in str(merged.sketch().dtype)


def test_flattens_leading_dimensions_and_takes_a_single_row(kind):
    X = VALUES[:24]
    flat = FrequentDirections(6, 3).partial_fit(kind.array(X))
    deep = FrequentDirections(6, 3).partial_fit(kind.array(X.reshape(2, 3, 4, 6)))
    assert deep.to_bytes() == flat.to_bytes()
    rows = FrequentDirections(6, 3)
    for x in X:
        rows.partial_fit(kind.array(x))
    assert np.array_equal(np.asarray(rows.sketch()), np.asarray(flat.sketch()))


def test_rows_are_only_read(kind):
    X = kind.array(VALUES)
    for options in ({}, {"center": True}):
        for sketch in (FrequentDirections(6, 3, **options), ExactGram(6, **options)):
            sketch.partial_fit(X, sample_weight=np.linspace(0, 2, 40)).sketch()
            assert np.array_equal(np.asarray(X), VALUES.astype(kind.dtype))


def test_a_training_loop_does_not_reach_the_arithmetic(kind):
    X = kind.array(VALUES)
    plain = FrequentDirections(6, 3).partial_fit(X).partial_fit(X)
    hooked = FrequentDirections(6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        hooked.partial_fit(X * 1.0)
    hooked.partial_fit(X if kind.library == "numpy" else X.requires_grad_())
    assert hooked.to_bytes() == plain.to_bytes()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        B = hooked.sketch()
    assert np.array_equal(np.asarray(B), np.asarray(plain.sketch()))


def test_batches_of_another_library_are_refused(kind):
    sketch = FrequentDirections(6, 3).partial_fit(kind.array(VALUES))
    saved = sketch.to_bytes()
    other = torch.from_numpy(VALUES) if kind.library == "numpy" else VALUES
    with pytest.raises(TypeError, match="X must be of .* like the data before"):
        sketch.partial_fit(other)
    with pytest.raises(TypeError, match="other must be of .* like the data before"):
        sketch.merge(FrequentDirections(6, 3).partial_fit(other))
    assert sketch.to_bytes() == saved


def test_moving_to_where_it_is_changes_nothing(kind):
    sketch = FrequentDirections(6, 3, decay=0.9).partial_fit(kind.array(VALUES))
    saved = sketch.to_bytes()
    assert sketch.to("cpu") is sketch
    assert sketch.to_bytes() == saved
    sketch.partial_fit(kind.array(VALUES))
    assert FrequentDirections(6, 3).to("cuda").n_samples_seen == 0


def test_copies_and_pickles_like_any_object(kind):
    sketch = FrequentDirections(6, 3, decay=0.9).partial_fit(kind.array(VALUES))
    for twin in (copy.deepcopy(sketch), pickle.loads(pickle.dumps(sketch))):
        twin.partial_fit(kind.array(VALUES))
        assert twin.n_samples_seen == 2 * sketch.n_samples_seen
        assert twin.to_bytes() == sketch.copy().partial_fit(kind.array(VALUES)).to_bytes()
