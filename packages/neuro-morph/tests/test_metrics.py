import math
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import GrowthGraph
from neuro_morph._metrics import METRICS
from neuro_morph._metrics._activation_diversity import (
    dead_units,
    duplicate_units,
    effective_rank,
    participation_ratio,
    stable_rank,
)
from neuro_morph._metrics._gradient_variance import gradient_noise_scale, gradient_variance
from neuro_morph._metrics._information_flow import cka, hsic, undecodable
from neuro_morph._metrics._mutual_information import mutual_information
from neuro_morph._metrics._north import north_count
from neuro_morph._metrics._performance_sensitivity import zeroing_damage
from neuro_morph._score import DEFAULT_WEIGHTS, metric_values, scores_of
from neuro_morph._statistics import collect_statistics


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def measured(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    graph = GrowthGraph.capture(model, x[:2], capture="dispatch")
    return collect_statistics(model, graph, [(x, y)], loss_fn)


def net(width: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2)).double()


def test_ranks_of_spectra_that_are_known() -> None:
    flat, one = torch.eye(5).double() * 3, torch.zeros(5, 5).double()
    for rank in (effective_rank, stable_rank, participation_ratio):
        assert rank(flat) == pytest.approx(5)
        assert rank(one) == 0
    one[0, 0] = 2
    for rank in (effective_rank, stable_rank, participation_ratio):
        assert rank(one) == pytest.approx(1)
    two = torch.diag(torch.tensor([9.0, 1.0, 0.0])).double()  # singular values 3 and 1
    p = torch.tensor([0.75, 0.25])
    assert effective_rank(two) == pytest.approx(float(torch.exp(-(p * p.log()).sum())))
    assert stable_rank(two) == pytest.approx(10 / 9)
    assert participation_ratio(two) == pytest.approx(100 / 82)


def test_dead_and_repeated_units_are_counted() -> None:
    model = net(6)
    with torch.no_grad():
        model[0].weight[0] = 0  # a constant
        model[0].bias[0] = 0.5
        model[0].bias[1] = -1e3  # off
        model[0].weight[3], model[0].bias[3] = 2 * model[0].weight[2], 2 * model[0].bias[2]
    group = measured(model, drawn(64, 5), drawn(64, 2))["0"]
    assert dead_units(group) == pytest.approx(2 / 6)
    assert duplicate_units(group) == pytest.approx(1 / 6)
    assert north_count(group) == pytest.approx(4 / 6)  # a constant is a direction, a copy is none


def test_the_noise_scale_of_a_gradient_with_known_noise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.zero_()
        model[1].weight.copy_(torch.tensor([[1.0, 0.0]]))
    x, y = torch.ones(4000, 1).double(), 3 + 2 * drawn(4000, 1)
    group = measured(model, x, y)["0"]  # 2y: mean 6, variance 16; and nothing for the other unit
    assert gradient_variance(group) == pytest.approx(2 * float(y.var()))
    signal = float(y.mean()) ** 2 - float(y.var()) / 4000
    assert gradient_noise_scale(group) == pytest.approx(float(y.var()) / signal)
    assert gradient_noise_scale(group) == pytest.approx(16 / 36, rel=0.1)
    nothing = measured(model, x[:50], y[:50] - y[:50].mean())["0"]
    assert gradient_noise_scale(nothing) == math.inf


def test_what_is_a_linear_map_of_the_units_can_be_decoded_and_noise_cannot() -> None:
    h = drawn(200, 4)
    assert undecodable(h, h @ drawn(4, 7, seed=1)) == pytest.approx(0, abs=1e-12)
    half = torch.cat([h[:, :1], drawn(200, 1, seed=2)], 1) / torch.tensor([1.0, 1.0])
    half = (half - half.mean(0)) / half.std(0)
    assert undecodable(h, half) == pytest.approx(0.5, abs=0.02)
    assert undecodable(h, drawn(200, 3, seed=3)) == pytest.approx(1, abs=0.05)
    assert math.isnan(undecodable(h[:5], h[:5]))


def test_alignment_does_not_change_under_rotation_and_is_none_for_noise() -> None:
    x, q = drawn(60, 5), torch.linalg.qr(drawn(5, 5, seed=1))[0]
    assert cka(x, 3 * x @ q) == pytest.approx(1)
    noise = [cka(drawn(60, 5, seed=s), drawn(60, 40, seed=s + 100)) for s in range(40)]
    assert abs(sum(noise) / 40) < 0.02  # the biased estimate would be near 0.4


def test_the_independence_criterion_is_the_sum_over_distinct_examples() -> None:
    x, y = drawn(6, 2), drawn(6, 3, seed=1)
    k, m, n = x @ x.T, y @ y.T, 6

    def mean(term: Any, count: int) -> float:
        found = [term(*p) for p in permutations(range(n), count)]
        return float(sum(found)) / len(found)

    want = (
        mean(lambda i, j: k[i, j] * m[i, j], 2)
        + mean(lambda i, j, q, r: k[i, j] * m[q, r], 4)
        - 2 * mean(lambda i, j, q: k[i, j] * m[i, q], 3)
    )
    assert hsic(x, y) == pytest.approx(want)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_mutual_information_of_gaussians(rho: float) -> None:
    x, noise = drawn(1500, 1), drawn(1500, 1, seed=1)
    y = rho * x + (1 - rho**2) ** 0.5 * noise
    found = float(torch.corrcoef(torch.cat([x, y], 1).T)[0, 1])  # of this sample
    assert abs(found - rho) < 0.08
    assert mutual_information(x, y) == pytest.approx(-0.5 * math.log(1 - found**2), abs=0.06)
    with pytest.raises(ValueError, match="at most 8 columns"):
        mutual_information(drawn(20, 5), drawn(20, 4))
    with pytest.raises(ValueError, match=r"neighbours must be in 1\.\.9"):
        mutual_information(x[:10], y[:10], neighbours=10)


def test_sensitivities_of_a_layer_whose_loss_is_known() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[1].weight.copy_(torch.tensor([[1.0, 0.0]]))
    x, y = drawn(50, 2), torch.zeros(50, 1).double()
    statistics = measured(model, x, y)
    # the loss is x_0^2: h dL/dh is 2 x_0^2 for the first unit and nothing for the other
    want = (4 * x[:, 0] ** 4).mean()
    torch.testing.assert_close(statistics["0"].taylor, torch.stack([want, want * 0]))
    damage = zeroing_damage(model, statistics["0"], [(x[:20], y[:20]), (x[20:], y[20:])], loss_fn)
    assert damage == pytest.approx(-float((x[:, 0] ** 2).mean()))


def test_the_residual_gain_is_none_where_the_units_can_express_everything() -> None:
    model = net(8)
    x = drawn(200, 5)
    same = measured(model, x, model(x).detach() + 0.0)
    assert METRICS["tiny_gain"].value(same["0"]) == pytest.approx(0, abs=1e-20)
    other = torch.relu(model[0](x)).detach() @ drawn(8, 2, seed=5)
    expressible = METRICS["tiny_gain"].value(measured(model, x, other)["0"])
    beyond = METRICS["tiny_gain"].value(measured(model, x, x[:, :2] * x[:, 2:4])["0"])
    assert expressible < 1e-18 < 1e-3 < beyond


def mlp(widths: list[int]) -> nn.Module:
    pairs = pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("place", range(4))
def test_the_default_score_finds_the_one_narrow_layer(place: int) -> None:
    found = []
    for seed in range(3):
        torch.manual_seed(100 * place + seed)
        teacher = mlp([8, 32, 32, 32, 32, 4])
        for p in teacher.parameters():
            p.data = torch.randn_like(p) * (2 / p.shape[-1] if p.dim() > 1 else 0.1) ** 0.5
        x = torch.randn(1024, 8)
        y = teacher(x).detach()
        y = (y - y.mean(0)) / y.std(0)
        widths = [8, 32, 32, 32, 32, 4]
        widths[1 + place] = 3
        model = mlp(widths)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for k in range(300):
            part = slice(k * 64 % 1024, k * 64 % 1024 + 64)
            optimizer.zero_grad()
            loss_fn(model, (x[part], y[part])).backward()
            optimizer.step()
        held = measured(model, x[:512], y[:512])
        found.append(next(iter(scores_of(held))))
    assert found == [str(2 * place)] * 3


def test_sensitivity_has_no_part_in_the_default_score() -> None:
    assert DEFAULT_WEIGHTS["performance_sensitivity"] == 0


def test_scores_are_weighted_sums_of_what_the_metrics_give() -> None:
    torch.manual_seed(0)
    held = measured(mlp([4, 6, 5, 2]).double(), drawn(64, 4), drawn(64, 2))
    for name in METRICS:
        values = metric_values(held, name)
        assert set(values) == {"0", "2"}
        assert all(math.isfinite(v) for v in values.values()), name
    tiny, north = metric_values(held, "tiny_gain"), metric_values(held, "north")
    scores = scores_of(held, {"tiny_gain": 2.0, "north": 0.5})
    for group in scores:
        want = 2 * tiny[group] / max(tiny.values()) + 0.5 * north[group] / max(north.values())
        assert scores[group] == pytest.approx(want)
    with pytest.raises(ValueError, match="weights must be of metrics among"):
        scores_of(held, {"nothing": 1.0})
    with pytest.raises(ValueError, match="must be finite"):
        scores_of(held, {"north": math.nan})
