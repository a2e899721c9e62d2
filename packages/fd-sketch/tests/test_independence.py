"""States are one's own: not a copy's, not a graph's, not that of a call that failed."""

import copy

import numpy as np
import pytest
import torch

from fd_sketch import ExactGram, FrequentDirections, SketchBank
from fd_sketch.functional import fd_error_bound, fd_init, fd_sketch, fd_update

pytest.importorskip("sklearn")
from fd_sketch.distributed import merge_tree
from fd_sketch.sklearn import FrequentDirectionsPCA


@pytest.mark.parametrize("make", [lambda: FrequentDirections(4, 2), lambda: ExactGram(4)])
def test_a_shallow_copy_is_a_sketch_of_its_own(make):
    sketch = make().partial_fit(np.eye(4)[:1])
    twin = copy.copy(sketch)
    sketch.partial_fit(np.eye(4)[1:2] * 2)
    twin.partial_fit(np.eye(4)[2:3] * 7)
    for each, wanted in ((sketch, [1, 4, 0, 0]), (twin, [1, 0, 49, 0])):
        B = each.sketch()
        assert np.allclose(np.diag(B.T @ B), wanted)
        assert np.allclose(each.diagonal(), wanted)


@pytest.mark.parametrize("rows", [0, 3, 30])
def test_a_bank_of_host_tensors_can_be_moved_to_the_host(rows):
    X = torch.ones(1, rows, 4)
    bank = SketchBank(1, 4, 2).partial_fit(X)
    wanted = bank.sketches().clone()
    assert torch.equal(bank.to("cpu").sketches(), wanted)
    assert int(bank.partial_fit(X).n_samples_seen[0]) == 2 * rows


@pytest.mark.parametrize(
    "decay", [torch.tensor(0.9997), np.float32(0.9997), torch.tensor(0.9997, requires_grad=True)]
)
def test_decay_in_low_precision_does_not_drift(decay):
    row = torch.ones(1, 1, dtype=torch.float64)
    state = fd_init(1, 1, like=row)
    for _ in range(3000):
        state = fd_update(state, row, decay=decay)
    mass = float(state.diagonal[0])
    assert float((fd_sketch(state) ** 2).sum()) == pytest.approx(mass, rel=1e-9)
    assert float(fd_error_bound(state)) <= 1e-9 * mass


def test_no_graph_gets_into_a_state():
    w = torch.ones(3, requires_grad=True)
    state = fd_update(fd_init(4, 2, like=torch.zeros(1)), torch.ones(3, 4), sample_weight=w)
    assert not any(array.requires_grad for array in state)


def test_sketches_without_rows_do_not_limit_a_tree():
    X = np.random.default_rng(0).standard_normal((60, 10))
    full = FrequentDirections(10, 8).partial_fit(X)
    for order in ([0, 1], [1, 0]):
        sketches = [FrequentDirections(10, 2), full.copy()]
        merged = merge_tree([sketches[i] for i in order])
        assert merged.sketch_size == 8
        assert merged.error_bound() == full.error_bound()


def test_a_tree_of_something_else_is_refused():
    with pytest.raises(TypeError, match="sketches must hold nothing but sketches, got int at 0"):
        merge_tree([3])


def test_a_fit_that_fails_leaves_the_estimator_as_it_was():
    draw = np.random.default_rng(0)
    pca = FrequentDirectionsPCA(2).fit(draw.standard_normal((30, 5)))
    with pytest.raises(ValueError, match="sample_weight"):
        pca.fit(draw.standard_normal((30, 7)), sample_weight=-np.ones(30))
    assert pca.transform(draw.standard_normal((3, 5))).shape == (3, 2)


def test_arguments_are_checked_at_every_batch():
    draw = np.random.default_rng(0)
    pca = FrequentDirectionsPCA(2).partial_fit(draw.standard_normal((30, 5)))
    with pytest.raises(ValueError, match="n_components must be in 1..5"):
        pca.set_params(n_components=9).partial_fit(draw.standard_normal((30, 5)))
