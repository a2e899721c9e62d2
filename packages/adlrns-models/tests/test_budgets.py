import copy
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from adlrns_models import ElasticModel, make_elastic, materialize_model
from adlrns_models._measured import monotone
from rank_sched import EnergyWindow


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 160), nn.ReLU(), nn.Linear(160, 128), nn.Linear(128, 12))


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(1)
    return torch.randn(256, 96) @ torch.diag(torch.linspace(2, 0.1, 96))


@pytest.fixture(scope="module")
def made(x):
    return make_elastic(mlp(), [x], multiple_of=4)


@pytest.fixture
def elastic(made):
    return copy.deepcopy(made)


class Meter:
    """Counts calls as joules: two a call and one a second."""

    name = "counting"

    def __init__(self, network):
        self.calls = 0
        network.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    @contextmanager
    def measure(self):
        window, before = EnergyWindow(self.name), self.calls
        yield window
        window.close(energy_j=2.0 * (self.calls - before), duration_s=1.0)


# what budgets count


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_bytes_are_those_of_the_settled_weights(elastic, share):
    limit = share * elastic.full_cost("memory_bytes")
    point = elastic.set_budget(memory_bytes=limit, form="identity")
    assert point.cost <= limit
    settled = materialize_model(elastic, "auto")
    weights = sum(p.numel() for n, p in settled.named_parameters() if "bias" not in n)
    buffers = sum(b.numel() for b in settled.buffers() if b.is_floating_point())
    assert 4 * (weights + buffers) <= limit + 4 * buffers


def test_bytes_are_of_numbers_as_they_are(elastic):
    limit = 0.6 * elastic.full_cost("memory_bytes")
    single = elastic.set_budget(memory_bytes=limit)
    elastic.network.double()  # the part alone, not the model
    double = elastic.set_budget(memory_bytes=limit)
    assert double.cost <= limit
    assert double.cost == elastic.frontier("memory_bytes").at(limit).cost
    weights = sum(
        min(rank * sum(layer.sizes), layer.sizes[0] * layer.sizes[1])
        for layer, rank in ((elastic.layers()[n], r) for n, r in double.ranks.items())
    )
    assert 8 * weights == double.cost
    elastic.float()
    assert elastic.set_budget(memory_bytes=limit) == single


def test_seconds_are_predicted_from_what_was_measured(elastic, x):
    found = elastic.measure(x, repeats=3)
    full = elastic.full_cost("latency_s")
    least = elastic.frontier("latency_s").min_cost + found.rest_s
    for limit in np.linspace(least * 1.001, full, 5):
        point = elastic.set_budget(latency_s=float(limit))
        layers = sum(found.layer_s(name, [rank])[0] for name, rank in point.ranks.items())
        assert point.cost == pytest.approx(layers)
        assert point.cost + found.rest_s <= limit * (1 + 1e-9)
    with pytest.raises(ValueError, match=rf"latency_s must be at least {least:.4g}"):
        elastic.set_budget(latency_s=least / 2)


def test_a_larger_time_never_buys_a_larger_loss(elastic, x):
    elastic.measure(x, repeats=2)
    limits = np.linspace(0, elastic.full_cost("latency_s"), 20)
    smallest = elastic.frontier("latency_s").min_cost + elastic.measured.rest_s
    losses = [elastic.point_for(latency_s=float(t)).loss for t in limits if t > smallest]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(losses))


def test_energy_follows_the_meter(elastic, x):
    found = elastic.measure(x, repeats=2, meter=Meter(elastic.network))
    assert found.meter == "counting"
    # two joules a call whatever the ranks: no rank saves any
    assert elastic.full_cost("energy_j") == pytest.approx(2.0, rel=0.35)
    elastic.set_budget(energy_j=10.0)
    assert elastic.ranks() == {"0": 96, "2": 128, "3": 12}


def test_what_was_not_measured_is_asked_for(elastic, x):
    with pytest.raises(
        ValueError, match=r"latency_s must be measured first: call measure\(batch\)"
    ):
        elastic.set_budget(latency_s=1.0)
    elastic.measure(x, repeats=1)
    with pytest.raises(ValueError, match="energy_j must be measured first"):
        elastic.set_budget(energy_j=1.0)
    with pytest.raises(ValueError, match="form must be 'factored' for latency_s"):
        elastic.set_budget(latency_s=1.0, form="identity")


def test_measurements_are_saved_and_refused_on_another_machine(elastic, x, tmp_path):
    elastic.measure(x, repeats=2)
    elastic.save(tmp_path)
    back = ElasticModel.load(tmp_path, mlp())
    limit = 0.9 * elastic.full_cost("latency_s")
    assert back.set_budget(latency_s=limit) == elastic.set_budget(latency_s=limit)
    foreign = {**elastic.measured.machine, "processor": "an abacus"}
    back.measured = replace(back.measured, machine=foreign)
    with pytest.raises(ValueError, match="got measurements of an abacus"):
        back.set_budget(latency_s=limit)


@pytest.mark.parametrize(
    "change, name",
    [
        (lambda model: model.half(), "float16"),
        (lambda model: model.double(), "float64"),
        (lambda model: model.to(torch.bfloat16), "bfloat16"),
        (lambda model: model.network.double(), "float64"),
        (lambda model: model.network[0].half(), "float16 and float32"),
    ],
)
def test_measurements_of_another_precision_are_refused_by_name(elastic, x, change, name):
    elastic.measure(x, repeats=1, meter=Meter(elastic.network))
    limit = elastic.full_cost("latency_s")
    point = elastic.set_budget(latency_s=limit)
    change(elastic)
    message = (
        rf"must be measured for precision {name}, .* got measurements of float32: call measure"
    )
    for call in (
        lambda: elastic.set_budget(latency_s=limit),
        lambda: elastic.set_budget(energy_j=10.0),
        lambda: elastic(x, budget={"latency_s": limit}),
        lambda: elastic.frontier("latency_s"),
        lambda: elastic.full_cost("energy_j"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert elastic.operating_point == point
    assert elastic.set_budget(flops=0.5).cost > 0  # what is counted needs no measuring
    elastic.float()
    assert elastic.set_budget(latency_s=limit) == point


def test_measurements_of_the_new_precision_are_taken(elastic, x):
    elastic.measure(x, repeats=1)
    elastic.double().measure(x.double(), repeats=1)
    assert elastic.measured.machine["precision"] == "float64"
    elastic.set_budget(latency_s=elastic.full_cost("latency_s"))


def test_measurements_that_do_not_tell_their_precision_are_refused(elastic, x, tmp_path):
    elastic.measure(x, repeats=1)
    del elastic.info["measured"]["machine"]["precision"]  # as an older version wrote it
    elastic.save(tmp_path)
    back = ElasticModel.load(tmp_path, mlp())
    with pytest.raises(ValueError, match="precision float32, .* got measurements of an unknown"):
        back.set_budget(latency_s=1.0)


def test_measuring_leaves_the_model_as_it_was(elastic, x):
    elastic.train()
    elastic.network[1].eval()
    elastic.set_budget(flops=0.5)
    ranks, state = elastic.ranks(), copy.deepcopy(elastic.state_dict())
    elastic.measure(x, repeats=1)
    assert elastic.training
    assert not elastic.network[1].training
    assert elastic.ranks() == ranks
    for name, value in elastic.state_dict().items():
        assert torch.equal(value, state[name]), name


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30))
def test_monotone_is_the_nearest_rising_sequence(values):
    fitted = np.array(monotone(values))
    assert np.all(np.diff(fitted) >= -1e-9)
    assert fitted.sum() == pytest.approx(sum(values))
    if all(b >= a for a, b in itertools.pairwise(values)):
        np.testing.assert_allclose(fitted, values)
    # optimality: the residual is orthogonal to the fit (projection onto a convex cone)
    assert fitted @ (np.array(values) - fitted) == pytest.approx(
        0, abs=1e-6 * (1 + fitted.max()) ** 2
    )


# one point a call


class Slow(nn.Module):
    """Says which ranks its layers ran at, and lets others run between them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.between = lambda: None

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            self.between()
        return x


@pytest.fixture(scope="module")
def slow():
    torch.manual_seed(0)
    rows = torch.randn(64, 16)
    return make_elastic(Slow(), [rows], multiple_of=1), rows


def at_rank(elastic, rank, x):
    with elastic.at(ranks=dict.fromkeys(elastic.ranks(), rank)):
        return elastic(x)


def test_a_call_sees_one_operating_point_while_another_thread_changes_it(slow):
    elastic, x = copy.deepcopy(slow)
    x = x[:8]
    with torch.no_grad():
        wanted = {r: at_rank(elastic, r, x) for r in (2, 5, 16)}
        stop = threading.Event()

        def change():
            for rank in itertools.cycle((2, 5, 16)):
                if stop.is_set():
                    return
                elastic.set_ranks(dict.fromkeys(elastic.ranks(), rank))

        elastic.network.between = lambda: threading.Event().wait(1e-4)
        writer = threading.Thread(target=change)
        writer.start()
        try:
            with ThreadPoolExecutor(3) as pool:
                found = list(pool.map(lambda _: _in_no_grad(elastic, x), range(60)))
        finally:
            stop.set()
            writer.join()
    seen = [[r for r, y in wanted.items() if torch.allclose(y, f, atol=1e-5)] for f in found]
    assert all(len(ranks) == 1 for ranks in seen)
    assert len({ranks[0] for ranks in seen}) > 1


def _in_no_grad(elastic, x):
    with torch.no_grad():
        return elastic(x)


def test_threads_with_budgets_of_their_own_do_not_meet(slow):
    elastic, x = copy.deepcopy(slow)
    elastic.set_budget(flops=1.0)
    shares = [0.3, 0.5, 0.8, 1.0]
    with torch.no_grad():
        wanted = {}
        for share in shares:
            elastic.set_budget(flops=share)
            wanted[share] = elastic(x)
        elastic.set_budget(flops=1.0)

    def run(share):
        with torch.no_grad():
            return share, elastic(x, budget=share)

    with ThreadPoolExecutor(4) as pool:
        for share, y in pool.map(run, shares * 20):
            torch.testing.assert_close(y, wanted[share], atol=1e-5, rtol=1e-5)
    assert elastic.operating_point.cost == elastic.full_cost()


@pytest.mark.parametrize("train", [False, True])
def test_a_call_of_its_own_budget_is_the_model_at_that_budget(elastic, x, train):
    elastic.train(train)
    elastic.set_budget(flops=0.4)
    wanted = elastic(x)
    elastic.set_budget(flops=1.0)
    torch.testing.assert_close(elastic(x, budget=0.4), wanted)
    with elastic.at(flops=0.4) as point:
        assert point == elastic.point_for(flops=0.4)
        torch.testing.assert_close(elastic(x), wanted)
        with elastic.at(ranks={"0": 96}):  # inside, the others keep the point's ranks
            assert not torch.allclose(elastic(x), wanted)
    assert elastic.ranks()["0"] == 96


def test_gradients_are_those_of_the_calls_own_ranks(elastic, x):
    elastic.set_budget(flops=0.4)
    elastic(x).square().sum().backward()
    wanted = {n: p.grad.clone() for n, p in elastic.named_parameters() if p.grad is not None}
    elastic.set_budget(flops=1.0)
    elastic.zero_grad()
    elastic(x, budget={"flops": 0.4}).square().sum().backward()
    for name, gradient in wanted.items():
        torch.testing.assert_close(elastic.get_parameter(name).grad, gradient)


def test_one_compiled_graph_serves_every_point(elastic, x):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(elastic, backend=backend, fullgraph=True)
    with torch.no_grad():
        for share in np.linspace(0.3, 1.0, 11):
            elastic.set_budget(flops=float(share))
            torch.testing.assert_close(compiled(x), elastic(x), atol=1e-4, rtol=1e-4)
    assert len(graphs) == 1


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_a_copy_and_a_checkpoint_hold_every_point(elastic, x, tmp_path, share):
    point = elastic.set_budget(flops=share)
    with torch.no_grad():
        wanted = elastic(x)
        torch.testing.assert_close(copy.deepcopy(elastic)(x), wanted)
        fresh = make_elastic(mlp(), [x], multiple_of=4)
        fresh.load_state_dict(elastic.state_dict())
        assert fresh.ranks() == dict(point.ranks)
        torch.testing.assert_close(fresh(x), wanted)


def test_wrong_budgets_change_nothing(elastic, x):
    elastic.set_budget(flops=0.5)
    before = elastic.ranks()
    for call, error, message in [
        (lambda: elastic(x, budget={"watts": 1}), TypeError, "budget must be one of"),
        (lambda: elastic(x, budget=-0.1), ValueError, r"flops must be in 0\.\.1"),
        (lambda: elastic(x, budget="much"), TypeError, "flops must be a number"),
        (lambda: elastic.set_budget(memory_bytes=1.0), ValueError, "memory_bytes must be at least"),
        (lambda: elastic.at(ranks={"9": 1}).__enter__(), ValueError, "must name elastic layers"),
        (lambda: elastic.at(ranks={}, flops=0.5).__enter__(), TypeError, "not both"),
    ]:
        with pytest.raises(error, match=message):
            call()
    assert elastic.ranks() == before
