import copy
import json
import threading

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from adlrns_models import (
    AdaptiveLinear,
    ElasticModel,
    _kept,
    _layer,
    _measure_clock,
    make_elastic,
    materialize_model,
    set_rank_change_callback,
)
from adlrns_models._files import write


class Reader(nn.Module):
    """Calls one layer and reads another's weight and bias."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(self, x):
        h = self.a(x).tanh()
        return self.b(h) + F.linear(h, self.b.weight, self.b.bias)


@pytest.fixture(scope="module")
def x():
    return torch.randn(48, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def made(x):
    torch.manual_seed(0)
    return make_elastic(Reader(), [x], multiple_of=1).eval()


@pytest.fixture
def elastic(made):
    return copy.deepcopy(made)


def at_each(elastic, x, shares):
    """What the model computes at budgets that are set."""
    found = {}
    for share in shares:
        elastic.set_budget(flops=share)
        found[share] = elastic(x)
    return found


# a call is of one point, however its layers are used


@pytest.mark.parametrize("gradients", [True, False])
def test_weights_that_are_read_belong_to_the_calls_own_ranks(elastic, x, gradients):
    with torch.set_grad_enabled(gradients):
        wanted = at_each(elastic, x, [0.4, 1.0])
        torch.testing.assert_close(elastic(x, budget=0.4), wanted[0.4])
        with elastic.at(flops=0.4):
            torch.testing.assert_close(elastic.network(x), wanted[0.4])


@pytest.mark.parametrize("groups", [1, 2])
def test_dense_weights_belong_to_the_point(groups):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=groups))
    elastic = make_elastic(model, [torch.randn(4, 8, 6, 6)], multiple_of=1)
    with elastic.at(flops=0.4):
        (layer,) = elastic.layers().values()
        wanted, _ = layer.effective_weight(layer.current_rank())
        torch.testing.assert_close(layer.weight, wanted, rtol=0, atol=0)
    assert not torch.allclose(layer.weight, wanted)


def test_ranks_are_told_as_they_run_here(elastic):
    elastic.set_budget(flops=1.0)
    with elastic.at(flops=0.4) as point:
        assert elastic.ranks() == dict(point.ranks)
        thread_ranks = []
        thread = threading.Thread(target=lambda: thread_ranks.append(elastic.ranks()))
        thread.start()
        thread.join()
    assert thread_ranks == [elastic.ranks()]


def test_what_is_settled_inside_a_point_is_that_point(elastic, x):
    elastic.set_budget(flops=1.0)
    with elastic.at(flops=0.4):
        settled = materialize_model(elastic.network.a, "factored")
        torch.testing.assert_close(settled(x), elastic.network.a(x), atol=1e-5, rtol=1e-4)
    assert isinstance(settled, nn.Sequential)


def test_the_point_that_is_told_is_the_one_that_runs(elastic):
    def once(*_):
        set_rank_change_callback(elastic, None)
        elastic.set_budget(flops=0.8)  # as another thread might, in the midst of the first

    elastic.set_budget(flops=1.0)
    set_rank_change_callback(elastic, once)
    elastic.set_budget(flops=0.4)
    assert elastic.ranks() == dict(elastic.operating_point.ranks)


def test_a_checkpoint_is_of_one_point_though_budgets_move_while_it_is_written(elastic):
    before = elastic.set_budget(flops=1.0)

    def move(*_):
        elastic.set_budget(flops=0.4)

    elastic.network.a.register_state_dict_post_hook(move)
    saved = elastic.state_dict()
    found = {n: int(saved[f"network.{n}.rank"]) for n in elastic.ranks()}
    assert found == dict(before.ranks)
    assert elastic.ranks() == {n: int(elastic.layers()[n].rank) for n in found}


# compiled


class Backend:
    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, _):
        self.graphs += 1
        return graph.forward


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return x


@pytest.fixture(scope="module")
def chain(x):
    torch.manual_seed(0)
    return make_elastic(Chain(), [x], multiple_of=1).eval()


@pytest.fixture(params=["the model", "its network"])
def compiled(request, chain):
    """A model whose graph is compiled, and the count of graphs."""
    torch._dynamo.reset()
    backend, elastic = Backend(), copy.deepcopy(chain)
    if request.param == "the model":
        return elastic, torch.compile(elastic, backend=backend, fullgraph=True), backend
    elastic.compile(backend=backend, fullgraph=True)
    return elastic, elastic, backend


def test_one_graph_serves_every_budget_a_call_of_its_own(compiled, chain, x):
    elastic, run, backend = compiled
    elastic.set_budget(flops=1.0)
    with torch.no_grad():
        for share in (0.3, 0.35, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0):
            with elastic.at(flops=share):
                torch.testing.assert_close(run(x), chain(x, budget=share), atol=1e-5, rtol=1e-4)
    assert backend.graphs == 1


def test_a_compiled_network_takes_budgets_by_the_call(chain, x):
    torch._dynamo.reset()
    backend, elastic = Backend(), copy.deepcopy(chain)
    elastic.compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        for share in (0.3, 0.6, 0.9):
            y = elastic(x, budget=share)
            torch.testing.assert_close(y, chain(x, budget=share), atol=1e-5, rtol=1e-4)
    assert backend.graphs == 1


def test_a_call_of_a_compiled_network_is_of_one_point(chain, x):
    torch._dynamo.reset()
    elastic = copy.deepcopy(chain)
    between = []

    def backend(graph, _):  # as if another thread set a budget after the first product
        def run(*inputs):
            return Stepwise(graph, lambda: between and between[0]()).run(*inputs)

        return run

    elastic.compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        elastic.set_budget(flops=1.0)
        elastic(x)
        between.append(lambda: elastic.set_budget(flops=0.4))
        torch.testing.assert_close(elastic(x), chain(x, budget=1.0), atol=1e-5, rtol=1e-4)


class Stepwise(torch.fx.Interpreter):
    """Runs a graph, calling ``after`` after each tanh."""

    def __init__(self, graph, after):
        super().__init__(graph)
        self.after = after

    def run_node(self, n):
        result = super().run_node(n)
        if n.target == "tanh":
            self.after()
        return result


def test_exported_programs_hold_the_rank_that_is_set(chain, x):
    elastic = copy.deepcopy(chain)
    elastic.set_budget(flops=0.5)
    program = torch.export.export(elastic, (x,))
    assert not any("rank_here" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), elastic(x), atol=1e-5, rtol=1e-4)


# copies


def dense_products(layer):
    return sum(rank > layer.break_even for rank in layer._kept)


def test_calls_at_many_points_keep_one_dense_weight_a_layer(chain, x):
    elastic = copy.deepcopy(chain)
    with torch.no_grad():
        for rank in (32, 31, 30, 20, 8, 4, 2):
            with elastic.at(ranks=dict.fromkeys(elastic.ranks(), rank)):
                for _ in range(_kept.PACK_AFTER + 2):
                    elastic(x)
            for layer in elastic.layers().values():
                assert dense_products(layer) <= 1
                assert sum(kept.packed for kept in layer._kept.values()) <= 1


def test_calls_that_take_turns_at_three_points_prepare_each_once(chain, x, monkeypatch):
    elastic, made = copy.deepcopy(chain), []
    original = _kept._prepared
    monkeypatch.setattr(_kept, "_prepared", lambda *a: made.append(a) or original(*a))
    with torch.no_grad():
        for _ in range(5):
            for share in (0.3, 0.6, 1.0):
                elastic(x, budget=share)
    assert len(made) == 3 * len(elastic.layers())


# files


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: {},
        lambda m: [],
        lambda m: {**m, "rest_s": "much"},
        lambda m: {**m, "rest_s": -1.0},
        lambda m: {**m, "colour": 1},
        lambda m: {**m, "ranks": {}},
        lambda m: {**m, "seconds": {name: [] for name in m["seconds"]}},
        lambda m: {**m, "machine": None},
    ],
)
def test_damaged_measurements_are_named(elastic, x, tmp_path, damage):
    elastic.measure(x, repeats=1)
    elastic.save(tmp_path)
    path = tmp_path / "elastic.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["adlrns"])
    header["info"]["measured"] = damage(header["info"]["measured"])
    keep = ("layers", "multiple_of", "info")
    write(path, "elastic", elastic.network, {name: header[name] for name in keep})
    with pytest.raises(ValueError, match=r"elastic\.safetensors: field info\.measured"):
        ElasticModel.load(tmp_path, Reader())


# measuring


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, and what moves it."""
    now = [0.0]
    monkeypatch.setattr(_measure_clock.time, "perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    return spend


def seconds_of(layer):
    """Planted times: a little for a call, some for each rank, and dense beside the line."""
    rank = layer.current_rank()
    return 0.25 if rank == layer.max_rank else 0.05 + 0.01 * rank


@pytest.fixture
def planted(chain, clock):
    """A model whose layers take planted times and whose rest takes a second a call."""
    elastic = copy.deepcopy(chain)

    class Timed(AdaptiveLinear):
        def forward(self, input):
            clock(seconds_of(self))
            return super().forward(input)

    for layer in elastic.layers().values():
        layer.__class__ = Timed
    elastic.network.register_forward_hook(lambda *_: clock(1.0))
    return elastic


def test_measured_times_are_those_of_layers_inside_calls(planted, x):
    found = planted.measure(x, repeats=2)
    assert found.rest_s == pytest.approx(1.0)
    for name in planted.layers():
        assert found.layer_s(name, [1, 8, 15, 32]) == pytest.approx([0.06, 0.13, 0.20, 0.25])


def test_budgets_in_seconds_are_kept_by_the_clock(planted, x, clock):
    planted.measure(x, repeats=2)
    for limit in (1.3, 1.5, 1.7):
        planted.set_budget(latency_s=limit)
        taken = _measure_clock.seconds_of(lambda: planted(x), torch.device("cpu"))
        assert limit - 0.02 <= taken <= limit + 1e-9


def test_layers_are_measured_by_the_products_they_come_to_run(chain, x, monkeypatch):
    elastic, seen = copy.deepcopy(chain), []
    original = _kept.kept_product

    def watched(layer, rank):
        call = original(layer, rank)
        kept = layer._kept[rank]
        seen.append(kept.dense or kept.packed)
        return call

    monkeypatch.setattr(_layer, "kept_product", watched)
    elastic.measure(x, repeats=1)
    assert seen
    assert all(seen)


def test_measuring_keeps_what_layers_had_kept(chain, x):
    elastic = copy.deepcopy(chain)
    with torch.no_grad():
        elastic(x)
    before = {name: dict(layer._kept) for name, layer in elastic.layers().items()}
    elastic.measure(x, repeats=1)
    assert {name: dict(layer._kept) for name, layer in elastic.layers().items()} == before


def test_compiled_models_are_measured_without_their_graph(chain, x):
    torch._dynamo.reset()
    backend, elastic = Backend(), copy.deepcopy(chain)
    elastic.compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        elastic(x)
        found = elastic.measure(x, repeats=1)
        elastic(x, budget={"latency_s": elastic.full_cost("latency_s")})
    assert backend.graphs == 1
    assert found.ranks.keys() == elastic.layers().keys()


def test_compiling_changes_neither_names_nor_copies(chain, x):
    torch._dynamo.reset()
    backend, elastic = Backend(), make_elastic(nn.Sequential(nn.Linear(32, 8)), [x])
    names = set(elastic.state_dict())
    elastic.compile(backend=backend, fullgraph=True)
    assert set(elastic.state_dict()) == names
    torch.testing.assert_close(copy.deepcopy(elastic)(x), elastic(x))
    assert backend.graphs == 1


def test_containers_compile_into_one_graph(x):
    torch._dynamo.reset()
    layers = (nn.Linear(32, n) for n in range(8, 20))
    split = nn.Sequential(
        nn.Linear(32, 32), *(nn.Sequential(n, nn.Linear(n.out_features, 32)) for n in layers)
    )
    backend, elastic = Backend(), make_elastic(split, [x], multiple_of=1).eval()
    elastic.compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        for share in (0.4, 0.6, 1.0):
            elastic(x, budget=share)
    assert backend.graphs == 1
