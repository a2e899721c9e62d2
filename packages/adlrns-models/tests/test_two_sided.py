"""Factors for weighted inputs and weighted outputs."""

import pytest
import torch

from adlrns_models import factorize, make_elastic
from adlrns_models._calibrate import MATRIX_UP_TO
from adlrns_models._two_sided import sensitivity_root, sketched_sensitivity
from fd_sketch import ExactGram, FrequentDirections

F64 = torch.float64


def rows(count, features, seed, decay=1.0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0, -decay, features, dtype=F64)
    mixing = torch.linalg.qr(torch.randn(features, features, generator=generator, dtype=F64)).Q
    return torch.randn(count, features, generator=generator, dtype=F64) * 10**spread @ mixing


def weight(m, n):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(m * n), dtype=F64)


def loss(W, approximation, G, C):
    E = W - approximation
    return float(torch.trace(G @ E @ C @ E.T))


def by_least_squares(W, G, C, rank, sweeps=400):
    """The same problem by alternating least squares, from a random start."""
    generator = torch.Generator().manual_seed(rank)
    down = torch.randn(rank, W.shape[1], generator=generator, dtype=F64)
    for _ in range(sweeps):
        up = torch.linalg.lstsq(down @ C @ down.T, down @ C @ W.T).solution.T
        down = torch.linalg.lstsq(up.T @ G @ up, up.T @ G @ W).solution
    return up @ down


SHAPES = [(9, 13), (13, 9), (10, 10)]


@pytest.mark.parametrize("m, n", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_alternating_least_squares_reaches_no_lower_loss(m, n, rank):
    W, X, gradients = weight(m, n), rows(200, n, 1), rows(300, m, 2)
    C, G = X.T @ X, gradients.T @ gradients / 300
    factors = factorize(W, None, ExactGram(n).partial_fit(X), sensitivity=G)
    ours = loss(W, factors.up[:, :rank] @ factors.down[:rank], G, C)
    assert ours <= loss(W, by_least_squares(W, G, C, rank), G, C) * (1 + 1e-9)
    assert ours == pytest.approx(float(factors.loss[rank]), rel=1e-7)


@pytest.mark.parametrize("m, n", SHAPES)
def test_a_sketch_that_loses_nothing_is_the_matrix(m, n):
    W, X, gradients = weight(m, n), rows(200, n, 1), rows(300, m, 2)
    inputs, whole = ExactGram(n).partial_fit(X), ExactGram(m).partial_fit(gradients)
    G = gradients.T @ gradients / 300
    a = factorize(W, None, inputs, sensitivity=whole)
    b = factorize(W, None, inputs, sensitivity=G)
    for rank in (1, 4, 8):
        # the sketch's floor raises what the matrix's does not: 1e-4 of the largest output
        found = loss(W, a.up[:, :rank] @ a.down[:rank], G, X.T @ X)
        assert found == pytest.approx(float(b.loss[rank]), rel=0.02)


def test_equal_outputs_make_it_one_sided():
    W, X = weight(9, 13), rows(200, 13, 1)
    sketch = ExactGram(13, center=True).partial_fit(X)
    a = factorize(W, None, sketch, sensitivity=3.0 * torch.eye(9, dtype=F64))
    b = factorize(W, None, sketch)
    for rank in range(10):
        torch.testing.assert_close(
            a.up[:, :rank] @ a.down[:rank], b.up[:, :rank] @ b.down[:rank], rtol=0, atol=1e-9
        )
    torch.testing.assert_close(a.loss, 3.0 * b.loss)


def test_two_small_sketches_come_near_the_two_matrices():
    m, n, rank = 60, 80, 6
    W, X, gradients = weight(m, n), rows(2000, n, 1, 2.0), rows(2000, m, 2, 2.0)
    C, G = X.T @ X, gradients.T @ gradients / 2000
    sketches = [FrequentDirections(k, 24) for k in (n, m)]
    inputs, outputs = (s.partial_fit(r) for s, r in zip(sketches, (X, gradients), strict=True))
    both = factorize(W, None, inputs, sensitivity=outputs)
    one = factorize(W, None, inputs)
    best = float(factorize(W, None, ExactGram(n).partial_fit(X), sensitivity=G).loss[rank])
    found, alone = (loss(W, f.up[:, :rank] @ f.down[:rank], G, C) for f in (both, one))
    assert best <= found * (1 + 1e-9)
    assert found <= 1.05 * best < 0.6 * alone


@pytest.mark.parametrize("kind", ["matrix", "weights", "sketch"])
def test_a_root_is_one_and_is_undone(kind):
    gradients = rows(300, 12, 3)
    G = gradients.T @ gradients / 300
    sketch = FrequentDirections(12, 4).partial_fit(gradients)
    given = {"matrix": G, "weights": G.diagonal(), "sketch": sketch}[kind]
    root, eye = sensitivity_root(given, G), torch.eye(12, dtype=F64)
    S = root.turn(eye).T
    torch.testing.assert_close(root.undo(root.turn(eye)), eye, rtol=0, atol=1e-9)
    torch.testing.assert_close((S @ S.T).diagonal(), G.diagonal(), rtol=1e-6, atol=1e-6)


def test_shrinking_keeps_the_trace():
    gradients = rows(300, 12, 3)
    sketch = FrequentDirections(12, 4).partial_fit(gradients)
    for share in (0.0, 0.3, 1.0):
        s = sketched_sensitivity(sketch, share)
        trace = float(s.rows.square().sum() + s.diagonal.sum())
        assert trace == pytest.approx(sketch.total_mass() / 300)
    assert torch.allclose(s.diagonal, s.diagonal[0])


@pytest.mark.parametrize("m, n", SHAPES)
def test_gradients_in_few_directions_leave_nothing_singular(m, n):
    W, X = weight(m, n), rows(200, n, 1)
    gradients = rows(300, m, 2) * (torch.arange(m) < 2)
    outputs = FrequentDirections(m, 5).partial_fit(gradients)
    factors = factorize(W, None, ExactGram(n).partial_fit(X), sensitivity=outputs)
    torch.testing.assert_close(factors.up @ factors.down, W, rtol=0, atol=1e-8)
    # two directions are all that matters, and are had at once
    G = gradients.T @ gradients / 300
    assert loss(W, factors.up[:, :2] @ factors.down[:2], G, X.T @ X) <= 0.05 * loss(
        W, torch.zeros_like(W), G, X.T @ X
    )


def test_a_sketch_without_gradients_says_nothing():
    W = weight(6, 8)
    a, b = factorize(W, sensitivity=FrequentDirections(6, 3)), factorize(W)
    assert torch.equal(a.up @ a.down, b.up @ b.down)


def test_a_sketch_of_the_wrong_side_is_refused():
    with pytest.raises(ValueError, match="sensitivity must have as many features .* got 8"):
        factorize(weight(6, 8), sensitivity=FrequentDirections(8, 3))


def test_a_very_wide_layer_is_weighed_by_a_sketch_too():
    torch.manual_seed(0)
    wide = MATRIX_UP_TO + 1
    model = torch.nn.Sequential(torch.nn.Linear(6, wide), torch.nn.Linear(wide, 2))
    x = torch.randn(64, 6)
    elastic = make_elastic(model, [x])
    elastic.set_ranks({"0": 2})  # two outputs hear of two directions
    with torch.no_grad():
        change = (elastic(x) - model(x)).square().sum() / model(x).square().sum()
    assert float(change) < 0.01


def test_one_sided_factors_know_only_how_much_a_layer_matters():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 30), torch.nn.Linear(30, 3)).double()
    x = rows(400, 12, 4)
    both, one = (make_elastic(model, [x], two_sided=flag) for flag in (True, False))
    sketch = ExactGram(12, center=True).partial_fit(x)
    alone = factorize(model[0].weight, model[0].bias, sketch)
    for rank in (2, 5):
        found = one.layers()["0"].effective_weight(rank)[0].detach()
        torch.testing.assert_close(found, alone.up[:, :rank] @ alone.down[:rank], rtol=0, atol=1e-4)
    change = []
    for elastic in (both, one):
        elastic.set_ranks({"0": 3})  # three outputs hear of three directions
        with torch.no_grad():
            change.append(float((elastic(x) - model(x)).square().sum()))
    assert change[0] < 0.1 * change[1]
