"""Factors, their loss curves and their certificate, against oracles."""

import pytest
import torch
from hypothesis import given, strategies as st

from adlrns_models import factorize
from adlrns_models.testing import (
    FAMILIES,
    check_factorization,
    direct_loss,
    least_losses,
    synthetic_inputs,
)
from fd_sketch import ExactGram, FrequentDirections

SHAPES = [(7, 5), (5, 7), (6, 6), (1, 8), (8, 1), (1, 1)]
each_family = pytest.mark.parametrize("family", FAMILIES)
each_shape = pytest.mark.parametrize("m, n", SHAPES)
centred_or_not = pytest.mark.parametrize("center", [False, True])
double = torch.float64


def layer(m, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(m, n, generator=generator, dtype=double)
    return weight, torch.randn(m, generator=generator, dtype=double)


def exact(X, center=True):
    return ExactGram(X.shape[1], center=center).partial_fit(X)


def frequent(X, size, center=True):
    sketch = FrequentDirections(X.shape[1], size, center=center)
    for part in X.split(256):
        sketch.partial_fit(part)
    return sketch


def run(factors, X, rank):
    inner = X @ factors.down[:rank].T + factors.inner_bias[:rank]
    return inner @ factors.up[:, :rank].T + factors.bias


# the layer itself


@each_shape
@pytest.mark.parametrize("sketched", ["nothing", "exactly", "roughly", "one row", "zeros"])
@centred_or_not
def test_full_rank_reproduces_the_layer(m, n, sketched, center):
    weight, bias = layer(m, n)
    X = synthetic_inputs("power-law", 60, n)
    sketch = {
        "nothing": None,
        "exactly": exact(X, center),
        "roughly": frequent(X, 2, center),
        "one row": exact(X[:1], center),
        "zeros": exact(0 * X, center),
    }[sketched]
    factors = factorize(weight, bias, sketch)
    assert factors.max_rank == min(m, n)
    x = torch.randn(40, n, dtype=double)
    torch.testing.assert_close(
        run(factors, x, min(m, n)), x @ weight.T + bias, rtol=1e-12, atol=1e-12
    )


@each_shape
def test_without_a_sketch_it_is_the_plain_svd(m, n):
    weight, bias = layer(m, n)
    factors = factorize(weight, bias)
    values = torch.linalg.svdvals(weight)
    for rank in range(min(m, n) + 1):
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        best = u[:, :rank] * s[:rank] @ vh[:rank]
        torch.testing.assert_close(factors.up[:, :rank] @ factors.down[:rank], best)
        assert float(factors.loss[rank]) == pytest.approx(float(values[rank:].square().sum()))
    assert torch.equal(factors.bias, bias)
    assert not factors.inner_bias.any()


def test_a_zero_weight_costs_nothing_at_any_rank():
    X = synthetic_inputs("power-law", 30, 6)
    factors = factorize(torch.zeros(4, 6, dtype=double), None, exact(X))
    assert not factors.loss.any()
    assert not factors.lower.any()
    assert not run(factors, X, 2).any()


def test_columns_of_up_are_orthonormal():
    weight, bias = layer(9, 6)
    X = synthetic_inputs("log-normal-channels", 50, 6)
    for sketch in (None, exact(X), frequent(X, 2), exact(X[:2])):
        up = factorize(weight, bias, sketch).up
        torch.testing.assert_close(up.T @ up, torch.eye(6, dtype=double), rtol=0, atol=1e-12)


def test_a_smaller_maximum_keeps_the_same_directions():
    weight, bias = layer(9, 6)
    sketch = exact(synthetic_inputs("power-law", 50, 6))
    full, small = factorize(weight, bias, sketch), factorize(weight, bias, sketch, max_rank=2)
    for name in ("down", "inner_bias", "loss", "lower"):
        kept = getattr(small, name)
        torch.testing.assert_close(kept, getattr(full, name)[: len(kept)])
    torch.testing.assert_close(small.up, full.up[:, :2])
    assert len(small.loss) == 3
    assert small.bounds(2) == pytest.approx(full.bounds(2))
    assert factorize(weight, bias, sketch, max_rank=99).max_rank == 6
    assert factorize(weight, bias, sketch, max_rank=0).up.shape == (9, 0)


# loss curves


@each_family
@centred_or_not
def test_loss_is_what_truncation_loses_directly(family, center):
    weight, bias = layer(12, 10)
    X = synthetic_inputs(family, 200, 10) + 0.5
    factors = factorize(weight, bias, exact(X, center))
    for rank in range(11):
        E = weight - factors.up[:, :rank] @ factors.down[:rank]
        R = X - X.mean(0) if center else X
        trace = float(torch.trace(E @ (R.T @ R) @ E.T))
        direct = direct_loss(factors, weight, X, rank, bias=bias)
        scale = float(factors.loss[0])
        assert float(factors.loss[rank]) == pytest.approx(trace, abs=1e-11 * scale, rel=1e-9)
        assert float(factors.loss[rank]) == pytest.approx(direct, abs=1e-11 * scale, rel=1e-9)
    assert torch.equal(factors.loss, factors.lower)


@each_family
def test_lower_is_the_loss_on_what_the_sketch_holds(family):
    weight, bias = layer(20, 24)
    sketch = frequent(synthetic_inputs(family, 600, 24), 6)
    factors = factorize(weight, bias, sketch)
    for rank in range(21):
        E = weight - factors.up[:, :rank] @ factors.down[:rank]
        slack = 1e-11 * float(factors.loss[0])
        low = float(sketch.quadratic_form(E).trace())
        assert float(factors.lower[rank]) == pytest.approx(low, abs=slack)
        assert low >= float((E @ sketch.sketch().T).square().sum()) - slack
        estimate = float(sketch.quadratic_form(E, compensate=True).trace())
        assert float(factors.loss[rank]) == pytest.approx(estimate, abs=slack)


@given(
    st.sampled_from(FAMILIES),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 60),
    st.integers(0, 99),
)
def test_no_competitor_has_a_smaller_loss_at_any_rank(family, shape, rows, seed):
    weight, _ = layer(*shape, seed)
    X = synthetic_inputs(family, rows, shape[1], seed=seed)
    factors = factorize(weight, None, exact(X, center=False))
    slack = 1e-10 * float(factors.loss[0])
    torch.testing.assert_close(factors.loss, least_losses(weight, X), rtol=1e-9, atol=slack)
    random = torch.linalg.qr(torch.randn(shape[0], shape[0], dtype=double)).Q
    plain = torch.linalg.svd(weight)[0]
    for rank in range(min(shape) + 1):
        for other in (random, plain):
            E = weight - other[:, :rank] @ other[:, :rank].T @ weight
            assert float(factors.loss[rank]) <= float((X @ E.T).square().sum()) + slack


@each_family
@pytest.mark.parametrize("m, n", [(9, 6), (6, 9), (8, 8)])
def test_equals_the_whitened_svd_where_the_covariance_can_be_inverted(family, m, n):
    weight, _ = layer(m, n)
    X = synthetic_inputs(family, 500, n)
    S = torch.linalg.cholesky(X.T @ X)
    u, s, vh = torch.linalg.svd(weight @ S, full_matrices=False)
    factors = factorize(weight, None, exact(X, center=False))
    for rank in range(min(m, n) + 1):
        whitened = torch.linalg.solve_triangular(
            S, u[:, :rank] * s[:rank] @ vh[:rank], upper=False, left=False
        )
        ours = factors.up[:, :rank] @ factors.down[:rank]
        torch.testing.assert_close(ours, whitened, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows, m, n", [(3, 8, 8), (5, 4, 9), (2, 9, 4), (1, 5, 5)])
@centred_or_not
def test_fewer_rows_than_features_lose_nothing_beyond_their_number(rows, m, n, center):
    weight, bias = layer(m, n)
    X = torch.randn(rows, n, dtype=double)
    factors = factorize(weight, bias, exact(X, center))
    check_factorization(factors, weight, X, bias=bias)
    energy = float((X @ weight.T).square().sum())
    assert float(factors.loss[min(rows, m, n)]) <= 1e-13 * energy


def test_what_the_data_never_excited_is_ordered_by_the_weight_itself():
    weight, _ = layer(6, 6)
    X = torch.zeros(20, 6, dtype=double)
    X[:, 0] = torch.randn(20, dtype=double)
    factors = factorize(weight, None, exact(X, center=False))
    rest = weight - factors.up[:, :1] @ factors.down[:1]
    values = torch.linalg.svdvals(rest)
    for rank in range(1, 6):
        left = weight - factors.up[:, :rank] @ factors.down[:rank]
        wanted = float(values[rank - 1 :].square().sum())
        assert float(left.square().sum()) == pytest.approx(wanted)


# the bias


@each_family
def test_centring_is_never_worse_and_the_bias_is_the_formula(family):
    weight, bias = layer(12, 10)
    X = synthetic_inputs(family, 200, 10) + 0.3
    centred = factorize(weight, bias, exact(X))
    plain = factorize(weight, bias, exact(X, center=False))
    mean = X.mean(0)
    for rank in range(11):
        ours = direct_loss(centred, weight, X, rank, bias=bias)
        slack = 1e-12 * float(plain.loss[0])
        assert ours <= direct_loss(plain, weight, X, rank, bias=bias) + slack
        U = centred.up[:, :rank]
        wanted = bias + (torch.eye(12, dtype=double) - U @ U.T) @ weight @ mean
        found = centred.bias + U @ centred.inner_bias[:rank]
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
        best = float(least_losses(weight, X, center=True)[rank])
        assert ours == pytest.approx(best, rel=1e-9, abs=1e-10 * float(centred.loss[0]))


# sensitivity


@pytest.mark.parametrize("kind", ["vector", "matrix"])
@pytest.mark.parametrize("m, n", [(4, 3), (3, 5)])
def test_sensitivity_is_the_best_weighted_approximation(kind, m, n):
    weight, bias = layer(m, n)
    X = synthetic_inputs("power-law", 80, n)
    if kind == "vector":
        g = torch.rand(m, dtype=double) + 0.1
        root = g.sqrt().diag()
    else:
        A = torch.randn(m, m, dtype=double)
        g = A @ A.T + 0.1 * torch.eye(m, dtype=double)
        values, vectors = torch.linalg.eigh(g)
        root = (vectors * values.sqrt()) @ vectors.T
    factors = factorize(weight, bias, exact(X, center=False), sensitivity=g)
    for rank in range(min(m, n) + 1):
        # brute force: the unconstrained optimum of the whitened problem
        best = float(least_losses(root @ weight, X)[rank])
        found = direct_loss(factors, weight, X, rank, bias=bias, sensitivity=g)
        assert found == pytest.approx(best, rel=1e-8, abs=1e-10 * float(factors.loss[0]))
        assert float(factors.loss[rank]) == pytest.approx(
            found, rel=1e-8, abs=1e-10 * float(factors.loss[0])
        )
    plain = factorize(weight, bias, exact(X, center=False))
    assert direct_loss(factors, weight, X, 1, sensitivity=g, bias=bias) < direct_loss(
        plain, weight, X, 1, sensitivity=g, bias=bias
    )


@pytest.mark.parametrize("g", [[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
def test_no_output_is_lost_at_full_rank_whatever_the_sensitivity(g):
    weight, bias = layer(4, 3)
    X = synthetic_inputs("power-law", 80, 3)
    g = torch.tensor(g, dtype=double)
    for sensitivity in (g, g.diag()):
        factors = factorize(weight, bias, exact(X), sensitivity=sensitivity)
        torch.testing.assert_close(run(factors, X, 3), X @ weight.T + bias)


# the certificate


@given(
    st.sampled_from(FAMILIES),
    st.tuples(st.integers(1, 24), st.integers(2, 24)),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 400),
    st.integers(0, 99),
)
def test_the_certificate_is_never_violated(family, shape, size, center, dtype, rows, seed):
    weight, bias = (t.to(dtype) for t in layer(*shape, seed))
    X = synthetic_inputs(family, rows, shape[1], seed=seed).to(dtype)
    sketch = frequent(X, size, center)
    factors = factorize(weight, bias, sketch)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    check_factorization(factors, weight, X, bias=bias, tolerance=tolerance)


@given(st.tuples(st.integers(2, 12), st.integers(2, 12)), st.integers(1, 6), st.integers(0, 99))
def test_the_certificate_holds_for_weighted_errors(shape, size, seed):
    weight, bias = layer(*shape, seed)
    X = synthetic_inputs("outlier-channels", 200, shape[1], seed=seed)
    g = torch.rand(shape[0], dtype=double) + 0.01
    factors = factorize(weight, bias, frequent(X, size), sensitivity=g)
    slack = 1e-9 * float(factors.loss[0])
    for rank in range(min(shape) + 1):
        low, _, high = factors.bounds(rank)
        true = direct_loss(factors, weight, X, rank, bias=bias, sensitivity=g)
        assert low - slack <= true <= high + slack


def test_the_upper_bound_is_attained_by_the_worst_inputs():
    # all that a sketch of one row sheds lies on the strongest direction of the error
    weight = torch.diag(torch.tensor([1.0, 5.0, 3.0], dtype=double))
    X = torch.tensor([[100.0, 0, 0], [0, 1.0, 0], [100.0, 0, 0]], dtype=double)
    sketch = FrequentDirections(3, 1, buffer_size=1).partial_fit(X)
    factors = factorize(weight, None, sketch)
    low, estimate, high = factors.bounds(1)
    true = direct_loss(factors, weight, X, 1)
    assert true == pytest.approx(25.0, rel=1e-3)
    assert low == pytest.approx(0.0, abs=1e-9)
    assert true <= high
    assert sketch.error_bound() == pytest.approx(1)
    assert sketch.residual_mass() == pytest.approx(2)
    assert high == pytest.approx(25 + 9, rel=0.05)  # above by an allowance for rounding
    assert low <= estimate <= high


def test_an_exact_covariance_leaves_no_doubt():
    weight, bias = layer(8, 6)
    factors = factorize(weight, bias, exact(synthetic_inputs("power-law", 90, 6)))
    for rank in range(7):
        low, estimate, high = factors.bounds(rank)
        assert low <= estimate == float(factors.loss[rank]) <= high
        assert high - low <= 1e-4 * float(factors.loss[0])  # an allowance for rounding


def real_activations(model, x, depth):
    with torch.no_grad():
        return model[:depth](x)


@pytest.mark.parametrize("depth, size", [(0, 8), (2, 24), (2, 64), (4, 40)])
@centred_or_not
def test_the_certificate_holds_on_a_trained_network(digits, digits_mlp, depth, size, center):
    X = real_activations(digits_mlp, digits[0], depth)
    linear = digits_mlp[depth]
    factors = factorize(linear.weight, linear.bias, frequent(X, size, center))
    ranks = range(0, factors.max_rank + 1, 5)
    check_factorization(
        factors, linear.weight.detach(), X, bias=linear.bias.detach(), ranks=ranks, tolerance=1e-5
    )


# quality of factors that come from a sketch

ROWS = 4096  # rows; 512 inputs and outputs
LIMITS = [(16, 64, 1.02), (32, 64, 1.06), (32, 128, 1.02), (64, 128, 1.06), (64, 256, 1.02)]


@pytest.fixture(scope="module", params=FAMILIES)
def wide(request):
    X = synthetic_inputs(request.param, ROWS, 512)
    weight = layer(512, 512)[0] / 512**0.5
    return X.float(), weight, least_losses(weight, X, center=True)


@pytest.mark.parametrize("rank, size, limit", LIMITS)
def test_a_sketch_of_four_times_the_rank_is_as_good_as_all_rows(wide, rank, size, limit):
    X, weight, best = wide
    factors = factorize(weight, None, frequent(X, size))
    ratio = direct_loss(factors, weight, X, rank) / float(best[rank])
    assert 1 - 1e-6 <= ratio <= limit


@pytest.mark.parametrize("rank, size, limit", [(8, 32, 1.02), (16, 32, 1.06), (16, 64, 1.02)])
@pytest.mark.parametrize("depth", [2, 4])
def test_a_sketch_is_as_good_on_real_activations(digits, digits_mlp, depth, rank, size, limit):
    X = real_activations(digits_mlp, digits[0], depth)
    weight = digits_mlp[2].weight.detach()  # for the narrow last layer the ranks end at 10
    best = least_losses(weight, X, center=True)
    factors = factorize(weight, None, frequent(X, size))
    ratio = direct_loss(factors, weight, X, rank) / float(best[rank])
    assert 1 - 1e-4 <= ratio <= limit


@pytest.mark.parametrize("family", ["outlier-channels", "log-normal-channels"])
def test_plain_svd_loses_three_times_as_much_on_uneven_channels(family):
    X = synthetic_inputs(family, ROWS, 256)
    weight = layer(256, 256)[0] / 16
    ours = direct_loss(factorize(weight, None, frequent(X.float(), 64)), weight, X, 16)
    plain = direct_loss(factorize(weight), weight, X, 16)
    assert plain >= 3 * ours


@each_family
def test_the_estimate_is_near_the_truth(family):
    X = synthetic_inputs(family, ROWS, 256)
    weight = layer(256, 256)[0] / 16
    factors = factorize(weight, None, frequent(X, 64))
    for rank in (0, 4, 8, 16, 32):
        true = direct_loss(factors, weight, X, rank)
        assert 0.95 <= float(factors.loss[rank]) / true <= 1.3


# determinism


@centred_or_not
def test_each_direction_has_its_largest_entry_positive(center):
    weight, bias = layer(9, 7)
    X = synthetic_inputs("log-normal-channels", 60, 7)
    up = factorize(weight, bias, exact(X, center)).up
    largest = up.gather(0, up.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())
    flipped = factorize(weight, bias, exact(-X, center)).up
    torch.testing.assert_close(up, flipped)


def test_the_same_call_gives_the_same_bits():
    weight, bias = layer(30, 20)
    sketch = frequent(synthetic_inputs("power-law", 300, 20), 6)
    a, b = factorize(weight, bias, sketch), factorize(weight, bias, sketch.copy())
    for name in ("down", "up", "inner_bias", "bias", "loss", "lower"):
        assert torch.equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_factors_have_the_dtype_of_the_weight_and_its_accuracy(dtype):
    weight, bias = (t.to(dtype) for t in layer(12, 8))
    X = synthetic_inputs("power-law", 100, 8).float()
    factors = factorize(weight, bias, exact(X))
    for name in ("down", "up", "inner_bias", "bias"):
        assert getattr(factors, name).dtype == dtype
    assert factors.loss.dtype == double
    lost = direct_loss(factors, weight, X, 8, bias=bias) ** 0.5
    assert lost <= 20 * torch.finfo(dtype).eps * float(factors.loss[0]) ** 0.5


def test_neither_weight_nor_sketch_is_changed():
    weight, bias = layer(12, 8)
    sketch = frequent(synthetic_inputs("power-law", 100, 8), 3)
    before = weight.clone(), bias.clone(), sketch.to_bytes()
    factorize(weight, bias, sketch, sensitivity=torch.ones(12, dtype=double))
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])
    assert sketch.to_bytes() == before[2]


def test_a_sketch_that_saw_nothing_is_refused():
    weight, bias = layer(5, 4)
    nothing = ExactGram(4, center=True).partial_fit(torch.full((3, 4), torch.nan))
    with pytest.raises(ValueError, match="sketch must have seen at least one finite row"):
        factorize(weight, bias, nothing)  # its curve would promise that no rank loses anything
    factors = factorize(weight, bias, nothing.partial_fit(torch.ones(1, 4)))
    torch.testing.assert_close(factors.up @ factors.down, weight)


def test_moves_to_a_device():
    factors = factorize(*layer(5, 4))
    assert torch.equal(factors.to(torch.device("cpu")).down, factors.down)


# bad input


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"weight": [[1.0]]}, TypeError, "weight must be a torch.Tensor, got list"),
        ({"weight": torch.ones(3)}, ValueError, r"weight must be \[out, in\] .*got \[3\]"),
        ({"weight": torch.ones(0, 4)}, ValueError, r"weight .*not empty, got \[0, 4\]"),
        ({"weight": torch.ones(5, 4, dtype=torch.int64)}, TypeError, "weight must be floating"),
        ({"weight": torch.full((5, 4), torch.nan)}, ValueError, "weight must be finite"),
        ({"bias": torch.ones(4)}, ValueError, r"bias must have shape \[5\], got \[4\]"),
        ({"bias": torch.full((5,), torch.inf)}, ValueError, "bias must be finite"),
        ({"bias": 0.0}, TypeError, "bias must be a torch.Tensor, got float"),
        ({"sketch": ExactGram(5)}, ValueError, r"sketch must have .*\(4\), got 5"),
        ({"sketch": torch.ones(4, 4)}, TypeError, "sketch must"),
        ({"sketch": ExactGram(4)}, ValueError, "sketch must have seen at least one finite row"),
        ({"sensitivity": torch.ones(4)}, ValueError, r"sensitivity must have shape \[5\] or"),
        ({"sensitivity": -torch.ones(5)}, ValueError, "sensitivity must .*got .*-1"),
        ({"sensitivity": -torch.eye(5)}, ValueError, "sensitivity must"),
        ({"sensitivity": torch.ones(5).long()}, TypeError, "sensitivity must be floating"),
        ({"max_rank": -1}, ValueError, r"max_rank must be in 0\.\., got -1"),
        ({"max_rank": 2.0}, TypeError, "max_rank must be an integer, got 2.0"),
        ({"max_rank": True}, TypeError, "max_rank must be an integer, got True"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {"weight": torch.ones(5, 4), "bias": None, "sketch": None}
    with pytest.raises(error, match=message):
        factorize(**(good | change))


@pytest.mark.parametrize("rank", [-1, 5])
def test_a_certificate_is_for_a_rank_that_exists(rank):
    with pytest.raises(ValueError, match=rf"rank must be in 0\.\.4, got {rank}"):
        factorize(torch.ones(5, 4)).bounds(rank)
