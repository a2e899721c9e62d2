"""What goes wrong in adaptive layers that look at their inputs alone, a test for each."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adlrns_models import (
    AdaptConfig,
    AdaptiveConv2d,
    AdaptiveLinear,
    iter_adaptive_layers,
    materialize_model,
    wrap_model_with_adaptive,
)
from adlrns_models.testing import FAMILIES, check_prefixes, synthetic_inputs

NEVER = 10**9
double = torch.float64


def watched(linear, X, **options):
    """An adaptive layer that has seen all of X and has not looked at its rank yet."""
    options = {"adapt_every": NEVER, "sketch_size": 64, "adapt_cooldown": 0} | options
    layer = AdaptiveLinear(linear, AdaptConfig(**options, max_rows_fd=len(X)))
    layer._watch.credit = 1e9  # all rows, not a sample
    with torch.no_grad():
        layer(X.to(linear.weight.dtype))
    assert layer.sketch.n_samples_seen == len(X)
    return layer


def settle(layer):
    for _ in range(200):
        before = layer.current_rank()
        if layer.adapt_now() == before:
            return before
    raise AssertionError("the rank does not come to rest")


def output_share(linear, layer, X, rank):
    """The share of the output's energy around its bias that a rank loses, in float64."""
    linear, layer = copy.deepcopy(linear).double(), copy.deepcopy(layer).double()
    with torch.no_grad():
        wanted = linear(X.double())
        weight, bias = layer.effective_weight(rank)
        lost = wanted - X.double() @ weight.T - bias
        around = wanted - layer.effective_weight(0)[1]
    return float(lost.square().sum() / around.square().sum())


def uneven(family, rows, linear):
    """Inputs whose loudest channels matter least to the outputs of a layer."""
    n = linear.in_features
    with torch.no_grad():
        linear.weight.mul_(torch.logspace(-1.5, 0, n))
    return synthetic_inputs(family, rows, n).float() * torch.logspace(1, -0.5, n)


# 1: eps must be about the output, and directions about the data


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("eps", [0.3, 0.08, 0.01])
def test_1_eps_is_the_share_of_the_output_that_is_lost(family, eps):
    linear = nn.Linear(96, 80)
    X = uneven(family, 256, linear)
    layer = watched(linear, X, eps=eps, r_min=1, sketch_size=256)
    rank = settle(layer)
    assert rank < 80
    # within eps, and no rank is given away beyond the dead zone of 0.8 eps
    assert output_share(linear, layer, X, rank) <= eps * 1.001
    assert output_share(linear, layer, X, rank - 1) > 0.8 * eps * 0.999


@pytest.mark.parametrize("family", FAMILIES)
def test_1_a_sample_of_the_rows_stands_for_all(family):
    linear = nn.Linear(96, 80)
    X = uneven(family, 4000, linear)
    layer = watched(linear, X, eps=0.08, r_min=1, sketch_size=256)
    rank = settle(layer)
    assert output_share(linear, layer, X, rank) <= 1.3 * 0.08
    assert output_share(linear, layer, X, rank - 1) >= 0.7 * 0.8 * 0.08


@pytest.mark.parametrize("family", ["outlier-channels", "log-normal-channels"])
def test_1_after_adapt_now_directions_follow_the_data(family):
    linear = nn.Linear(96, 80)
    X = synthetic_inputs(family, 3000, 96).float()
    layer = watched(linear, X, r_min=1)
    plain = [output_share(linear, layer, X, rank) for rank in (4, 8, 16)]
    layer.adapt_now()
    ours = [output_share(linear, layer, X, rank) for rank in (4, 8, 16)]
    assert all(new <= old / 3 for new, old in zip(ours, plain, strict=True))


# 2: mass that the sketch shed must not be missing from the decision


@pytest.mark.parametrize("family", FAMILIES)
def test_2_the_decision_sees_energy_that_the_sketch_has_shed(family):
    linear = nn.Linear(600, 200)
    X = synthetic_inputs(family, 4000, 600).float()
    layer = watched(linear, X, sketch_size=64, r_max=200)
    B = layer.sketch.sketch().double()
    layer.adapt_now()
    loss = layer.prefix_loss()
    for rank in (0, 8, 32, 64, 128):
        seen = float(loss[rank] / loss[0])
        true = output_share(linear, layer, X, rank)
        assert 0.75 * true <= seen <= 1.25 * true
    # what is left of the sketch would have promised much less
    down, up = layer.down[64:].detach().double(), layer.up[:, 64:].detach().double()
    weight = linear.weight.detach().double()
    promised = (B @ down.T @ up.T).square().sum() / (B @ weight.T).square().sum()
    assert float(promised) < 0.75 * output_share(linear, layer, X, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_2_a_rank_beyond_the_sketch_still_keeps_eps(family):
    linear = nn.Linear(600, 200)
    X = synthetic_inputs(family, 4000, 600).float()
    layer = watched(linear, X, sketch_size=24, eps=0.01, r_min=1, r_max=200)
    rank = settle(layer)
    assert rank > 24
    assert output_share(linear, layer, X, rank) <= 1.3 * 0.01


# 3: watching must be cheap


class EighCounter:
    """Counts the FLOPs, about 9 k^3, of symmetric eigendecompositions, which torch does not."""

    def __init__(self, monkeypatch):
        self.flops = 0
        for module, name in ((torch.linalg, "eigh"), (torch.linalg, "eigvalsh")):
            monkeypatch.setattr(module, name, self.counting(getattr(module, name)))

    def counting(self, function):
        def counted(matrix, *args, **kwargs):
            self.flops += 9 * matrix.shape[-1] ** 3
            return function(matrix, *args, **kwargs)

        return counted


def forward_flops(layer, batches, decompositions):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for x in batches:
            layer(x)
    return counter.get_total_flops() + decompositions.flops


@pytest.mark.parametrize(
    "linear, batch, steps",
    [
        ((256, 256), 256, 3000),  # the covariance itself
        ((1024, 1024), 256, 1000),  # a sketch
        ((1024, 10), 256, 20_000),  # hardly any outputs to pay for it
        ((64, 512), 64, 3000),
    ],
)
def test_3_watching_at_the_defaults_costs_at_most_2_percent_of_training(
    linear, batch, steps, monkeypatch
):
    layer = AdaptiveLinear(nn.Linear(*linear), AdaptConfig())
    # a forward at rank 0 leaves only the cost of watching to count
    monkeypatch.setattr(layer, "_product", lambda x, rank: x)
    decompositions = EighCounter(monkeypatch)
    x = torch.randn(batch, linear[0])
    spent = forward_flops(layer, [x] * steps, decompositions)
    training = 6 * batch * linear[0] * linear[1] * steps  # forward, two products backward
    assert 0 < spent <= 0.02 * training
    assert layer.sketch.n_samples_seen > 0


def test_3_rows_are_sampled_and_the_first_ones_are_free():
    layer = AdaptiveLinear(nn.Linear(600, 600), AdaptConfig(sketch_size=128, adapt_every=NEVER))
    x = torch.randn(100, 600)
    with torch.no_grad():
        for _ in range(3):
            layer(x)
        assert layer.sketch.n_samples_seen >= 256  # a rank can be decided soon
        for _ in range(900):
            layer(x)
    assert 256 < layer.sketch.n_samples_seen < 0.05 * 90_300


def test_3_watching_costs_nothing_once_it_is_off():
    layer = AdaptiveLinear(nn.Linear(64, 64), AdaptConfig())
    layer.enable_adaptation(False)
    x = torch.randn(32, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 32 * 64 * (64 + 64)
    assert layer.sketch.n_samples_seen == 0


# 4: growing must never add noise


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("family", ["power-law", "log-normal-channels"])
def test_4_a_higher_rank_is_never_worse_on_calibration_data(family, fitted):
    linear = nn.Linear(48, 40).double()
    X = synthetic_inputs(family, 500, 48)
    layer = watched(linear, X, r_min=1)
    if fitted:
        layer.adapt_now()
    losses = [output_share(linear, layer, X, rank) for rank in range(41)]
    if fitted:
        assert all(b <= a * (1 + 1e-6) for a, b in pairwise(losses))
    # without data the weight itself is approached, at every rank
    weights = [(linear.weight - layer.effective_weight(r)[0]).detach() for r in range(41)]
    norms = [float(w.square().sum()) for w in weights]
    assert fitted or all(b <= a for a, b in pairwise(norms))
    assert losses[-1] <= 1e-10


@pytest.mark.parametrize(
    "layer, x",
    [
        (lambda: AdaptiveLinear(nn.Linear(24, 20)), (7, 24)),
        (lambda: AdaptiveConv2d(nn.Conv2d(3, 10, 3, padding=1)), (2, 3, 6, 6)),
    ],
)
def test_4_shrinking_and_growing_is_reversible_to_the_bit(layer, x):
    layer = layer()
    check_prefixes(layer, torch.randn(x), [10, 4, 1, 0, 7])


# 5: settling must keep the saving


@pytest.mark.parametrize("form", ["auto", "factored", "identity"])
def test_5_a_settled_model_is_smaller_and_cheaper_than_dense(form):
    dense = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 64)
    )
    model = wrap_model_with_adaptive(copy.deepcopy(dense))
    for layer in iter_adaptive_layers(model):
        layer.set_rank(8)
    settled = materialize_model(model, form).eval()
    x = torch.randn(4, 16, 6, 6)
    cost = {}
    for name, network in (("dense", dense), ("settled", settled)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x)
        cost[name] = counter.get_total_flops(), sum(p.numel() for p in network.parameters())
    assert cost["settled"][0] < 0.5 * cost["dense"][0]
    assert cost["settled"][1] < 0.5 * cost["dense"][1]
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(settled(x), model(x), rtol=1e-4, atol=1e-5)


# 6: one compiled graph


def compiled(model, **options):
    torch._dynamo.reset()
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, backend=counter, fullgraph=True, **options), counter


def small_network(**options):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 24)
    ).double()
    options = {"r_min": 1, "adapt_every": 3, "adapt_cooldown": 0, "shrink_step": 3} | options
    return wrap_model_with_adaptive(model, **options)


def test_6_one_graph_serves_every_rank_with_adaptation_on():
    model = small_network(adapt_every=NEVER)
    run, counter = compiled(model)
    x = torch.randn(5, 3, 4, 4, dtype=double)
    for conv, linear in [(16, 24), (8, 1), (16, 16), (1, 23), (3, 2), (5, 24), (0, 0), (7, 7)] + [
        (r, 2 * r) for r in range(2, 12)
    ]:
        model[0].set_rank(conv)
        model[3].set_rank(linear)
        expected = copy.deepcopy(model)(x)
        torch.testing.assert_close(run(x), expected, rtol=1e-12, atol=1e-12)
    assert counter.frame_count == 1
    assert model[0].sketch.n_samples_seen > 0


def test_6_one_graph_while_ranks_change_by_themselves_and_equal_to_eager():
    model = small_network(eps=0.2)
    twin = copy.deepcopy(model)
    run, counter = compiled(model)
    # a compiled graph may not be re-fitted from inside: neither is the twin
    seen = []
    for step in range(24):
        x = (
            torch.randn(6, 3, 4, 4, dtype=double)
            * torch.tensor([3.0, 1, 0.1], dtype=double)[:, None, None]
        )
        y = run(x)
        for mine, its in zip(iter_adaptive_layers(model), iter_adaptive_layers(twin), strict=True):
            its.set_rank(mine.current_rank())
            for name in ("down", "up", "inner_bias", "outer_bias"):
                getattr(its, name).data.copy_(getattr(mine, name).data)
        with twin[0].adapt_disabled(), twin[3].adapt_disabled():
            torch.testing.assert_close(y, twin(x), rtol=1e-12, atol=1e-12, msg=f"step {step}")
        y.square().mean().backward()
        seen.append((model[0].current_rank(), model[3].current_rank()))
    assert len(set(seen)) >= 4
    assert seen[-1] < seen[0]
    assert counter.frame_count == 1
    assert int(model[0].rank) == model[0].current_rank()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
def test_6_inductor_runs_what_eager_runs():
    model = small_network(adapt_every=NEVER).float().eval()
    torch._dynamo.reset()
    run = torch.compile(model, fullgraph=True)
    x = torch.randn(5, 3, 4, 4)
    for rank in (16, 3, 9):
        model[0].set_rank(rank)
        with torch.no_grad():
            torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo's own
def test_6_layers_compiled_one_by_one_share_a_graph():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = wrap_model_with_adaptive(nn.Sequential(*[nn.Linear(16, 16) for _ in range(12)]))
    for layer in model:
        layer.compile(backend=counter, fullgraph=True)
    model(torch.randn(4, 16, requires_grad=True))
    assert counter.frame_count == 1
    assert all(layer.sketch.n_samples_seen == 4 for layer in model)


# 7: what a parent does to its tensors reaches all that the layer owns


@pytest.mark.parametrize("change", ["half", "double", "bfloat16"])
def test_7_a_parents_change_of_dtype_keeps_rank_steps_and_sketch(change):
    model = wrap_model_with_adaptive(nn.Sequential(nn.ReLU(), nn.Linear(12, 10)))
    layer = model[1]
    model(torch.randn(30, 12))
    layer.set_rank(6)
    before, rows = layer.sketch.to_bytes(), layer.sketch.n_samples_seen
    getattr(model, change)()
    assert layer.current_rank() == 6
    assert int(layer.rank) == 6
    assert layer.steps == 1
    assert layer.rank.dtype == torch.int64
    assert layer.sketch.to_bytes() == before
    dtype = {"half": torch.float16, "double": double, "bfloat16": torch.bfloat16}[change]
    assert {p.dtype for p in model.parameters()} == {dtype}
    layer._watch.credit = 99.0
    y = model(torch.randn(30, 12, dtype=dtype))
    assert y.dtype == dtype
    assert layer.sketch.n_samples_seen == rows + 30
    layer.adapt_now()
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("move", [lambda m: m.to("cpu"), lambda m: m._apply(torch.clone)])
def test_7_moving_the_parent_keeps_the_function(move):
    model = wrap_model_with_adaptive(nn.Sequential(nn.Linear(12, 10)))
    x = torch.randn(30, 12)
    model(x)
    model[0].adapt_now()
    model[0].set_rank(5)
    with torch.no_grad(), model[0].adapt_disabled():
        before = model(x)
        assert torch.equal(move(model)(x), before)
    assert model[0].sketch.n_samples_seen > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_7_a_half_layer_decides_as_a_float32_layer_does(dtype):
    X = 300 * synthetic_inputs("power-law", 2000, 64).float()
    linear = nn.Linear(64, 64)
    ranks = []
    for kind in (torch.float32, dtype):
        layer = watched(copy.deepcopy(linear), X, eps=0.05, r_min=1).to(kind)
        ranks.append(settle(layer))
    assert abs(ranks[0] - ranks[1]) <= 1


# 8: nothing must become something


def test_8_zero_rows_add_no_energy():
    layer = watched(nn.Linear(40, 30), torch.zeros(5, 40))
    assert layer.sketch.total_mass() == 0.0
    assert not layer.prefix_loss().any()
    layer.adapt_now()
    assert layer.sketch.total_mass() == 0.0
    assert not layer.prefix_loss().any()


def test_8_a_bound_holds_with_zero_rows_between_others():
    X = synthetic_inputs("power-law", 400, 700).float()
    X[::2] = 0.0
    layer = watched(nn.Linear(700, 30), X, sketch_size=16)
    centred = X.double() - X.double().mean(0)
    energy = float(centred.square().sum())
    assert layer.sketch.total_mass() == pytest.approx(energy, rel=1e-6)
    B = layer.sketch.sketch().double()
    values = torch.linalg.eigvalsh(centred.T @ centred - B.T @ B)
    assert float(values.min()) >= -1e-5 * energy
    assert float(B.square().sum()) <= energy


def test_8_zero_inputs_lead_to_the_smallest_rank_and_finite_factors():
    model = wrap_model_with_adaptive(
        nn.Sequential(nn.Linear(40, 30)), adapt_every=1, adapt_cooldown=0, r_min=3
    )
    for _ in range(4):
        y = model(torch.zeros(8, 40))
    assert model[0].current_rank() == 3
    assert bool(y.isfinite().all())
    assert all(bool(p.isfinite().all()) for p in model.parameters())


# 9: what is needed to state a guarantee is there


def test_9_bound_mass_merge_and_mean_are_exposed_and_right():
    X = synthetic_inputs("power-law", 900, 200)
    one, other = (
        watched(nn.Linear(200, 20), part.float(), sketch_size=10) for part in (X[:500], X[500:])
    )
    assert one.sketch.error_bound() > 0.0
    one.sketch.merge(other.sketch)
    centred = X - X.mean(0)
    C = centred.T @ centred
    B = one.sketch.sketch().double()
    values = torch.linalg.eigvalsh(C - B.T @ B)
    slack = 1e-5 * float(C.trace())
    assert float(values.min()) >= -slack
    assert float(values.max()) <= one.sketch.error_bound() + slack
    assert one.sketch.total_mass() == pytest.approx(float(C.trace()), rel=1e-5)
    shed = float(C.trace() - B.square().sum())
    assert one.sketch.residual_mass() == pytest.approx(shed, rel=1e-3)
    torch.testing.assert_close(torch.as_tensor(one.sketch.mean), X.mean(0), rtol=1e-4, atol=1e-5)
    assert one.sketch.n_samples_seen == 900
    one.adapt_now()
    assert one.prefix_loss()[0] > 0
