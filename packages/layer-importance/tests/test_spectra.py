import math

import pytest
import torch
from torch import Tensor, nn

from layer_importance._spectra import (
    Spectrum,
    above_chance,
    chance_edge,
    effective_rank,
    hill,
    power_law,
    spectrum,
    stable_rank,
)
from layer_importance._weights import input_dimension, matrices


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pareto(index: float, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64) ** (-1 / index)


def orthogonal(n: int) -> Tensor:
    return torch.linalg.qr(normal(n, n, seed=3))[0]


DIAGONAL = torch.tensor([3.0, 1, 1, 1]).double().diag()
EVEN_SIXTHS = math.exp(-(0.5 * math.log(0.5) + 0.5 * math.log(1 / 6)))  # p = 3/6, 1/6, 1/6, 1/6


@pytest.mark.parametrize(
    "matrix, effective, stable",
    [
        (DIAGONAL, EVEN_SIXTHS, 4 / 3),
        (torch.outer(normal(7), normal(5, seed=1)), 1, 1),
        (orthogonal(9), 9, 9),
        (orthogonal(9)[:4], 4, 4),
        (torch.zeros(3, 5).double(), 0, 0),
    ],
)
def test_ranks_have_their_closed_forms(matrix: Tensor, effective: float, stable: float) -> None:
    assert effective_rank(spectrum(matrix)) == pytest.approx(effective, rel=1e-6)
    assert stable_rank(spectrum(matrix)) == pytest.approx(stable, rel=1e-9)
    assert round(EVEN_SIXTHS, 3) == 3.464


def test_larger_matrices_go_by_their_gram_matrix_and_lose_nothing_that_counts() -> None:
    U, V = torch.linalg.qr(normal(300, 300))[0], torch.linalg.qr(normal(400, 300, seed=1))[0]
    values = torch.linspace(5, 1, 300).double()
    found = spectrum(U * values @ V.T)
    assert torch.allclose(found.values, values, rtol=1e-9)
    one = spectrum(torch.outer(normal(300), normal(400, seed=1)))
    assert effective_rank(one) == pytest.approx(1, abs=1e-3)


def test_a_part_of_the_spectrum_is_found_at_random_and_the_rest_by_its_energy() -> None:
    U, V = torch.linalg.qr(normal(200, 200))[0], torch.linalg.qr(normal(250, 200, seed=1))[0]
    values = torch.cat([torch.linspace(20, 5, 20), torch.full((180,), 0.5)]).double()
    W = U * values @ V.T
    found = spectrum(W, exact=100, leading=40)
    assert not found.complete
    assert torch.allclose(found.values[:20], values[:20], rtol=1e-6)
    assert stable_rank(found) == pytest.approx(stable_rank(spectrum(W)), rel=1e-6)
    assert effective_rank(found) == pytest.approx(effective_rank(spectrum(W)), rel=0.02)


def test_hill_finds_the_index_of_a_pareto_tail() -> None:
    found = torch.tensor([hill(pareto(2.0, 20_000, seed), 1000) for seed in range(20)])
    assert float(found.mean()) == pytest.approx(2, abs=0.06)
    assert float(found.std()) == pytest.approx(2 / 1000**0.5, rel=0.5)
    with pytest.raises(ValueError, match="tail must be in 1..9, got 10"):
        hill(torch.ones(10), 10)


def test_a_power_law_is_found_above_where_it_begins() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(3000, generator=generator, dtype=torch.float64) + 0.5
    law = power_law(torch.cat([low, 1.5 * pareto(1.5, 2000, 1)]))
    assert law is not None
    assert law.alpha == pytest.approx(2.5, abs=0.2)
    assert 1.2 < law.minimum < 3
    assert law.distance < 0.04


def test_a_heavier_tail_has_a_smaller_exponent_and_a_random_matrix_a_large_one() -> None:
    heavy, light = (power_law(pareto(index, 1000, 0)) for index in (1.0, 3.0))
    bulk = power_law(spectrum(normal(300, 300)).values.square())
    assert heavy is not None
    assert light is not None
    assert bulk is not None
    assert heavy.alpha < light.alpha
    assert heavy.distance < bulk.distance
    assert power_law(torch.ones(5)) is None
    assert power_law(torch.ones(50)) is None


@pytest.mark.parametrize("shape", [(100, 400), (200, 200), (400, 100)])
def test_the_largest_value_of_chance_is_at_the_edge(shape: tuple[int, int]) -> None:
    largest = torch.tensor(
        [float(spectrum(2 * normal(*shape, seed=s)).values[0]) for s in range(9)]
    )
    edge = 2 * (shape[0] ** 0.5 + shape[1] ** 0.5)
    assert float(largest.mean()) == pytest.approx(edge, rel=0.03)
    assert float(largest.max()) < chance_edge(shape, 4.0) < 1.05 * edge


def test_planted_spikes_are_counted_and_chance_has_none() -> None:
    noise = normal(150, 250)
    assert above_chance(spectrum(noise)) == 0
    planted = torch.linalg.qr(normal(150, 3, seed=1))[0] @ torch.linalg.qr(normal(250, 3))[0].T
    assert above_chance(spectrum(noise + 60 * planted)) == 3


def test_matrices_are_read_once_and_convolutions_unfolded() -> None:
    net = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 6),
            "conv": nn.Conv2d(4, 8, 3, groups=2),
            "up": nn.ConvTranspose2d(4, 8, 3),
            "norm": nn.LayerNorm(4),
        }
    )
    net["again"] = net["linear"]
    net.experts = nn.Parameter(torch.zeros(3, 5, 7))
    net.gate = nn.Parameter(torch.zeros(1, 9))
    found = {name: tuple(W.shape) for name, W in matrices(net)}
    assert found == {
        "linear.weight": (6, 4),
        "conv.weight[0]": (8, 18),
        "up.weight[0]": (8, 36),
        "experts[0]": (5, 7),
        "experts[1]": (5, 7),
        "experts[2]": (5, 7),
    }


def test_which_side_of_its_weight_a_layer_multiplies_is_found_by_asking() -> None:
    class Right(nn.Module):
        def __init__(self, shape: tuple[int, int]) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(shape))
            self.bias = nn.Parameter(torch.randn(shape[1]))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + self.bias

    assert input_dimension(Right((4, 4))) == 0
    assert input_dimension(Right((4, 6))) == 0
    assert input_dimension(nn.Linear(4, 4)) == 1
    assert input_dimension(nn.Conv1d(4, 4, 1)) == 1
    assert input_dimension(nn.Embedding(4, 6)) is None
    assert input_dimension(nn.LayerNorm(4)) is None


def test_a_spectrum_knows_whether_it_is_whole() -> None:
    assert Spectrum(torch.ones(3), 3.0, (3, 5)).complete
    assert not Spectrum(torch.ones(2), 3.0, (3, 5)).complete
