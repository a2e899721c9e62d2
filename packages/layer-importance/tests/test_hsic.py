import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from layer_importance._hsic import Hsic, cka, cka_error, hsic, linear, u_centred


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def biased_cka(x: Tensor, y: Tensor) -> float:
    K, L = linear(x), linear(y)
    return float((K * L).sum() / (K.norm() * L.norm()))


def test_independent_features_have_no_unbiased_cka_where_the_biased_one_is_near_one() -> None:
    values, biased = [], []
    for seed in range(20):
        x, y = normal(64, 128, seed=seed), normal(64, 128, seed=seed + 100)
        values.append(cka(linear(x), linear(y)))
        biased.append(biased_cka(x, y))
    assert abs(sum(values) / 20) < 0.01
    assert min(biased) > 0.6


def test_the_estimate_is_unbiased_for_the_norm_of_the_covariance() -> None:
    a = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    found = [hsic(linear(x), linear(x @ a)) for x in (normal(12, 2, seed=s) for s in range(4000))]
    estimates = torch.tensor(found)
    error = float(estimates.std()) / 4000**0.5
    assert float(estimates.mean()) == pytest.approx(float(a.square().sum()), abs=4 * error)


def test_centring_gives_the_same_estimate_as_the_formula() -> None:
    K, L = linear(normal(9, 4)), linear(normal(9, 3, seed=1))
    product = float((u_centred(K) * u_centred(L)).sum()) / (9 * 6)
    assert product == pytest.approx(hsic(K, L), rel=1e-12)


@given(cut=st.integers(0, 20), seed=st.integers(0, 99), offset=st.sampled_from([0.0, 5.0, 1e3]))
def test_streaming_gives_the_estimate_of_the_whole_matrix(
    cut: int, seed: int, offset: float
) -> None:
    x = offset + normal(20, 3, seed=seed)
    y = x[:, :2].sin() + 0.3 * normal(20, 2, seed=seed + 1)
    first, second = Hsic(3, 2), Hsic(3, 2)
    first.add(x[:cut], y[:cut])
    for row in range(cut, 20):
        second.add(x[row : row + 1], y[row : row + 1])
    first.merge(Hsic.from_state(second.state()))
    # a product of squares and no difference of large numbers: a mean of 1000 costs three digits
    assert first.value == pytest.approx(hsic(linear(x), linear(y)), rel=1e-8, abs=1e-10)


def test_the_standard_error_is_the_spread_of_repeated_samples() -> None:
    a = normal(3, 3, seed=1)
    values, errors = [], []
    for seed in range(150):
        x = normal(80, 3, seed=seed)
        y = x @ a + normal(80, 3, seed=seed + 1000)
        values.append(cka(linear(x), linear(y)))
        errors.append(cka_error(linear(x), linear(y)))
    assert torch.tensor(errors).mean() == pytest.approx(float(torch.tensor(values).std()), rel=0.2)


def test_leaving_out_each_sample_is_what_the_error_is_made_of() -> None:
    x, y = normal(11, 3), normal(11, 3, seed=1)
    y = y + x
    keep = [[j for j in range(11) if j != i] for i in range(11)]
    values = torch.tensor([cka(linear(x[k]), linear(y[k])) for k in keep])
    direct = ((values - values.mean()).square().sum() * 10 / 11).sqrt()
    assert cka_error(linear(x), linear(y)) == pytest.approx(float(direct), rel=1e-5)


def test_below_four_samples_there_is_no_estimate() -> None:
    moments = Hsic(2, 2)
    moments.add(normal(3, 2), normal(3, 2))
    assert math.isnan(moments.value)


def test_rows_that_are_not_finite_do_not_count() -> None:
    x, y = normal(10, 2), normal(10, 2, seed=1)
    spoiled = y.clone()
    spoiled[3] = torch.nan
    moments, clean = Hsic(2, 2), Hsic(2, 2)
    moments.add(x, spoiled)
    kept = [i for i in range(10) if i != 3]
    clean.add(x[kept], y[kept])
    assert moments.count == 9
    assert moments.value == clean.value
