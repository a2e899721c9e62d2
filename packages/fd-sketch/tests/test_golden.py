"""What was saved once loads for ever, and answers as it did then."""

import json
from pathlib import Path

import numpy as np
import pytest

from fd_sketch import ExactGram, FrequentDirections

# written by the first release; whole numbers as rows
FOLDER = Path(__file__).parent / "data" / "version_1"
ANSWERS = json.loads((FOLDER / "answers.json").read_text())
METHODS = {"FrequentDirections": FrequentDirections, "ExactGram": ExactGram}
ROWS = np.arange(120).reshape(20, 6) * 7 % 11 - 5
V = (np.arange(12).reshape(2, 6) % 5 - 2).astype(float)


@pytest.fixture(params=ANSWERS)
def saved(request):
    want = ANSWERS[request.param]
    data = (FOLDER / f"{request.param}.bin").read_bytes()
    return METHODS[want["method"]].from_bytes(data), want


def close(got, want, slack):
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    return got.shape == want.shape and np.abs(got - want).max(initial=0.0) <= slack


def room(want):
    """What another BLAS may round differently."""
    return 100.0 * float(np.finfo(want["dtype"]).eps) * want["total_mass_after"]


def gram(sketch):
    B = np.asarray(sketch.sketch(), dtype=float)
    return B.T @ B


def test_every_saved_file_has_answers():
    assert sorted(path.stem for path in FOLDER.glob("*.bin")) == sorted(ANSWERS)


def test_arguments_and_exact_answers_are_to_the_bit(saved):
    sketch, want = saved
    for name in (
        *("n_features", "center", "decay", "nonfinite", "sketch_size", "buffer_size"),
        *("n_samples_seen", "n_skipped", "effective_weight"),
    ):
        assert getattr(sketch, name, None) == want[name]
    assert str(sketch.sketch().dtype) == want["dtype"]
    assert sketch.total_mass() == want["total_mass"]
    assert sketch.mean.tolist() == want["mean"]
    assert sketch.diagonal().tolist() == want["diagonal"]


def test_answers_of_the_sketch_are_as_they_were(saved):
    sketch, want = saved
    slack = room(want)
    B = np.asarray(sketch.sketch(), dtype=float)
    assert close(np.sum(B * B, axis=1), want["energies"], slack)
    assert close(gram(sketch), want["gram"], slack)
    for name in ("error_bound", "residual_mass", "residual_diagonal"):
        assert close(getattr(sketch, name)(), want[name], slack)
    assert close(sketch.quadratic_form(V), want["quadratic_form"], 20 * slack)
    form = sketch.quadratic_form(V, compensate=True)
    assert close(form, want["compensated_form"], 20 * slack)
    assert [sketch.energy_rank(eps) for eps in (0.02, 0.23, 0.61, 1.0)] == want["energy_ranks"]


def test_it_goes_on_as_it_would_have(saved):
    sketch, want = saved
    sketch.partial_fit(ROWS.astype(want["dtype"]))
    assert close(gram(sketch), want["gram_after"], 10 * room(want))
    assert close(sketch.error_bound(), want["error_bound_after"], 10 * room(want))
    assert close(sketch.total_mass(), want["total_mass_after"], 1e-12 * want["total_mass_after"])


def test_it_is_saved_again_and_comes_back_the_same(saved):
    sketch, _ = saved
    data = sketch.to_bytes()
    back = type(sketch).from_bytes(data)
    assert back.to_bytes() == data
    assert np.array_equal(back.sketch(), sketch.sketch())
    assert back.error_bound() == sketch.error_bound()
    assert repr(back) == repr(sketch)
