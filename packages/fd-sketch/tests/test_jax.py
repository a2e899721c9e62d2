"""Arrays of jax: the functions take them, the classes say why they do not."""

import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections, SketchBank, SlidingFrequentDirections
from fd_sketch.functional import fd_error_bound, fd_init, fd_merge, fd_sketch, fd_update

X = np.random.default_rng(0).standard_normal((200, 20))


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_functions_agree_with_numpy(jax, dtype, compiled):
    update = jax.jit(fd_update) if compiled else fd_update
    ours = fd_init(20, 4, like=X.astype(dtype))
    theirs = fd_init(20, 4, like=jax.numpy.asarray(X, dtype=dtype))
    for start in range(0, 200, 25):
        rows = X[start : start + 25].astype(dtype)
        ours = fd_update(ours, rows, decay=0.9)
        theirs = update(theirs, jax.numpy.asarray(rows), decay=0.9)
    room = 100 * np.finfo(dtype).eps * float(ours.diagonal.sum())
    A, B = fd_sketch(ours).astype(float), np.asarray(fd_sketch(theirs), dtype=float)
    assert fd_sketch(theirs).dtype == dtype
    assert np.abs(A.T @ A - B.T @ B).max() <= room
    assert abs(float(fd_error_bound(ours)) - float(fd_error_bound(theirs))) <= room


def test_one_graph_serves_all_batches_of_a_shape(jax):
    traced = []

    def update(state, rows):
        traced.append(rows.shape)
        return fd_update(state, rows)

    update, state = jax.jit(update), fd_init(20, 4, like=jax.numpy.asarray(X))
    for start in range(0, 200, 10):
        state = update(state, jax.numpy.asarray(X[start : start + 10]))
    assert traced == [(10, 20)]
    assert int(state.n_seen) == 200


def test_merges_and_banks_are_mapped_and_compiled(jax):
    shards = jax.numpy.asarray(X).reshape(2, 100, 20)
    bank = jax.jit(fd_update)(fd_init(20, 4, like=shards, batch_shape=(2,)), shards)
    a, b = (fd_update(fd_init(20, 4, like=shards), rows) for rows in shards)
    assert np.allclose(fd_sketch(bank)[1], fd_sketch(b), atol=1e-9)
    merged = jax.jit(fd_merge)(a, b)
    B = np.asarray(fd_sketch(merged))
    missing = np.linalg.eigvalsh(X.T @ X - B.T @ B)
    assert missing[0] > -1e-9
    assert missing[-1] <= float(fd_error_bound(merged)) + 1e-9


def test_without_float64_there_is_no_bound(jax):
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(ValueError, match="like must come with jax_enable_x64"):
        fd_init(20, 4, like=jax.numpy.ones(3))


MAKERS = [
    lambda: FrequentDirections(20, 4),
    lambda: ExactGram(20),
    lambda: SlidingFrequentDirections(20, 4, 50),
    lambda: SketchBank(1, 20, 4),
]
REFUSAL = r"X must not be an array of jax.*numpy\.asarray\(X\).*fd_sketch\.functional"


@pytest.mark.parametrize("make", MAKERS)
def test_the_classes_refuse_them_and_say_what_to_do(jax, make):
    with pytest.raises(TypeError, match=REFUSAL):
        make().partial_fit(jax.numpy.asarray(X)[None])


@pytest.mark.parametrize("make", MAKERS)
def test_the_refusal_needs_no_jax(monkeypatch, make):
    monkeypatch.setattr("fd_sketch._arrays.compat.is_jax_array", lambda A: True)
    with pytest.raises(TypeError, match=REFUSAL):
        make().partial_fit(object())
