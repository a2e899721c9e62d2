import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adlrns_models import (
    AdaptConfig,
    AdaptiveConv2d,
    AdaptiveGroupedConv2d,
    ElasticModel,
    factorize,
    iter_adaptive_layers,
    load_materialized,
    make_elastic,
    materialize_model,
    save_materialized,
    wrap_model_with_adaptive,
)
from adlrns_models.testing import check_prefixes, direct_loss
from fd_sketch import ExactGram

double = torch.float64
# (in, out, kernel, groups) and options: more outputs than inputs a group, fewer, odd sizes
SHAPES = [
    ((6, 10, 3, 2), {"padding": 1}),
    ((12, 6, (3, 1), 3), {"stride": 2, "padding": "valid"}),
    ((4, 24, 1, 2), {"bias": False}),
    ((8, 8, 3, 4), {"padding": 2, "padding_mode": "circular", "dilation": 2}),
]


def conv(shape, options):
    torch.manual_seed(0)
    *rest, groups = shape
    return nn.Conv2d(*rest, groups=groups, **options).double()


def images(shape, count=3):
    return torch.randn(count, shape[0], 9, 8, dtype=double)


def patches(plain, x):
    """All patches [rows, in * kh * kw] by torch's own unfolding (zero padding only)."""
    assert plain.padding_mode == "zeros"
    pad = plain.padding if isinstance(plain.padding, tuple) else 0
    found = F.unfold(x, plain.kernel_size, plain.dilation, pad, plain.stride)
    return found.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("shape, options", SHAPES)
def test_full_rank_is_the_convolution_and_each_rank_a_prefix_of_every_group(shape, options):
    plain, x = conv(shape, options), images(shape)
    layer = AdaptiveGroupedConv2d(plain, AdaptConfig(r_min=0))
    assert layer.max_rank == min(plain.out_channels // shape[3], plain.weight[0].numel())
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-10, atol=1e-12)
    check_prefixes(layer, x, [0, 1, layer.max_rank])


@pytest.mark.parametrize("shape, options", SHAPES)
@pytest.mark.parametrize("form", ["dense", "factored", "identity"])
def test_settled_groups_are_the_layer_in_every_form(form, shape, options):
    layer, x = AdaptiveGroupedConv2d(conv(shape, options), AdaptConfig(r_min=0)), images(shape)
    for rank in range(layer.max_rank + 1):
        layer.set_rank(rank)
        settled = materialize_model(layer, form)
        torch.testing.assert_close(settled(x), layer.eval()(x), rtol=1e-9, atol=1e-11)
        weight, bias = layer.effective_weight()
        torch.testing.assert_close(settled.weight, weight, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(settled.bias, bias, rtol=1e-9, atol=1e-11)
        if form == "identity" and 0 < rank < layer.max_rank:
            m, n = layer.sizes
            count = sum(p.numel() for name, p in settled.named_parameters() if "weight" in name)
            assert count == shape[3] * rank * (m + n - rank)


@torch.no_grad()
@pytest.mark.parametrize("shape, options", SHAPES[:3])
def test_each_group_is_factorised_for_its_own_inputs(shape, options):
    plain, x = conv(shape, options), images(shape, 40)
    rows, groups = patches(plain, x * torch.logspace(0, 1, shape[0])[:, None, None]), shape[3]
    sketch = ExactGram(rows.shape[1], center=True).partial_fit(rows)
    layer = AdaptiveGroupedConv2d(plain, AdaptConfig(r_min=0), sketch=sketch)
    for g, (mine, weight) in enumerate(
        zip(rows.chunk(groups, 1), plain.weight.detach().flatten(1).chunk(groups), strict=True)
    ):
        bias = None if plain.bias is None else plain.bias.detach().chunk(groups)[g]
        own = ExactGram(mine.shape[1], center=True).partial_fit(mine)
        best = factorize(weight, bias, own)
        for rank in range(layer.max_rank + 1):
            outer = layer.outer_bias.detach().chunk(groups)[g]
            wanted = direct_loss(best, weight, mine, rank, bias=bias)
            inner = mine @ layer.down[g, :rank].flatten(1).T + layer.inner_bias[g, :rank]
            y = inner @ layer.up[g, :, :rank].T + outer
            true = mine @ weight.T + (0 if bias is None else bias)
            loss = float((y - true).square().sum())
            assert loss == pytest.approx(wanted, rel=1e-6, abs=1e-9 * float(true.square().sum()))


def test_prefix_losses_of_the_groups_add_up_to_the_loss_of_the_layer():
    shape, options = SHAPES[0]
    plain, x = conv(shape, options), images(shape, 4)
    layer = AdaptiveGroupedConv2d(plain, AdaptConfig(r_min=0, sketch_size=2000)).train()
    layer.enable_adaptation(False)
    full = layer(x).detach()
    layer._watch.feed(patches(plain, x))
    losses = layer.prefix_loss()
    for rank in range(layer.max_rank + 1):
        layer.set_rank(rank)
        change = float((layer(x).detach() - full).square().sum())
        assert float(losses[rank]) == pytest.approx(change, rel=1e-4, abs=1e-6)


def test_refitting_keeps_the_function_and_orders_each_group_by_its_inputs():
    shape, options = SHAPES[0]
    plain = conv(shape, options)
    layer = AdaptiveGroupedConv2d(plain, AdaptConfig(r_min=0, eps=0.0, sketch_size=512)).train()
    x = images(shape, 8) * torch.logspace(0, 1.5, shape[0])[:, None, None]
    y = layer(x)
    y.square().sum().backward()
    white = layer.prefix_loss()
    layer.adapt_now()
    layer.enable_adaptation(False)
    layer.set_rank(layer.max_rank)
    torch.testing.assert_close(layer(x), y, rtol=1e-9, atol=1e-9)
    assert bool((layer.prefix_loss()[1:-1] < white[1:-1]).all())
    waiting = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():  # a gradient that waits moves along
        torch.testing.assert_close(waiting[name], parameter.grad, rtol=1e-6, atol=1e-6)


def test_a_grouped_layer_adapts_trains_and_is_saved_like_others():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 32, 3, groups=2), nn.ReLU(), nn.Conv2d(32, 16, 1, groups=4))
    model = wrap_model_with_adaptive(model, adapt_every=2, adapt_cooldown=0, r_min=1, eps=0.3)
    assert [type(layer) for layer in iter_adaptive_layers(model)] == [AdaptiveGroupedConv2d] * 2
    mixed = torch.randn(1, 8) * torch.randn(64, 1, 1, 1, 1)  # inputs of one direction
    x = mixed[:, 0, :, :, None].reshape(64, 8, 1, 1).expand(64, 8, 6, 6) + 0.01 * torch.randn(
        64, 8, 6, 6
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(12):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert model[0].current_rank() < model[0].max_rank
    fresh = wrap_model_with_adaptive(
        nn.Sequential(nn.Conv2d(8, 32, 3, groups=2), nn.ReLU(), nn.Conv2d(32, 16, 1, groups=4))
    )
    fresh.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    for other in (fresh, twin):
        torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=0, atol=0)


class Bottleneck(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.reduce = nn.Conv2d(6, 16, 1)
        self.mix = nn.Conv2d(16, 16, 3, padding=1, groups=groups)
        self.expand = nn.Conv2d(16, 6, 1)

    def forward(self, x):
        return x + self.expand(self.mix(self.reduce(x).relu()).relu())


@pytest.mark.parametrize("sketch_size", [512, 24])
def test_an_elastic_model_counts_and_keeps_groups(tmp_path, sketch_size):
    torch.manual_seed(0)
    model, x = Bottleneck(2), torch.randn(32, 6, 7, 7)
    elastic = make_elastic(model, [x], sketch_size=sketch_size)
    profile = elastic.profiles["mix"]
    assert (profile.size[:2], profile.groups) == ((8, 72), 2)
    dense = sum(c.weight.numel() for c in (model.reduce, model.mix, model.expand))
    assert elastic.full_cost("parameters") == dense
    assert elastic.full_cost("memory_bytes") == 4 * dense
    assert elastic.full_cost("flops") == 2 * 49 * dense
    for share in (0.3, 0.6):
        point = elastic.set_budget(flops=share)
        settled = materialize_model(elastic, "factored")
        weights = sum(p.numel() for p in settled.parameters() if p.ndim > 1)
        assert point.cost == 2 * 49 * weights
        elastic.save(tmp_path)
        save_materialized(settled, tmp_path, like=model)
        with torch.no_grad():
            y = elastic(x)
            torch.testing.assert_close(settled(x), y, rtol=1e-4, atol=1e-5)
            assert torch.equal(ElasticModel.load(tmp_path, model)(x), y)
            assert torch.equal(load_materialized(tmp_path, model)(x), settled(x))


@pytest.mark.parametrize("sketch_size", [512, 24])
def test_the_certificate_of_groups_holds_what_they_lose(sketch_size):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 12, 3, groups=2).double()
    x = images((8,), 30) * torch.logspace(0, 1, 8)[:, None, None]
    # a single layer, all of whose output errors count alike
    probe = torch.Generator().manual_seed(1)

    def objective(y, batch):
        signs = torch.randint(0, 2, y.shape, generator=probe) * 2.0 - 1.0
        return (y * signs).sum()

    elastic = make_elastic(plain, [x], sketch_size=sketch_size, objective=objective)
    (profile,) = elastic.profiles.values()
    with torch.no_grad():
        y = plain(x)
        for rank in range(profile.size.max_rank + 1):
            elastic.set_ranks({"": rank})
            loss = float((elastic(x) - y).square().sum()) / len(x)
            # gradients are signs: their second moment is near the identity, not it
            assert 0.7 * profile.lower[rank] <= loss + 1e-6 <= 1.4 * profile.upper[rank] + 2e-6
    assert profile.loss[-1] <= 1e-9 * profile.loss[0]


def test_an_elastic_group_keeps_its_best_directions_better_than_plain_svd_does():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 16, 3, groups=2).double()
    x = images((8,), 40)
    x = x * torch.logspace(-1, 1, 8)[:, None, None]
    ours = make_elastic(plain, [x])
    blind = wrap_model_with_adaptive(copy.deepcopy(plain), r_min=0).eval()
    with torch.no_grad():
        y = plain(x)
        for rank in (1, 2, 4):
            ours.set_ranks({"": rank})
            blind.set_rank(rank)
            assert (ours(x) - y).square().sum() < (blind(x) - y).square().sum()


def test_one_graph_runs_all_ranks_of_groups():
    torch._dynamo.reset()
    layer = AdaptiveGroupedConv2d(conv(*SHAPES[0]), AdaptConfig(r_min=1)).eval()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled, x = torch.compile(layer, backend=count, fullgraph=True, dynamic=False), images((6,))
    for rank in range(1, layer.max_rank + 1):
        layer.set_rank(rank)
        torch.testing.assert_close(compiled(x), layer(x))
    assert len(graphs) == 1


def test_depthwise_convolutions_stay_and_the_reason_is_named(caplog):
    caplog.set_level("INFO", logger="adlrns_models")
    model = nn.Sequential(nn.Conv2d(4, 8, 7, groups=4), nn.Conv2d(8, 8, 3, groups=8))
    model.append(nn.Conv2d(8, 4, 1))
    wrapped = wrap_model_with_adaptive(model)
    assert [type(m) for m in wrapped][1:] == [nn.Conv2d, AdaptiveConv2d]
    assert isinstance(wrapped[0], AdaptiveGroupedConv2d)  # two outputs a channel: rank 1 of 2
    assert "each of its 8 groups is a 1 x 9 matrix (depthwise)" in caplog.text


@pytest.mark.parametrize(
    "plain, error, message",
    [
        (nn.Linear(2, 2), TypeError, "conv must be a Conv2d, got Linear"),
        (nn.Conv2d(2, 2, 1), ValueError, "conv must have several groups, got groups=1"),
    ],
)
def test_other_layers_are_refused(plain, error, message):
    with pytest.raises(error, match=message):
        AdaptiveGroupedConv2d(plain)


def test_a_grouped_layer_says_what_it_is():
    text = repr(AdaptiveGroupedConv2d(conv(*SHAPES[0])))
    assert text == ("AdaptiveGroupedConv2d(54 -> 10, rank=5, max_rank=5, eps=0.08, groups=2)")
