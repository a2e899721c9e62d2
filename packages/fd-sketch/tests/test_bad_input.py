import numpy as np
import pytest
import torch

from fd_sketch import ExactGram, FrequentDirections

X = np.random.default_rng(0).standard_normal((20, 4))


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((0, 3), {}, ValueError, "n_features must be at least 1, got 0"),
        ((4, 0), {}, ValueError, "sketch_size must be at least 1, got 0"),
        ((4, -2), {}, ValueError, "sketch_size must be at least 1, got -2"),
        ((4, 2.0), {}, TypeError, "sketch_size must be an int, got float"),
        ((4, True), {}, TypeError, "sketch_size must be an int, got bool"),
        ((4, 2), {"buffer_size": 0}, ValueError, "buffer_size must be at least 1, got 0"),
        ((4, 2), {"decay": 0.0}, ValueError, r"decay must be in \(0, 1\], got 0.0"),
        ((4, 2), {"decay": 1.1}, ValueError, r"decay must be in \(0, 1\], got 1.1"),
        ((4, 2), {"decay": float("nan")}, ValueError, r"decay must be in \(0, 1\], got nan"),
        ((4, 2), {"decay": None}, TypeError, "decay must be a number, got NoneType"),
        ((4, 2), {"center": 1}, TypeError, "center must be a bool, got int"),
        (
            (4, 2),
            {"nonfinite": "drop"},
            ValueError,
            "nonfinite must be 'skip' or 'raise', got 'drop'",
        ),
    ],
)
def test_arguments_are_checked(arguments, options, error, message):
    with pytest.raises(error, match=message):
        FrequentDirections(*arguments, **options)


@pytest.mark.parametrize(
    "rows, error, message",
    [
        (X[:, :3], ValueError, r"X must have shape \[..., 4\], got \[20, 3\]"),
        (X.reshape(20, 4, 1), ValueError, r"X must have shape \[..., 4\], got \[20, 4, 1\]"),
        (np.array(1.0), ValueError, r"X must have shape \[..., 4\], got \[\]"),
        (X.tolist(), TypeError, "X must be an array .*, got list"),
        (None, TypeError, "X must be an array .*, got NoneType"),
        (1.0, TypeError, "X must be an array .*, got float"),
        (np.float32, TypeError, "X must be an array, got the type float32"),
        (np.float64(1.0), TypeError, "X must be an array .*, got float64"),
        (np.ma.masked_invalid(X), TypeError, "X must be an array .*, got MaskedArray"),
        (X + 1j, TypeError, "X must hold real numbers, got dtype complex128"),
        (X > 0, TypeError, "X must hold real numbers, got dtype bool"),
        (X.astype(object), TypeError, "X must hold real numbers, got dtype object"),
        (X.astype(str), TypeError, "X must hold real numbers, got dtype <U"),
        (torch.eye(4).to_sparse(), TypeError, "X must be a dense tensor, got layout"),
        (torch.ones(2, 4, dtype=torch.complex64), TypeError, "X must hold real numbers"),
        (torch.ones(2, 4, dtype=torch.bool), TypeError, "X must hold real numbers"),
        (torch.ones(2, 3), ValueError, r"X must have shape \[..., 4\], got \[2, 3\]"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("make", [lambda: FrequentDirections(4, 2), lambda: ExactGram(4)])
def test_rows_are_checked_and_errors_change_nothing(make, rows, error, message):
    sketch = make()
    saved = sketch.to_bytes()
    with pytest.raises(error, match=message):
        sketch.partial_fit(rows)
    assert sketch.to_bytes() == saved
    assert sketch.partial_fit(X).n_samples_seen == 20


@pytest.mark.parametrize(
    "weights, error, message",
    [
        (-np.ones(20), ValueError, "sample_weight must be finite and not negative, got -1.0"),
        (np.full(20, np.nan), ValueError, "sample_weight must be finite and not negative, got nan"),
        (np.full(20, np.inf), ValueError, "sample_weight must be finite and not negative"),
        (np.full(20, 1e308), ValueError, "sample_weight must .*, got a sum of inf"),
        (-1.0, ValueError, "sample_weight must be finite and not negative, got -1.0"),
        (np.ones(19), ValueError, r"sample_weight must have shape \[20\], got \[19\]"),
        (np.ones((20, 1)), ValueError, r"sample_weight must have shape \[20\], got \[20, 1\]"),
        (np.ones(20) * 1j, TypeError, "sample_weight must hold real numbers, got dtype complex128"),
        ("heavy", TypeError, "sample_weight must hold real numbers"),
    ],
    ids=str,
)
def test_weights_are_checked_and_errors_change_nothing(weights, error, message):
    sketch = FrequentDirections(4, 2, decay=0.5).partial_fit(X)
    saved = sketch.to_bytes()
    with pytest.raises(error, match=message):
        sketch.partial_fit(X, sample_weight=weights)
    assert sketch.to_bytes() == saved


@pytest.mark.parametrize("weights", [np.full(20, 3), [3] * 20, 3, torch.full((20,), 3.0)])
def test_weights_come_in_any_form(weights):
    sketch = FrequentDirections(4, 2).partial_fit(X, sample_weight=weights)
    assert sketch.effective_weight == 60.0
    assert sketch.total_mass() == pytest.approx(3 * np.sum(X * X))


def test_weights_have_the_shape_of_the_rows():
    w = np.arange(20.0)
    deep = FrequentDirections(4, 2).partial_fit(X.reshape(5, 4, 4), sample_weight=w.reshape(5, 4))
    assert deep.to_bytes() == FrequentDirections(4, 2).partial_fit(X, sample_weight=w).to_bytes()


@pytest.mark.parametrize(
    "other, error, message",
    [
        (ExactGram(4), TypeError, "other must be a FrequentDirections, got ExactGram"),
        (None, TypeError, "other must be a FrequentDirections, got NoneType"),
        (FrequentDirections(5, 2), ValueError, "n_features must be equal .* got 4 and 5"),
        (
            FrequentDirections(4, 2, center=True),
            ValueError,
            "center must be equal .* False and True",
        ),
    ],
)
def test_only_sketches_of_a_kind_merge(other, error, message):
    sketch = FrequentDirections(4, 2).partial_fit(X)
    saved = sketch.to_bytes()
    with pytest.raises(error, match=message):
        sketch.merge(other)
    assert sketch.to_bytes() == saved


@pytest.mark.parametrize("eps", [-0.1, 1.1, float("nan")])
def test_fractions_are_checked(eps):
    with pytest.raises(ValueError, match=r"eps must be in \[0, 1\]"):
        FrequentDirections(4, 2).partial_fit(X).energy_rank(eps)
    with pytest.raises(TypeError, match="eps must be a number"):
        FrequentDirections(4, 2).partial_fit(X).energy_rank("half")


@pytest.mark.parametrize(
    "V, error, message",
    [
        (np.ones(4), ValueError, r"V must be \[k, 4\], got \[4\]"),
        (np.ones((2, 3)), ValueError, r"V must be \[k, 4\], got \[2, 3\]"),
        ([[1.0] * 4], TypeError, "V must be an array"),
        (np.ones((2, 4), dtype=complex), TypeError, "V must hold real numbers"),
    ],
)
def test_directions_are_checked(V, error, message):
    with pytest.raises(error, match=message):
        FrequentDirections(4, 2).partial_fit(X).quadratic_form(V)


def test_an_interrupted_batch_changes_nothing(monkeypatch):
    sketch = FrequentDirections(4, 2, buffer_size=2, center=True, decay=0.9).partial_fit(X)
    saved, calls = sketch.to_bytes(), []

    def failing(S):
        calls.append(S)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return np.linalg.eigh(S)[0][::-1], np.linalg.eigh(S)[1][:, ::-1]

    monkeypatch.setattr("fd_sketch._shrink.eigen", failing)
    with pytest.raises(KeyboardInterrupt):
        sketch.partial_fit(X)
    with pytest.raises(KeyboardInterrupt):
        sketch.merge(sketch.copy())
    monkeypatch.undo()
    assert sketch.to_bytes() == saved
