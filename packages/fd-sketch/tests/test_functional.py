"""The functional core: the laws of a sketch, the steps of the class, one graph."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from fd_sketch import ExactGram, FrequentDirections
from fd_sketch.functional import (
    fd_error_bound,
    fd_init,
    fd_merge,
    fd_sketch,
    fd_update,
)
from fd_sketch.testing import (
    check_bounds,
    check_determinism,
    check_merge,
    check_rotation,
    check_scale,
    check_splits,
    check_weights,
    check_zero_rows,
    exact_moments,
)

VALUES = np.random.default_rng(0).standard_normal((200, 20))


class Functional(ExactGram):
    """A face of the functions for the laws: what they do not compute, the exact moment does."""

    def __init__(self, d, size, extra, like, decay=1.0):
        super().__init__(d, decay=decay)
        self.fd = fd_init(d, size, buffer_size=extra, like=like)

    def partial_fit(self, X, sample_weight=None):
        super().partial_fit(X, sample_weight)
        X = X.reshape(-1, X.shape[-1])
        w = sample_weight
        if w is not None:
            w = np.broadcast_to(np.asarray(w, dtype=np.float64), len(X)).copy()
            w = w if isinstance(X, np.ndarray) else torch.from_numpy(w)
        self.fd = fd_update(self.fd, X, sample_weight=w, decay=self.decay)
        return self

    def merge(self, other):
        super().merge(other)
        self.fd = fd_merge(self.fd, other.fd)
        return self

    def sketch(self):
        B = fd_sketch(self.fd)
        return B[(B != 0).any(-1)]

    def error_bound(self):
        return float(fd_error_bound(self.fd))

    def to_bytes(self):
        return b"".join(np.asarray(A).tobytes() for A in self.fd)


@pytest.mark.parametrize("decay", [1.0, 0.8])
@pytest.mark.parametrize("size, extra", [(4, 8), (4, 1), (12, 30)])
@pytest.mark.parametrize("shape", [(33, 9), (5, 17), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_keeps_the_laws_of_a_sketch(kind, shape, size, extra, decay):
    X = kind.array(np.random.default_rng(0).standard_normal(shape) + 0.3)

    def make():
        return Functional(shape[1], size, extra, X, decay)

    for law in (check_bounds, check_merge, check_weights, check_zero_rows):
        law(make, X, decay=decay)
    for law in (check_rotation, check_scale, check_determinism):
        law(make, X)
    if decay == 1.0:
        check_splits(make, X)


@given(
    st.integers(1, 80),
    st.integers(1, 12),
    st.integers(1, 14),
    st.integers(1, 20),
    st.integers(1, 40),
    st.sampled_from([1.0, 0.9]),
    st.integers(0, 99),
)
def test_takes_the_steps_of_the_class(n, d, size, extra, step, decay, seed):
    X = np.random.default_rng(seed).standard_normal((n, d))
    state = fd_init(d, size, buffer_size=extra, like=X)
    sketch = FrequentDirections(d, size, buffer_size=extra, decay=decay)
    for start in range(0, n, step):
        state = fd_update(state, X[start : start + step], decay=decay)
        sketch.partial_fit(X[start : start + step])
    B, A = fd_sketch(state), sketch.sketch()
    room = 1e-12 * sketch.total_mass()
    assert B.shape == (size, d)
    assert np.abs(B.T @ B - A.T @ A).max() <= room
    assert abs(float(fd_error_bound(state)) - sketch.error_bound()) <= room
    assert np.allclose(state.diagonal, sketch.diagonal(), rtol=1e-12)
    assert int(state.n_seen) == n


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_is_one_graph_for_all_batches_of_a_shape(backend):
    X = torch.from_numpy(VALUES)
    counter = CompileCounterWithBackend(backend)
    update = torch.compile(fd_update, backend=counter, fullgraph=True)
    ours = theirs = fd_init(20, 4, like=X)
    for start in range(0, 200, 10):
        ours = update(ours, X[start : start + 10])
        theirs = fd_update(theirs, X[start : start + 10])
    # dynamo may look at a graph without operations first
    assert sum(len(graph.graph.nodes) > 1 for graph in counter.graphs) == 1
    assert float(fd_error_bound(ours)) > 0.0
    assert fd_error_bound(ours) == fd_error_bound(theirs)
    assert torch.equal(fd_sketch(ours), fd_sketch(theirs))


def test_questions_and_merges_compile_as_well():
    X = torch.from_numpy(VALUES)
    a, b = (fd_update(fd_init(20, size, like=X), X[:60]) for size in (6, 4))

    def whole(a, b, decay):
        merged = fd_update(fd_merge(a, b), X[60:70], decay=decay)
        return fd_sketch(merged), fd_error_bound(merged)

    decay = torch.tensor(0.5, dtype=torch.float64)
    for ours, theirs in zip(
        torch.compile(whole, backend="eager", fullgraph=True)(a, b, decay),
        whole(a, b, decay),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_maps_over_a_bank_of_states():
    X = torch.from_numpy(VALUES).reshape(5, 40, 20)
    bank = fd_update(fd_init(20, 4, like=X, batch_shape=(5,)), X)
    for i in range(5):
        alone = fd_update(fd_init(20, 4, like=X), X[i])
        assert torch.allclose(fd_sketch(bank)[i], fd_sketch(alone), atol=1e-12)
        assert torch.allclose(fd_error_bound(bank)[i], fd_error_bound(alone), rtol=1e-12)


def test_a_state_is_left_as_it_was(kind):
    X = kind.array(VALUES)
    state = fd_update(fd_init(20, 4, like=X), X)
    saved = [np.asarray(A).copy() for A in state]
    fd_update(state, X, decay=0.5), fd_merge(state, state), fd_sketch(state)
    assert all(np.array_equal(np.asarray(A), B) for A, B in zip(state, saved, strict=True))
    assert type(fd_sketch(state)) is type(X)
    assert fd_sketch(state).dtype == X.dtype


def test_bad_rows_become_nothing_and_are_counted(kind):
    X = VALUES[:30].copy()
    X[3, 0], X[7, 1], X[8] = np.nan, np.inf, 1e30 if kind.dtype == "float32" else 1e150
    good = [i for i in range(30) if i not in (3, 7, 8)]
    state = fd_update(fd_init(20, 40, like=kind.array(X)), kind.array(X))
    B = np.asarray(fd_sketch(state), dtype=np.float64)
    C = exact_moments([kind.array(VALUES[good])])[0]
    assert np.abs(B.T @ B - C).max() <= 100 * kind.eps * np.trace(C)
    assert (int(state.n_seen), int(state.n_skipped)) == (27, 3)
    assert np.allclose(np.asarray(state.diagonal), np.diag(C), rtol=1e-12)


def test_bad_weights_of_a_graph_make_nothing_of_their_rows_and_are_counted():
    X, w = torch.from_numpy(VALUES[:30]), torch.ones(30, dtype=torch.float64)
    w[11], w[12], w[13] = -1.0, np.nan, np.inf
    update = torch.compile(fd_update, backend="eager", fullgraph=True)
    state = update(fd_init(20, 40, like=X), X, sample_weight=w)
    good = [i for i in range(30) if i not in (11, 12, 13)]
    assert (int(state.n_seen), int(state.n_skipped)) == (27, 3)
    assert np.allclose(state.diagonal, (VALUES[good] ** 2).sum(0), rtol=1e-12)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_that_are_known_are_refused(kind, bad):
    X, w = kind.array(VALUES[:30]), np.ones(30)
    w[11] = bad
    weights = w if kind.library == "numpy" else torch.from_numpy(w)
    for bad_weight in (weights, bad):
        with pytest.raises(ValueError, match=f"sample_weight must be finite .*, got {bad}"):
            fd_update(fd_init(20, 4, like=X), X, sample_weight=bad_weight)


@pytest.mark.parametrize("weight", [3, 0.25, 0.0, np.float32(2.0)])
def test_one_weight_weighs_all_rows(kind, weight):
    X = kind.array(VALUES[:30])
    weights = np.full(30, float(weight))
    weights = weights if kind.library == "numpy" else torch.from_numpy(weights)
    one, many = (fd_update(fd_init(20, 4, like=X), X, sample_weight=w) for w in (weight, weights))
    assert all(np.array_equal(np.asarray(A), np.asarray(B)) for A, B in zip(one, many, strict=True))


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, 2, np.nan, np.float32(1.5)])
def test_a_decay_that_is_none_is_refused(kind, decay):
    X = kind.array(VALUES[:30])
    with pytest.raises(ValueError, match=r"decay must be in \(0, 1\], got "):
        fd_update(fd_init(20, 4, like=X), X, decay=decay)


def test_numbers_for_decay_and_weight_compile():
    X = torch.from_numpy(VALUES)
    update = torch.compile(fd_update, backend="eager", fullgraph=True)
    state = fd_update(fd_init(20, 4, like=X), X[:20])
    for decay, weight in ((0.9, 2.0), (0.8, 0.5), (1, 3)):
        ours = update(state, X[:10], decay=decay, sample_weight=weight)
        theirs = fd_update(state, X[:10], decay=decay, sample_weight=weight)
        assert torch.equal(fd_sketch(ours), fd_sketch(theirs))
        assert fd_error_bound(ours) == fd_error_bound(theirs)


@pytest.mark.parametrize("exponent", [-80, 80])
def test_tiny_and_huge_rows_keep_the_bounds_in_float32(exponent):
    X = (VALUES * 2.0**exponent).astype(np.float32)
    state = fd_update(fd_init(20, 4, like=X), X)
    B, C = fd_sketch(state).astype(np.float64), exact_moments([X])[0]
    missing = np.linalg.eigvalsh(C - B.T @ B)
    room = 1e-5 * np.trace(C)
    assert missing[0] >= -room
    assert room < missing[-1] <= float(fd_error_bound(state)) + room


def test_many_steps_of_decay_do_not_drift():
    X = VALUES.astype(np.float32)
    state = fd_update(fd_init(20, 4, like=X), X)
    for _ in range(500):
        state = fd_update(state, X[:0], decay=0.9)
    B = fd_sketch(fd_update(fd_init(20, 4, like=X), X)).astype(np.float64)
    A = fd_sketch(state).astype(np.float64)
    assert np.allclose(A.T @ A, 0.9**500 * B.T @ B, rtol=1e-5, atol=1e-6 * 0.9**500)


@pytest.mark.parametrize("sizes", [(6, 6), (4, 9), (9, 4)])
def test_states_of_different_pasts_are_merged_by_what_they_weigh_now(kind, sizes):
    X, states, C = [kind.array(VALUES[:60]), kind.array(VALUES[60:])], [], 0.0
    for rows, size, decay in zip(X, sizes, (0.3, 0.9), strict=True):
        state = fd_update(fd_init(20, size, like=rows), rows)
        states.append(fd_update(state, rows[:0], decay=decay))
        C = C + decay * exact_moments([rows])[0]
    merged = fd_merge(*states)
    B = np.asarray(fd_sketch(merged), dtype=np.float64)
    missing, room = np.linalg.eigvalsh(C - B.T @ B), 100 * kind.eps * np.trace(C)
    assert B.shape == (min(sizes), 20)
    assert missing[0] >= -room
    assert missing[-1] <= float(fd_error_bound(merged)) + room
    assert np.allclose(np.asarray(merged.diagonal), np.diag(C), rtol=1e-12)


def test_autograd_ends_here():
    X = torch.from_numpy(VALUES).requires_grad_()
    state = fd_update(fd_init(20, 4, like=X), X)
    assert not any(A.requires_grad for A in state)


@pytest.mark.parametrize(
    "call, error, what",
    [
        (lambda s: fd_init(0, 4), ValueError, "n_features must be at least 1, got 0"),
        (lambda s: fd_init(4, 4, buffer_size=0), ValueError, "buffer_size must be at least 1"),
        (lambda s: fd_init(4, 4, like=np.arange(3)), TypeError, "like must be of float32 or"),
        (lambda s: fd_update(s, [[1.0]]), TypeError, "X must be an array, got list"),
        (
            lambda s: fd_update(s, torch.ones(2, 20)),
            TypeError,
            "X must be of numpy like the arrays of the state, got torch",
        ),
        (
            lambda s: fd_update(np.ones((2, 20)), s),
            TypeError,
            "state must be an FDState, got ndarray",
        ),
        (lambda s: fd_sketch(None), TypeError, "state must be an FDState, got NoneType"),
        (lambda s: fd_error_bound(s.kept), TypeError, "state must be an FDState, got ndarray"),
        (lambda s: fd_merge(s.kept, s), TypeError, "a must be an FDState, got ndarray"),
        (lambda s: fd_merge(s, 3), TypeError, "b must be an FDState, got int"),
        (lambda s: fd_update(s, np.ones((2, 20)), decay="0.9"), TypeError, "decay must be a num"),
        (lambda s: fd_init(4, 4, like=np.float32), TypeError, "like must be an array, got type"),
        (lambda s: fd_update(s, np.ones((2, 21))), ValueError, r"X must have shape \[N, 20\]"),
        (lambda s: fd_update(s, np.ones(20)), ValueError, r"X must have shape \[N, 20\]"),
        (
            lambda s: fd_update(s, np.ones((2, 20)), sample_weight=np.ones(3)),
            ValueError,
            r"sample_weight must have shape \[2\], got \[3\]",
        ),
        (
            lambda s: fd_update(s, np.ones((2, 20)), sample_weight=torch.ones(2)),
            TypeError,
            "sample_weight must be an array like X, got Tensor",
        ),
        (lambda s: fd_merge(s, fd_init(21, 4)), ValueError, "b must have shape"),
        (
            lambda s: fd_merge(s, fd_init(20, 4, like=torch.ones(1))),
            TypeError,
            "b must be of numpy",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, error, what):
    with pytest.raises(error, match=what):
        call(fd_init(20, 4))
