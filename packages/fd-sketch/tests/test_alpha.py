"""Sparing the first directions: what the theorem is then, and where it ends."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fd_sketch import FrequentDirections
from fd_sketch.testing import exact_moments

ALPHAS = [1.0, 0.5, 0.2, 0.0]


@st.composite
def streams(draw):
    n, d = draw(st.integers(0, 60)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    X = rng.standard_normal((n, d)) * np.logspace(0, -draw(st.integers(0, 4)), d)
    sizes = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    return X.astype(np.float32).astype(np.float64), *sizes, draw(st.sampled_from(ALPHAS))


def by_the_paper(X, size, extra, alpha):
    """The method in plain numpy: only the last ceil(alpha size) squares are lowered."""
    spared = size - math.ceil(round(alpha * size, 6))
    Z, Delta = np.zeros((0, X.shape[1])), 0.0
    parts = [X[:0], *(X[i : i + 1] for i in range(len(X))), None]
    for x in parts:
        if x is None or len(Z) == size + extra:
            _, sigma, Vt = np.linalg.svd(Z, full_matrices=False)
            delta = sigma[size] ** 2 if size < len(sigma) else 0.0
            lowered = sigma[:size] ** 2 - np.where(np.arange(len(sigma[:size])) < spared, 0, delta)
            Z = np.sqrt(np.maximum(lowered, 0.0))[:, None] * Vt[:size]
            Delta += delta
        if x is not None:
            Z = np.concatenate([Z, x])
    return Z, Delta


def lacking(C, sketch):
    B = np.asarray(sketch.sketch(), dtype=np.float64)
    return np.linalg.eigvalsh(C - B.T @ B)


@given(streams())
def test_keeps_the_theorem_of_its_alpha(kind, stream):
    X, size, extra, alpha = stream
    sketch = FrequentDirections(X.shape[1], size, buffer_size=extra, alpha=alpha)
    sketch.partial_fit(kind.array(X))
    C, _, _ = exact_moments([X])
    room = 100 * kind.eps * np.trace(C)
    low, high = lacking(C, sketch)[[0, -1]]
    assert low >= -room
    assert high <= sketch.error_bound() + room
    lowered = math.ceil(round(alpha * size, 6))
    assert (lowered + 1) * sketch.error_bound() <= sketch.residual_mass() + 10 * room
    lam = np.linalg.eigvalsh(C)[::-1]
    for k in range(lowered + 1):
        best = lam[k:].sum() / (lowered + 1 - k)
        # the same with alpha l in the place of its ceiling, as the paper has it
        assert sketch.error_bound() <= best + room
        assert alpha * size + 1 <= k or best <= lam[k:].sum() / (alpha * size + 1 - k) + room


@given(streams())
def test_agrees_with_the_method_in_plain_numpy(kind, stream):
    X, size, extra, alpha = stream
    sketch = FrequentDirections(X.shape[1], size, buffer_size=extra, alpha=alpha)
    sketch.partial_fit(kind.array(X))
    B, Delta = by_the_paper(X, size, extra, alpha)
    A = np.asarray(sketch.sketch(), dtype=np.float64)
    # near a tie the directions may be told apart only down to the root of the rounding
    room = 1000 * kind.eps * np.sum(X * X)
    assert abs(sketch.error_bound() - Delta) <= room
    assert abs(np.sum(A * A) - np.sum(B * B)) <= room


def test_first_directions_are_kept_whole_and_the_others_lowered(kind):
    # squares 36, 25, 16, 9, 4, 1; four rows, of which half is lowered by 4
    X = kind.array(np.diag([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    energies = {
        alpha: np.sum(
            np.asarray(FrequentDirections(6, 4, alpha=alpha).partial_fit(X).sketch()) ** 2, 1
        )
        for alpha in (1.0, 0.5, 0.3, 0.25, 0.0)
    }
    assert energies[1.0] == pytest.approx([32.0, 21.0, 12.0, 5.0])
    assert energies[0.5] == pytest.approx([36.0, 25.0, 12.0, 5.0])
    # a part of a row counts as a row
    assert energies[0.3] == pytest.approx([36.0, 25.0, 12.0, 5.0])
    assert energies[0.25] == pytest.approx([36.0, 25.0, 16.0, 5.0])
    assert energies[0.0] == pytest.approx([36.0, 25.0, 16.0, 9.0])


def test_a_share_that_is_a_whole_number_of_rows_is_not_rounded_up():
    # 0.55 * 100 is a little more than 55 in binary
    X = np.diag(np.sqrt(np.arange(120.0, 0.0, -1.0)))
    B = FrequentDirections(120, 100, buffer_size=20, alpha=0.55).partial_fit(X).sketch()
    lost = np.arange(120.0, 20.0, -1.0) - np.sum(B * B, axis=1)
    assert np.count_nonzero(lost > 10.0) == 55


@pytest.mark.parametrize("alpha", [0.2, 0.0])
def test_rows_that_stay_as_they_are_lose_less_when_the_first_are_spared(alpha):
    X = np.random.default_rng(0).standard_normal((2000, 40)) * np.arange(1, 41) ** -0.8
    C, _, _ = exact_moments([X])
    errors = {
        share: lacking(C, FrequentDirections(40, 10, alpha=share).partial_fit(X))[-1]
        for share in (1.0, alpha)
    }
    assert errors[alpha] < errors[1.0]


def test_merging_needs_the_same_alpha():
    one, two = FrequentDirections(4, 2, alpha=0.5), FrequentDirections(4, 2)
    with pytest.raises(ValueError, match="alpha must be equal in both sketches, got 0.5 and 1.0"):
        one.merge(two)


@pytest.mark.parametrize(
    "alpha, error, message",
    [
        (-0.1, ValueError, r"alpha must be in \[0, 1\], got -0.1"),
        (1.5, ValueError, r"alpha must be in \[0, 1\], got 1.5"),
        (float("nan"), ValueError, r"alpha must be in \[0, 1\], got nan"),
        ("all", TypeError, "alpha must be a number, got str"),
    ],
)
def test_alpha_is_checked(alpha, error, message):
    with pytest.raises(error, match=message):
        FrequentDirections(4, 2, alpha=alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_alpha_is_saved(alpha):
    sketch = FrequentDirections(4, 2, alpha=alpha).partial_fit(np.eye(4))
    back = FrequentDirections.from_bytes(sketch.to_bytes())
    assert back.alpha == alpha
    assert back.copy().reset().alpha == alpha
    X = np.random.default_rng(0).standard_normal((30, 4))
    assert back.partial_fit(X).to_bytes() == sketch.partial_fit(X).to_bytes()
