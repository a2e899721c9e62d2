"""Dynamic layers: what they compute, decide, spend, keep and restore."""

import copy
import io

import numpy as np
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from adlrns_models import (
    DynamicConv2d,
    DynamicLinear,
    DynamicLowRankLayer,
    EventLinear,
    RefactorTrigger,
    SpectralGate,
    factorize,
    iter_dynamic_layers,
    mean_flops,
    rank_budget,
    rank_penalty,
    record,
)
from adlrns_models._dynamic_budget import amount_of
from adlrns_models.testing import (
    check_dynamic,
    check_prefix_decisions,
    check_spectral_bound,
    synthetic_inputs,
)
from fd_sketch import ExactGram
from rank_sched import PerfEstimator, RankScheduler

double = torch.float64
each_granularity = pytest.mark.parametrize("granularity", ["call", "sample"])
each_mode = pytest.mark.parametrize("training", [True, False])


def linear(n=24, m=16, r_max=12, r_min=2, **options):
    torch.manual_seed(0)
    return DynamicLinear(n, m, r_max, r_min, dtype=double, **options)


def conv(r_max=12, r_min=2, **options):
    torch.manual_seed(0)
    return DynamicConv2d(3, 16, 3, padding=1, r_max=r_max, r_min=r_min, dtype=double, **options)


def falling(count=8, n=24, steepness=2.0):
    torch.manual_seed(1)
    return torch.randn(count, n, dtype=double) * torch.logspace(0, -steepness, n, dtype=double)


def images(count=4, size=7):
    torch.manual_seed(1)
    scale = torch.logspace(0, -2, count, dtype=double)[:, None, None, None]
    noise = torch.randn(count, 3, size, size, dtype=double)
    return torch.ones(count, 3, size, size, dtype=double) + scale * noise


LAYERS = [(linear, falling), (conv, images)]
each_layer = pytest.mark.parametrize("make, inputs", LAYERS, ids=["linear", "conv"])


def scramble(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.std().nan_to_num(0.1))
    return layer


# what they compute


@each_layer
@each_granularity
@each_mode
def test_laws_hold(make, inputs, granularity, training):
    layer = make(granularity=granularity).train(training)
    check_dynamic(layer, inputs())
    check_dynamic(scramble(layer), inputs())


@each_layer
@each_granularity
def test_every_sample_gets_the_prefix_that_is_reported(make, inputs, granularity):
    layer = make(granularity=granularity, gate=SpectralGate(0.2)).eval()
    check_prefix_decisions(layer, inputs())
    check_prefix_decisions(scramble(layer), inputs())


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24), (2, 1, 3, 24), (0, 24), (2, 0, 24)])
@each_granularity
def test_leading_axes_are_kept(shape, granularity):
    layer = linear(gate=SpectralGate(0.0), granularity=granularity)
    x = torch.randn(shape, dtype=double)
    y = layer(x)
    torch.testing.assert_close(y, F.linear(x, layer.weight, layer.bias), rtol=1e-10, atol=1e-10)
    samples = shape[0] if len(shape) > 1 else 1
    assert torch.as_tensor(layer.last_rank).shape == (() if granularity == "call" else (samples,))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_a_layer_from_a_linear_computes_the_same(bias, centre):
    plain = nn.Linear(24, 16, bias=bias).double()
    sketch = ExactGram(24, center=centre).partial_fit(synthetic_inputs("power-law", 100, 24))
    layer = DynamicLinear.from_linear(plain, sketch=sketch, gate=SpectralGate(0.0))
    x = falling()
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.weight, plain.weight, rtol=1e-10, atol=1e-10)
    assert (layer.outer_bias is None) == (not bias and not centre)


def test_a_layer_takes_the_directions_of_a_factorisation():
    plain = nn.Linear(24, 16).double()
    factors = factorize(plain.weight, plain.bias, max_rank=8)
    layer = DynamicLinear.from_linear(plain, factors=factors, r_max=5)
    assert layer.max_rank == 5
    assert torch.equal(layer.down, factors.down[:5])
    assert layer.down.data_ptr() != factors.down.data_ptr()


CONVS = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": (2, 0)},
    {"stride": (1, 3), "dilation": (2, 1)},
    {"padding": "same", "dilation": 2},
    {"padding": 2, "padding_mode": "reflect"},
    {"bias": False},
]


@pytest.mark.parametrize("options", CONVS)
@each_granularity
def test_a_layer_from_a_convolution_computes_the_same(options, granularity):
    plain = nn.Conv2d(3, 8, 3, **options).double()
    gate = SpectralGate(0.0)
    layer = DynamicConv2d.from_conv(plain, gate=gate, granularity=granularity).eval()
    x = images(size=9)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer(x[0]), plain(x[0]), rtol=1e-10, atol=1e-10)
    again = DynamicConv2d(3, 8, 3, **options, r_max=8, dtype=double)
    assert again(x).shape == plain(x).shape
    rows = F.unfold(layer.window._pad_fully(x), 3, plain.dilation, 0, plain.stride)
    wanted = rows.square().sum((1, 2))
    torch.testing.assert_close(layer.input_energy(x), wanted)


@pytest.mark.parametrize("m, n", [(200, 300), (300, 200)])
def test_a_fresh_layer_is_as_large_as_a_fresh_linear(m, n):
    torch.manual_seed(0)
    layer, plain = DynamicLinear(n, m, 32), nn.Linear(n, m)
    ratio = float((layer.weight.norm() / plain.weight.norm()).detach())
    assert 0.9 < ratio < 1.1
    U, sigma, V = layer.svd()
    torch.testing.assert_close(U @ sigma.diag() @ V.T, layer.weight, rtol=1e-4, atol=1e-5)
    gram = layer.up.T @ layer.up
    torch.testing.assert_close(gram, torch.eye(32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_refit_keeps_the_function_and_orders_the_directions(bias):
    layer = scramble(linear(bias=bias))
    x = falling(50)
    before = layer.at_rank(x)
    layer.refit_(ExactGram(24).partial_fit(x))
    torch.testing.assert_close(layer.at_rank(x), before, rtol=1e-9, atol=1e-9)
    full = x @ layer.weight.T
    lost = [(layer.at_rank(x) - layer.at_rank(x, r)).square().sum() for r in range(1, 12)]
    least = torch.linalg.svdvals(full).square().flip(0).cumsum(0).flip(0)[1:12]
    torch.testing.assert_close(torch.stack(lost), least)


# the spectral gate


@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    eps=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    steepness=st.sampled_from([0.0, 2.0, 8.0]),
    spoil=st.sampled_from([0.0, 1e-4, 0.5]),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
    granularity=st.sampled_from(["call", "sample"]),
    training=st.booleans(),
    bias=st.booleans(),
    share=st.sampled_from([None, 0.5]),
)
def test_the_bound_holds_for_any_factors_and_inputs(
    seed, sizes, eps, steepness, spoil, scale, granularity, training, bias, share
):
    torch.manual_seed(seed)
    n, m, r_max = sizes
    options = {"bias": bias, "granularity": granularity, "gate": SpectralGate(eps)}
    layer = DynamicLinear(n, m, r_max, 1, dtype=double, **options).train(training)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(spoil * torch.randn_like(parameter))
    x = torch.randn(5, n, dtype=double) * torch.logspace(0, -steepness, n, dtype=double)
    x[1] = layer.down[0].detach()  # all in the first direction
    x[2] = 0.0
    layer.set_budget(share, unit="flops")
    check_spectral_bound(layer, scale * x, eps, tolerance=1e-9 * max(1.0, scale))


@each_layer
@each_granularity
@pytest.mark.parametrize("spoiled", [False, True])
def test_the_bound_holds_over_positions(make, inputs, granularity, spoiled):
    for eps in (0.01, 0.1, 0.3):
        layer = make(gate=SpectralGate(eps), granularity=granularity).eval()
        layer = scramble(layer) if spoiled else layer
        x = inputs()
        x = x if x.ndim == 4 else x.reshape(2, 4, 24)
        check_spectral_bound(layer, x, eps)
        check_spectral_bound(layer.train(), x, eps)


@each_granularity
def test_the_rank_is_the_least_within_the_bound(granularity):
    layer = linear(granularity=granularity, gate=SpectralGate(0.1))
    x = falling()
    layer(x)
    axes = (0, 1) if granularity == "call" else (1,)
    full = layer.at_rank(x)
    allowed = 0.1 * (full - layer.outer_bias).square().sum(axes).sqrt()
    lost = torch.stack(
        [(full - layer.at_rank(x, r)).square().sum(axes).sqrt() for r in range(1, 13)], -1
    )
    fits = lost <= allowed[..., None]
    least = (fits.long().argmax(-1) + 1).clamp(min=2)
    assert torch.equal(torch.as_tensor(layer.last_rank), least)


@each_granularity
def test_inputs_of_the_first_directions_take_no_more_than_these(granularity):
    layer = linear(r_max=12, granularity=granularity).eval()
    easy = torch.randn(6, 2, dtype=double) @ layer.down[:2].detach()
    hard = torch.randn(6, 24, dtype=double)
    layer(easy)
    assert bool((torch.as_tensor(layer.last_rank) == 2).all())
    at_most = 2 * (16 + 24) / (16 * 24) + (24 + 2 * 12) / (16 * 24)
    assert layer.decision.share == pytest.approx(at_most)
    layer(hard)
    assert layer.decision.share > 12 * 24 / (16 * 24)
    both = torch.cat([easy, hard])
    y = layer(both)
    ranks = torch.as_tensor(layer.last_rank).expand(12)
    if granularity == "sample":
        assert ranks[:6].tolist() == [2] * 6
        assert bool((ranks[6:] > 2).all())
    torch.testing.assert_close(y[:6], layer.at_rank(easy), rtol=0.2, atol=0.2)


@each_granularity
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1e-15, 1.0, 1e15, 1e22, 1e30])
def test_the_bound_holds_over_the_range_of_single_precision(granularity, scale):
    torch.manual_seed(0)
    gate = SpectralGate(0.1)
    layer = DynamicLinear(24, 16, 12, 2, bias=False, gate=gate, granularity=granularity).eval()
    x = scale * torch.randn(6, 24)
    layer(x)
    assert bool((torch.as_tensor(layer.last_rank) > 2).all())
    check_spectral_bound(layer, x, 0.1001, tolerance=1e-5 * min(scale, 1.0))


@each_granularity
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_the_bound_holds_where_autocast_makes_the_first_values_coarse(granularity, low):
    coarse = {"eps": 0.01, "tolerance": torch.finfo(low).eps}
    for seed in range(12):
        torch.manual_seed(seed)
        options = {"gate": SpectralGate(0.01), "r_min": 4, "granularity": granularity}
        plain = nn.Linear(64, 64, bias=False).eval()
        layer = DynamicLinear.from_linear(plain, **options)
        V = layer.svd()[2].detach()
        x = torch.randn(1, 4) @ V[:, :4].T + 0.08 * torch.randn(1, 1) * V[:, 4]
        with torch.no_grad(), torch.autocast("cpu", low):
            check_spectral_bound(layer, x, **coarse)


@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 5), (2, 3, 4, 5), (0, 5), (2, 0, 5)])
def test_the_energy_of_an_input_is_that_of_its_rows(shape):
    x = torch.randn(shape, dtype=double)
    found = DynamicLinear(5, 4, 4, 2, dtype=double).input_energy(x)
    torch.testing.assert_close(found, x.square().flatten(1).sum(1))


def test_the_energy_of_a_long_sample_is_not_cut_short():
    x = torch.randn(1, 200_000, 32).abs() + 1
    found = DynamicLinear(32, 8, 4, 2).input_energy(x)
    torch.testing.assert_close(found, x.double().square().sum((1, 2)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", ["matmul", "conv"])
def test_products_that_torch_may_shorten_prove_less(kind):
    torch.manual_seed(0)
    gate = SpectralGate(0.05)
    if kind == "matmul":
        layer = DynamicLinear(24, 16, 12, 2, gate=gate).eval()
    else:
        layer = DynamicConv2d(3, 16, 3, r_max=12, r_min=2, gate=gate).eval()
    easy = torch.tensordot(torch.randn(6, 2), layer.down[:2].detach(), 1)
    place = getattr(torch.backends.mkldnn, kind)
    before, spent = place.fp32_precision, []
    try:
        for name in ("ieee", "tf32", "bf16"):
            place.fp32_precision = name
            layer(easy)
            spent.append(layer.decision.share)
    finally:
        place.fp32_precision = before
    assert spent[0] < spent[1] == spent[2]


def test_bounds_follow_parameters_that_change():
    layer = linear(gate=SpectralGate(0.05)).eval()
    x = torch.randn(6, 2, dtype=double) @ layer.down[:2].detach()
    layer(x)
    assert layer.last_rank == 2
    with torch.no_grad():
        layer.down.copy_(layer.down.flip(0))
    check_spectral_bound(layer, x, 0.05)
    assert layer.last_rank > 2


def test_bounds_follow_what_was_written_through_data_once_the_budget_is_set():
    layer = linear(gate=SpectralGate(0.05)).eval()
    x = torch.randn(6, 2, dtype=double) @ layer.down[:2].detach() + 1e-3 * falling(6)
    layer(x)
    assert layer.last_rank == 2
    layer.up.data[:, 2:] *= 1e3
    layer.set_budget(None)
    check_spectral_bound(layer, x, 0.05)
    assert layer.last_rank > 2


def test_complexity_is_the_area_under_the_loss_curve():
    for layer in (linear(), scramble(linear())):
        x = falling()
        full = layer.at_rank(x)
        energy = (full - layer.outer_bias).square().sum(1)
        lost = [(full - layer.at_rank(x, r)).square().sum(1) / energy for r in range(1, 12)]
        wanted = torch.stack(lost).clamp(0, 1).mean(0)
        torch.testing.assert_close(layer.complexity(x), wanted)
        torch.testing.assert_close(layer.complexity(x[0]), wanted[0])
    zero = torch.zeros(1, 24, dtype=double)
    first = linear(bias=False)
    assert float(first.complexity(first.down[:1].detach())) < 1e-20
    assert float(first.complexity(zero)) == 0.0


# budgets


@each_layer
@pytest.mark.parametrize("unit", ["energy_mj_per_sample", "latency_s", "flops"])
def test_the_rank_is_the_largest_that_a_budget_affords(make, inputs, unit):
    layer = make(gate=SpectralGate(0.0), r_min=2)
    layer(inputs())
    costs = [amount_of(layer, r, unit) for r in range(13)]
    for rank in range(2, 13):
        layer.set_budget(costs[rank], unit=unit)
        layer(inputs())
        assert layer.last_rank == max(r for r in range(13) if costs[r] <= costs[rank])
    layer.set_budget(costs[2] / 2, unit=unit)
    layer(inputs())
    assert layer.last_rank == 2
    layer.set_budget(None)
    layer(inputs())
    assert layer.last_rank == 12


def net():
    torch.manual_seed(0)
    gate = {"gate": SpectralGate(0.0), "estimator": PerfEstimator("a100")}
    return nn.Sequential(
        DynamicConv2d(1, 16, 3, padding=1, r_max=9, r_min=1, **gate),
        nn.Flatten(),
        DynamicLinear(16 * 64, 64, 32, 1, **gate),
        nn.ReLU(),
        DynamicLinear(64, 10, 10, 1, **gate),
    )


@pytest.mark.parametrize("unit", ["energy_mj_per_sample", "latency_s", "flops"])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.3])
def test_a_models_budget_is_kept_by_its_layers_together(unit, share):
    model, x = net(), torch.randn(3, 1, 8, 8)
    model(x)
    layers = list(iter_dynamic_layers(model))
    dense = [amount_of(layer, None, unit) for layer in layers]
    total = share if unit == "flops" else share * sum(dense)
    with rank_budget(model, total, unit):
        model(x)
        if unit == "flops":
            spent = [amount_of(each, each.last_rank, unit) for each in layers]
            least = [amount_of(each, each.r_min, unit) for each in layers]
            assert all(s <= total or s == low for s, low in zip(spent, least, strict=True))
        else:
            spent = [amount_of(each, each.last_rank, unit) for each in layers]
            least = [amount_of(each, each.r_min, unit) for each in layers]
            assert sum(spent) <= total * (1 + 1e-12) or spent == least
    model(x)
    assert [layer.last_rank for layer in layers] == [9, 32, 10]


@pytest.mark.parametrize("unit", ["energy_mj_per_sample", "latency_s"])
@pytest.mark.parametrize("batch", [1, 32])
def test_a_budget_that_can_be_kept_is_kept_and_more_of_it_is_never_less_rank(unit, batch):
    model, x = net(), torch.randn(3, 1, 8, 8)
    model(x)
    layers = list(iter_dynamic_layers(model))
    low, high = (
        sum(amount_of(each, rank(each), unit, batch) for each in layers)
        for rank in (lambda each: each.r_min, lambda each: each.max_rank)
    )
    before = [0, 0, 0]
    for share in (-0.5, 0.0, 0.01, 0.3, 0.7, 0.99, 1.0, 2.0):
        total = max(0.0, low + share * (high - low))
        with rank_budget(model, total * (1 + 1e-12), unit, batch=batch):
            model(x)
            ranks = [layer.last_rank for layer in layers]
        spent = sum(amount_of(e, r, unit, batch) for e, r in zip(layers, ranks, strict=True))
        assert spent <= max(total, low) * (1 + 1e-9)
        assert all(now >= then for now, then in zip(ranks, before, strict=True))
        before = ranks
    assert before == [9, 32, 10]


def test_a_budget_inside_another_gives_way_to_it_again_also_after_an_error():
    layer = linear(gate=SpectralGate(0.0))
    layer.set_budget(0.6, unit="flops")
    layer(falling())
    before = layer.last_rank
    with rank_budget(layer, 0.3, "flops"):
        layer(falling())
        assert layer.last_rank < before
        with pytest.raises(ValueError, match="input must be"), rank_budget(layer, 0.2, "flops"):
            layer(falling(n=3))
        layer(falling())
        assert amount_of(layer, layer.last_rank, "flops") > 0.2
    layer(falling())
    assert layer.last_rank == before


@each_layer
@pytest.mark.parametrize("unit", ["energy_mj_per_sample", "latency_s"])
def test_a_budget_is_kept_when_numbers_change_their_size(make, inputs, unit):
    layer, x = make(r_min=1, gate=SpectralGate(0.0)).float(), inputs()
    layer(x.float())
    total = amount_of(layer, 12, unit)
    layer.set_budget(total, unit=unit)
    for dtype in (double, torch.float32, double):
        layer.to(dtype)
        layer(x.to(dtype))
        costs = [amount_of(layer, r, unit) for r in range(13)]
        assert layer.last_rank == max(r for r in range(1, 13) if costs[r] <= total)
    wide = copy.deepcopy(layer)
    layer.float().load_state_dict(wide.state_dict(), assign=True)
    layer(x)
    assert layer.last_rank == wide._ceiling.rank < 12
    assert int(layer._cap) == layer.last_rank


def test_a_layer_made_on_no_device_or_in_inference_mode_has_a_budget():
    wanted, x = linear(gate=SpectralGate(0.0)), falling()
    with torch.device("meta"):
        loaded = DynamicLinear(24, 16, 12, 2, gate=SpectralGate(0.0), dtype=double)
    loaded.load_state_dict(wanted.state_dict(), assign=True)
    with torch.inference_mode():
        made = copy.deepcopy(wanted).float().double()
    emptied = copy.deepcopy(wanted).to_empty(device="cpu")
    emptied.load_state_dict(wanted.state_dict())
    with torch.no_grad():
        for layer in (loaded, made, emptied):
            assert int(layer._cap) == 12
            layer.set_budget(amount_of(layer, 5, "flops"), unit="flops")
            torch.testing.assert_close(layer(x), wanted.at_rank(x, 5), rtol=1e-5, atol=1e-5)
            assert int(layer._cap) == 5


def test_numbers_of_numpy_are_budgets():
    layer, x = linear(gate=SpectralGate(0.0)), falling()
    for kind in (np.float16, np.float32, np.float64, np.int64):
        layer.set_budget(kind(1), unit="flops")
        layer(x)
        assert layer.last_rank == 9  # 9 (24 + 16) <= 24 16
    assert SpectralGate(np.float32(0.5)).eps == 0.5
    for wrong in (np.bool_(1), True, "1", 1j, None):
        with pytest.raises(TypeError, match="must be a number"):
            SpectralGate(wrong)


def test_a_layer_takes_its_budget_with_its_input():
    layer = DynamicLowRankLayer(in_features=512, out_features=256, r_max=64, r_min=4)
    x = torch.randn(32, 512)
    y, rank = layer(x, budget=5.0)
    assert y.shape == (32, 256)
    assert rank == layer.last_rank
    assert layer(x, budget=0.0)[1] == 4
    assert layer(x)[1] == rank
    middle = amount_of(layer, 20, "energy_mj_per_sample")
    assert layer(x, budget=middle)[1] == 20


class Fake:
    def __init__(self, ranks):
        self.ranks, self.seen = ranks, []

    def init(self):
        return 0

    def step(self, state, observation):
        self.seen.append(observation)
        return self.ranks[state], state + 1


@each_granularity
def test_a_scheduler_has_the_last_word_within_the_budget(granularity):
    fake = Fake([5, 100, 0, 7])
    layer = linear(gate=SpectralGate(0.0), scheduler=fake, granularity=granularity).eval()
    seen = []
    for _ in range(3):
        layer(falling())
        seen.append(int(torch.as_tensor(layer.last_rank).max()))
    assert seen == [5, 12, 2]
    layer.set_budget(amount_of(layer, 3, "flops"), unit="flops")
    layer(falling())
    assert int(torch.as_tensor(layer.last_rank).max()) == 3
    assert [o.step for o in fake.seen] == [0, 1, 2, 3]
    assert [o.rank for o in fake.seen] == [None, 5, 12, 2]
    assert all(0 < o.complexity < 1 for o in fake.seen)
    assert fake.seen[0].budget is None
    assert fake.seen[3].rank_costs[3] == fake.seen[3].budget


def test_a_scheduler_is_asked_outside_of_compiled_graphs():
    torch._dynamo.reset()
    layer = linear(gate=SpectralGate(0.0), scheduler=Fake([5, 9, 3])).eval()
    compiled = torch.compile(layer, backend="eager")
    x = falling()
    for rank in (5, 9, 3):
        torch.testing.assert_close(compiled(x), layer.at_rank(x, rank))
        assert layer.last_rank == rank
    torch.manual_seed(0)
    telling = DynamicLowRankLayer(
        24, 16, 12, 2, gate=SpectralGate(0.0), scheduler=Fake([5, 9]), dtype=double
    ).eval()
    compiled = torch.compile(telling, backend="eager")
    for rank in (5, 9):
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), (telling.at_rank(x, rank), rank))


# what was spent


@pytest.mark.parametrize("make, x", [(linear, falling(64)), (conv, images(64))])
def test_samples_of_a_call_share_its_launches_and_weights(make, x):
    layer = make(estimator=PerfEstimator("v100"), r_max=16, r_min=4)
    layer(x)
    unit = "energy_mj_per_sample"
    for rank in (1, 8, None):
        alone, shared = (amount_of(layer, rank, unit, batch) for batch in (1, 64))
        assert shared == pytest.approx(1e3 * layer.cost(rank, batch=64).energy_j / 64)
        launches = 1e3 * layer.cost(rank).launches * 5e-6 * 50  # 5 us at 50 W each
        assert alone > launches
        assert alone - shared >= launches * 63 / 64 * (1 - 1e-9)
    with rank_budget(layer, amount_of(layer, 8, unit, 64), unit, batch=64):
        layer(x)
        assert layer._ceiling.rank == 8
    with rank_budget(layer, amount_of(layer, 8, unit, 64), unit):
        layer(x)
        assert layer._ceiling.rank == 4  # alone, no rank is as cheap
    with pytest.raises(ValueError, match="batch must be in"), rank_budget(layer, 1.0, batch=0):
        pass


@pytest.mark.parametrize("scheduler", ["energy_aware", RankScheduler, 3])
def test_a_scheduler_that_is_none_is_refused_when_the_layer_is_made(scheduler):
    with pytest.raises(TypeError, match="scheduler must be an object with init"):
        linear(scheduler=scheduler)


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize(
    "value, error", [(-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)]
)
def test_a_weight_of_the_penalty_that_means_nothing_is_refused(name, value, error):
    layer = linear()
    with record(layer) as ran:
        layer(falling())
    with pytest.raises(error, match=f"{name} must be"):
        rank_penalty(ran, **{name: value})


def test_a_sketch_that_has_seen_nothing_is_refused():
    layer, nothing = linear(), ExactGram(24)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    for call in (
        lambda: DynamicLinear.from_linear(nn.Linear(24, 16), sketch=nothing),
        lambda: layer.refit_(nothing),
    ):
        with pytest.raises(ValueError, match="sketch must have seen at least one finite row"):
            call()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_penalty_is_the_mean_share_of_arithmetic_and_memory():
    model = nn.Sequential(DynamicLinear(40, 30, 6, 6), DynamicLinear(30, 20, 5, 5)).eval()
    with record(model) as ran:
        model(torch.randn(7, 40))
    flops = (6 * 70 + 5 * 50) / (40 * 30 + 30 * 20)
    assert float(rank_penalty(ran, alpha=1.0, beta=0.0)) == pytest.approx(flops)
    assert float(rank_penalty(ran, alpha=0.5, beta=2.0)) == pytest.approx(2.5 * flops)
    assert mean_flops(ran) == pytest.approx(flops)
    with record(nn.Linear(2, 2)) as ran:
        pass
    assert float(rank_penalty(ran)) == 0.0
    assert mean_flops(ran) == 1.0


def test_arithmetic_is_weighed_by_rows_and_memory_is_not():
    wide, narrow = DynamicLinear(40, 30, 6, 6), DynamicLinear(40, 30, 3, 3)
    with record(nn.ModuleList([wide, narrow])) as ran:
        wide(torch.randn(10, 40))
        narrow(torch.randn(30, 40))
    full = 40 * 30
    flops = (10 * 6 + 30 * 3) * 70 / (40 * full)
    assert float(rank_penalty(ran, beta=0.0)) == pytest.approx(flops)
    memory = (6 + 3) * 70 / (2 * full)
    assert float(rank_penalty(ran, alpha=0.0, beta=1.0)) == pytest.approx(memory)


def test_a_forced_rank_asks_neither_gate_nor_budget():
    layer = linear()
    layer.set_budget(0.0, unit="flops")
    layer.force_rank(9)
    x = falling()
    torch.testing.assert_close(layer(x), layer.at_rank(x, 9))
    assert layer.last_rank == 9
    layer.force_rank(None)
    layer(x)
    assert layer.last_rank == 2


# training, state and compilers


@each_layer
@each_granularity
@each_mode
def test_gradients_are_those_of_the_prefix(make, inputs, granularity, training):
    layer = make(granularity=granularity, gate=SpectralGate(0.4)).train(training)
    x = inputs().requires_grad_()
    layer(x).square().sum().backward()
    got = [x.grad, *(p.grad for p in layer.parameters())]
    ranks = torch.as_tensor(layer.last_rank).expand(len(x)).tolist()
    assert min(ranks) < layer.max_rank
    x.grad = None
    layer.zero_grad()
    sum(layer.at_rank(x[i], r).square().sum() for i, r in enumerate(ranks)).backward()
    for a, b in zip(got, [x.grad, *(p.grad for p in layer.parameters())], strict=True):
        torch.testing.assert_close(a, b)


@each_layer
def test_state_and_copies_give_the_same_layer(make, inputs):
    layer, x = scramble(make()).eval(), inputs()
    y = layer(x)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = make().eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), y)
    layer(x.clone().requires_grad_())
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), y)
    with torch.no_grad():
        twin.up.zero_()
    assert torch.equal(layer(x), y)


@pytest.mark.filterwarnings("ignore:`torch._prims_common.check`:FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_one_graph_serves_every_rank_and_budget(kind, training):
    torch._dynamo.reset()
    options = {"r_max": 16, "r_min": 1, "gate": SpectralGate(0.05)}
    if kind == "linear":
        layer, shape = DynamicLinear(64, 32, **options), (8, 64)
    else:
        layer, shape = DynamicConv2d(2, 16, 3, **options), (2, 2, 8, 8)
    layer.train(training)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    x, seen = torch.randn(shape), set()
    for rank in range(1, 17):
        layer.set_budget(amount_of(layer, rank, "flops"), unit="flops")
        with record(layer) as ran:
            y = compiled(x)
        seen.add(layer.last_rank)
        assert layer.last_rank <= rank
        with record(layer) as plainly:
            wanted = layer(x)
        assert seen >= {layer.last_rank}
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
        assert float(rank_penalty(ran)) == pytest.approx(float(rank_penalty(plainly)))
    assert len(seen) >= 10
    assert counter.frame_count == 1


@each_layer
@each_granularity
@each_mode
def test_autocast_lowers_the_products_alone(make, inputs, granularity, training):
    layer = make(granularity=granularity).float().train(training)
    x = inputs().float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.15)
    y.float().sum().backward()
    assert layer.up.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_layers_run(dtype):
    layer = DynamicLinear(24, 16, 12, 2, dtype=dtype).eval()
    assert layer(falling().to(dtype)).dtype == dtype
    assert 2 <= layer.last_rank <= 12


# what they refuse


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"r_max": 0}, ValueError, "r_max must be in 1"),
        ({"r_min": 13}, ValueError, "r_min must be in 1..12, got 13"),
        ({"r_min": 2.5}, TypeError, "r_min must be an integer"),
        ({"gate": "magic"}, ValueError, "gate must be"),
        ({"granularity": "token"}, ValueError, "granularity must be one of"),
        ({"budget_unit": "watts"}, ValueError, "budget_unit must be one of"),
        ({"n": 0}, ValueError, "in_features must be in 1"),
    ],
)
def test_wrong_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        linear(**options)


def test_wrong_calls_are_refused():
    layer = linear()
    with pytest.raises(ValueError, match=r"input must be \[..., 24\], got \[2, 23\]"):
        layer(torch.randn(2, 23, dtype=double))
    with pytest.raises(ValueError, match="as large as the kernel"):
        DynamicConv2d(3, 4, 3)(torch.randn(1, 3, 2, 2))
    with pytest.raises(ValueError, match="groups must be 1, got 2"):
        DynamicConv2d(4, 4, 3, groups=2)
    with pytest.raises(RuntimeError, match="call it first"):
        _ = linear().last_rank
    with pytest.raises(TypeError, match="amount must be a number, got 'much'"):
        layer.set_budget("much")
    with pytest.raises(ValueError, match="unit must be one of"):
        layer.set_budget(1.0, unit="J")
    with pytest.raises(ValueError, match="must have a dynamic layer"), rank_budget(nn.ReLU(), 1.0):
        pass
    with pytest.raises(ValueError, match="rank must be in 1..12, got 13"):
        layer.at_rank(falling(), 13)
    with pytest.raises(ValueError, match="eps must be in 0..1"):
        SpectralGate(1.5)
    fake = Fake([2.5])
    with pytest.raises(TypeError, match="the scheduler's rank must be an integer"):
        linear(scheduler=fake)(falling())


@pytest.mark.parametrize("value", [float("nan"), -1.0, np.float64("nan")])
def test_a_budget_that_is_none_is_refused_and_the_one_in_force_stays(value):
    telling = DynamicLowRankLayer(24, 16, 12, 2, budget_unit="flops", dtype=double).eval()
    telling.set_budget(0.9)
    for name, call in (
        ("amount", lambda: telling.set_budget(value)),
        ("budget", lambda: telling(falling(), budget=value)),
        ("budget", lambda: rank_budget(telling, value).__enter__()),
    ):
        with pytest.raises(ValueError, match=rf"{name} must be a number of at least 0, got "):
            call()
    assert telling._budget.amount == 0.9


@pytest.mark.parametrize("unit", ["flops", "latency_s", "energy_mj_per_sample"])
def test_a_budget_without_end_is_none(unit):
    model = nn.Sequential(linear(gate=SpectralGate(0.0)), DynamicLinear(16, 8, 4, 4, dtype=double))
    with rank_budget(model, float("inf"), unit):
        model(falling())
    assert [layer.last_rank for layer in model] == [12, 4]


WRONG = [
    ([[0.0] * 24], r"must be a torch\.Tensor, got list"),
    (np.zeros((2, 24)), r"must be a torch\.Tensor, got ndarray"),
    (torch.zeros(2, 24), r"must be torch\.float64, the precision of the layer, got torch\.float32"),
    (torch.zeros(2, 24, dtype=torch.int64), r"must be torch\.float64, .* got torch\.int64"),
    (torch.zeros(2, 24, dtype=torch.complex128), r"must be torch\.float64, .* torch\.complex128"),
]


@pytest.mark.parametrize("x, words", WRONG)
@pytest.mark.parametrize("lowered", [True, False])
def test_inputs_that_are_no_tensors_of_the_layers_precision_are_refused(x, words, lowered):
    layer, events = linear(), EventLinear(nn.Linear(24, 4).double(), 0.1).eval()
    image = x.reshape(2, 1, 4, 6) if isinstance(x, torch.Tensor) else x
    trigger = RefactorTrigger(layer, rank=4)
    with torch.autocast("cpu", enabled=lowered):
        for name, call in (
            ("input", lambda: layer(x)),
            ("input", lambda: layer.at_rank(x, 3)),
            ("input", lambda: layer.complexity(x)),
            ("input", lambda: DynamicConv2d(1, 4, 3, dtype=double)(image)),
            ("input", lambda: DynamicLowRankLayer(24, 4, 4, 2, dtype=double)(x)),
            ("input", lambda: trigger.observe(x)),
            ("x", lambda: events(x)),
        ):
            with pytest.raises(TypeError, match=f"{name} {words}"):
                call()
    assert layer._last is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_autocast_takes_inputs_of_what_it_lowers(dtype):
    layer = DynamicLinear(24, 16, 12, 2).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 24, dtype=dtype)).shape == (3, 16)
        with pytest.raises(TypeError, match=r"input must be torch\.float32"):
            layer(torch.randn(3, 24, dtype=double))
