"""Sparse rows of scipy: read a few at a time, and to the bit what dense rows are."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from fd_sketch import ExactGram, FrequentDirections
from fd_sketch._rows import between

RNG = np.random.default_rng(0)
# no negative zeros, which sparse matrices do not store
ROWS = RNG.standard_normal((60, 8)) * (RNG.random((60, 8)) < 0.3) + 0.0
ROWS[7] = 0.0
METHODS = [
    pytest.param(lambda **options: FrequentDirections(8, 3, buffer_size=4, **options), id="fd"),
    pytest.param(lambda **options: ExactGram(8, **options), id="exact"),
]
FORMS = [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array, sp.coo_array, sp.dia_array]


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("center", [False, True])
def test_sparse_rows_are_dense_rows_to_the_bit(make, form, dtype, center):
    X = np.round(ROWS * 4).astype(dtype) if dtype == "int64" else ROWS.astype(dtype)
    w = np.linspace(0.0, 2.0, 60)
    sparse, dense = make(center=center, decay=0.9), make(center=center, decay=0.9)
    for part, v in ((slice(0, 1), None), (slice(1, 40), w[1:40]), (slice(40, 60), 0.5)):
        sparse.partial_fit(form(X[part]), sample_weight=v)
        dense.partial_fit(X[part], sample_weight=v)
    assert sparse.to_bytes() == dense.to_bytes()
    assert np.array_equal(sparse.sketch(), dense.sketch())
    assert np.array_equal(sparse.transform(form(X)), dense.transform(X))
    assert np.array_equal(sparse.residual(form(X)), dense.residual(X))


def test_a_batch_is_never_made_dense_as_a_whole(monkeypatch):
    seen = []

    def watched(X, start, stop):
        seen.append(stop - start)
        return between(X, start, stop)

    for module in ("_rows", "_base"):
        monkeypatch.setattr(f"fd_sketch.{module}.between", watched)
    rng = np.random.default_rng(0)
    X = sp.csr_array(rng.standard_normal((4000, 1024)) * (rng.random((4000, 1024)) < 0.01))
    X.toarray = None
    for sketch in (FrequentDirections(1024, 2, center=True), ExactGram(1024)):
        sketch.partial_fit(X)
    assert max(seen) <= 1024
    assert sketch.total_mass() == pytest.approx(float((X.multiply(X)).sum()))


@pytest.mark.parametrize("make", METHODS)
def test_stored_duplicates_add_up(make):
    data, columns, starts = [1.0, 2.0, 3.0], [4, 4, 0], [0, 2, 3]
    X = sp.csr_array((data, columns, starts), shape=(2, 8))
    assert make().partial_fit(X).total_mass() == 18.0
    assert X.nnz == 3


@pytest.mark.parametrize("make", METHODS)
def test_bad_sparse_rows_are_skipped_with_their_weights(make):
    X = ROWS.copy()
    X[3, 1] = X[50, 0] = np.nan
    w = np.linspace(0.1, 2.0, 60)
    sparse = make().partial_fit(sp.csr_array(X), sample_weight=w)
    dense = make().partial_fit(X, sample_weight=w)
    assert sparse.n_skipped == 2
    assert sparse.to_bytes() == dense.to_bytes()
    with pytest.raises(ValueError, match="X must hold finite rows .* row 3 is not"):
        make(nonfinite="raise").partial_fit(sp.csc_array(X))


@pytest.mark.parametrize(
    "rows, error, message",
    [
        (sp.csr_array(ROWS[:, :7]), ValueError, r"X must have shape \[..., 8\], got \[60, 7\]"),
        (sp.coo_array(ROWS[0]), ValueError, r"X must have shape \[..., 8\], got \[8\]"),
        (sp.csr_array(ROWS * 1j), TypeError, "X must hold real numbers, got dtype complex128"),
        (sp.csr_array(ROWS > 0), TypeError, "X must hold real numbers, got dtype bool"),
    ],
    ids=["features", "one dimension", "complex", "bool"],
)
@pytest.mark.parametrize("make", METHODS)
def test_sparse_rows_are_checked_and_errors_change_nothing(make, rows, error, message):
    sketch = make().partial_fit(ROWS)
    saved = sketch.to_bytes()
    with pytest.raises(error, match=message):
        sketch.partial_fit(rows)
    assert sketch.to_bytes() == saved


def test_directions_and_likenesses_must_be_dense():
    sketch = FrequentDirections(8, 3).partial_fit(ROWS)
    with pytest.raises(TypeError, match="V must be an array .*, got csr_array"):
        sketch.quadratic_form(sp.csr_array(ROWS))
    with pytest.raises(TypeError, match="like must be an array .*, got csr_array"):
        FrequentDirections.from_bytes(sketch.to_bytes(), like=sp.csr_array(ROWS))


def test_scipy_is_not_imported_for_dense_rows():
    code = "import sys, numpy, fd_sketch as f; f.ExactGram(2).partial_fit(numpy.ones((3, 2)))"
    check = f"{code}.transform(numpy.ones((3, 2))); sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_no_rows_are_an_empty_batch():
    sketch = FrequentDirections(8, 3, decay=0.5).partial_fit(sp.csr_array((0, 8)))
    assert sketch.n_samples_seen == 0
    assert tuple(sketch.transform(sp.csr_array((0, 8))).shape) == (0, 0)
    assert sketch.partial_fit(sp.csr_array(ROWS)).n_samples_seen == 60


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array, sp.coo_array])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_duplicates_add_up_beyond_the_range_of_their_dtype(make, form, dtype):
    top = np.iinfo(dtype).max
    data = np.array([top, top, 1], dtype=dtype)
    entries = {
        "coo": (data, ([0, 0, 1], [4, 4, 0])),
        "csr": (data, [4, 4, 0], [0, 2, 3]),
        "csc": (data[::-1].copy(), [1, 0, 0], [0, 1, 1, 1, 1, 3, 3, 3, 3]),
    }
    X = form(entries[form.__name__[:3]], shape=(2, 8))
    assert X.nnz == 3
    assert make().partial_fit(X).total_mass() == (2.0 * float(top)) ** 2 + 1.0
    assert X.nnz == 3
    assert X.dtype == dtype
