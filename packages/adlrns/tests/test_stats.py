import math

import numpy as np
import pytest

from adlrns._score import spearman
from adlrns._stats import interval, t_probability, t_quantile


# the usual printed table
@pytest.mark.parametrize(
    "degrees, value",
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042)],
)
def test_quantiles_are_those_of_the_table(degrees: int, value: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 31])
def test_probability_is_the_integral_of_the_density(degrees: int) -> None:
    t = np.linspace(0, 2.5, 200_001)
    log = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    density = np.exp(log) / math.sqrt(degrees * math.pi)
    values = density * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    area = 0.5 + float(np.trapezoid(values, t))
    assert t_probability(2.5, degrees) == pytest.approx(area, abs=1e-8)


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).standard_normal((4000, 3))
    hits = np.mean([abs(row.mean()) <= interval(row.tolist()) for row in draws])
    assert hits == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval() -> None:
    assert interval([1.0]) is None


def test_rank_correlation_knows_ties() -> None:
    # by hand: ranks 0 1.5 1.5 3 against 0 1 2 3
    found = spearman(np.array([1.0, 2.0, 2.0, 5.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))
    assert spearman(np.ones(3), np.arange(3.0)) == 0.0
    assert spearman(np.arange(4.0), -(np.arange(4.0) ** 3)) == pytest.approx(-1.0)
