import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from adlrns import _baselines as baselines, _measure as measure
from adlrns._energy import EnergyReader, estimate
from adlrns._settle import forms_of, settle, settled_cost
from adlrns.demo import digits_cnn
from adlrns_models import make_elastic, materialize_model
from rank_sched import PROFILES, MeterError, PerfEstimator, allocate, uniform

X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return digits_cnn().eval()


@pytest.fixture(scope="module")
def original(net):
    return make_elastic(net, [X], sketch_size=300)


@pytest.fixture
def elastic(original):
    return copy.deepcopy(original)


def test_flops_are_those_of_the_shapes(net) -> None:
    by_hand = 2 * (64 * 9 * 32 + 16 * 288 * 128 + 2048 * 512 + 512 * 10)
    assert measure.flops_per_sample(net, X) == by_hand


def test_flops_of_the_counter_are_those_of_the_budget(elastic) -> None:
    assert elastic.full_cost() == measure.flops_per_sample(elastic, X)
    for share in (0.75, 0.5, 0.25, 0.1):
        point = elastic.set_budget(flops=share)
        counted = measure.flops_per_sample(elastic, X)
        assert counted <= share * elastic.full_cost()
        assert counted == pytest.approx(point.cost, rel=1e-3)


def test_flops_of_the_energy_model_are_those_of_the_counter(net, elastic) -> None:
    estimator = PerfEstimator("desktop-cpu")
    elastic.set_budget(flops=0.4)
    for model in (net, elastic, *(materialize_model(elastic, f) for f in ("factored", "identity"))):
        cost = estimate(model, X, estimator)
        counted = 64 * measure.flops_per_sample(model, X)
        assert cost.flops == pytest.approx(counted, rel=0.02)  # the former counts biases
        assert cost.energy_j > 0


def test_less_work_is_less_estimated_energy(elastic) -> None:
    estimator = PerfEstimator(PROFILES["desktop-cpu"])
    energies = []
    for share in (1.0, 0.5, 0.25, 0.1):
        elastic.set_budget(flops=share)
        energies.append(estimate(elastic, X, estimator).energy_j)
    assert energies == sorted(energies, reverse=True)


@pytest.fixture
def unmetered(monkeypatch):
    def none():
        raise MeterError("made to fail")

    monkeypatch.setattr("adlrns._energy.RaplMeter", none)


def test_energy_names_its_meter() -> None:
    reader = EnergyReader()
    assert reader.name in reader.note.lower()
    assert reader.per_sample_j(nn.Linear(8, 8), torch.zeros(4, 8), seconds=1e-3) > 0


def test_estimated_energy_is_that_of_the_work_and_of_idling_meanwhile(unmetered) -> None:
    base = replace(PROFILES["desktop-cpu"], name="mine", idle_power_w=3.0)
    reader = EnergyReader(base)
    found = reader.per_sample_j(nn.Linear(8, 6, bias=False), torch.zeros(4, 8), seconds=0.5)
    flops, moved = 2 * 4 * 8 * 6, 4 * (4 * 8 + 8 * 6 + 4 * 6)
    work = base.energy_per_flop_j * flops + base.energy_per_byte_j * moved
    assert found == pytest.approx((work + 3.0 * 0.5) / 4)
    assert "'mine'" in reader.note
    assert "3 W over the measured time" in reader.note


def test_what_takes_longer_for_the_same_work_takes_more_energy(unmetered, net) -> None:
    reader = EnergyReader()
    fast, slow = (reader.per_sample_j(net, X, seconds=s) for s in (1e-3, 3e-3))
    assert slow > fast
    assert slow >= reader.hardware.idle_power_w * 3e-3 / len(X)


def test_parameters_in_use_follow_the_rank(net, elastic) -> None:
    assert measure.parameters_in_use(net) == sum(p.numel() for p in net.parameters())
    assert measure.parameters_in_use(elastic) == measure.parameters_in_use(net)
    elastic.set_budget(flops=0.3)
    factored = materialize_model(elastic, "auto")
    assert measure.parameters_in_use(elastic) >= measure.parameters_in_use(factored)
    assert measure.weight_bytes(net) == 4 * measure.parameters_in_use(net)


def test_every_model_is_timed_in_every_round() -> None:
    calls = []

    class Counted(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            return x

    times = measure.latencies({n: Counted(n) for n in "ab"}, X, rounds=3)
    assert calls == ["a", "b"] * 4  # once to warm up
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_paired_ratios_are_taken_within_rounds() -> None:
    assert measure.paired_ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == 2.0


@pytest.mark.parametrize("form", ["auto", "factored", "identity"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("cost", ["flops", "parameters"])
def test_settled_models_keep_the_budget(elastic, form: str, share: float, cost: str) -> None:
    network, point = settle(elastic, cost=cost, share=share, form=form)
    assert settled_cost(elastic, network, cost) <= share * elastic.full_cost(cost)
    assert elastic.ranks() == dict(point.ranks)
    if cost == "flops":
        assert measure.flops_per_sample(network, X) == settled_cost(elastic, network, cost)


@pytest.mark.parametrize("form", ["dense", "factored", "identity"])
def test_the_fastest_form_keeps_the_ranks_of_the_budget(elastic, fastest, form: str) -> None:
    fastest(form)
    network, point = settle(elastic, cost="flops", share=0.4, form="fastest", batch=X)
    assert point == elastic.point_for(flops=0.4)
    lower = [name for name, r in point.ranks.items() if r < elastic.layers()[name].max_rank]
    assert lower
    assert forms_of(network, lower) == {form: len(lower)}
    with torch.no_grad():
        torch.testing.assert_close(network(X), elastic(X), rtol=1e-4, atol=1e-5)


def test_identity_form_loses_no_more_than_factors_of_the_same_cost(elastic) -> None:
    _, factors = settle(elastic, cost="flops", share=0.5, form="factored")
    _, identity = settle(elastic, cost="flops", share=0.5, form="identity")
    assert identity.loss <= factors.loss


def test_plain_svd_at_full_rank_is_the_network(net, elastic) -> None:
    svd = baselines.PlainSvd(net, elastic.profiles)
    point = svd.tables.choose(allocate, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(svd.at(point)(X), net(X), rtol=1e-4, atol=1e-5)


def product_of_weights(layer: nn.Module) -> torch.Tensor:
    parts = [p.weight.detach().flatten(1).double() for p in layer.modules() if hasattr(p, "weight")]
    return parts[1] @ parts[0] if len(parts) == 2 else parts[0]


def test_plain_svd_is_the_best_of_its_rank_in_frobenius_norm(net, elastic) -> None:
    svd = baselines.PlainSvd(net, elastic.profiles)
    point = svd.tables.choose(uniform, 0.3)
    cut = svd.at(point)
    for name, rank in point.ranks.items():
        want = net.get_submodule(name).weight.detach().flatten(1).double()
        u, s, v = torch.linalg.svd(want, full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        got = product_of_weights(cut.get_submodule(name))
        torch.testing.assert_close(got, best, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chooser", [uniform, allocate])
def test_baselines_keep_the_budget_they_are_compared_at(net, elastic, chooser) -> None:
    svd = baselines.PlainSvd(net, elastic.profiles)
    for share in (0.5, 0.2):
        point = svd.tables.choose(chooser, share)
        assert measure.flops_per_sample(svd.at(point), X) <= share * elastic.full_cost()


def test_tables_of_the_elastic_model_reach_its_own_frontier(elastic) -> None:
    tables = baselines.data_aware(elastic)
    for share in (0.5, 0.2):
        mine = tables.choose(allocate, share)
        assert mine.loss <= elastic.frontier().at(share * elastic.full_cost()).loss * (1 + 1e-9)
