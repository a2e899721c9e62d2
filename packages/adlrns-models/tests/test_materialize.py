"""Settled models compute what the adaptive ones do, for less."""

import copy

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import save_file
from torch import nn

from adlrns_models import (
    AdaptConfig,
    AdaptiveConv2d,
    AdaptiveLayer,
    AdaptiveLinear,
    IdentityBlock,
    iter_adaptive_layers,
    load_materialized,
    make_elastic,
    materialize_model,
    save_materialized,
    wrap_model_with_adaptive,
)

double = torch.float64
each_form = pytest.mark.parametrize("form", ["auto", "dense", "factored", "identity"])


def linear(m, n, **options):
    return nn.Linear(n, m, **options).double()


def adaptive(layer, X=None):
    kind = AdaptiveLinear if isinstance(layer, nn.Linear) else AdaptiveConv2d
    result = kind(layer, AdaptConfig(r_min=0, r_max=10**6))
    if X is not None:
        result(X)
        result.adapt_now()  # inner biases are then not zero
    return result.eval()


def weights(module):
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


@each_form
@pytest.mark.parametrize("m, n", [(9, 6), (6, 9), (7, 7), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_form_computes_the_same_at_every_rank(form, m, n, bias):
    layer = adaptive(linear(m, n, bias=bias), torch.randn(40, n, dtype=double) + 1)
    x = torch.randn(3, 4, n, dtype=double)
    for rank in range(min(m, n) + 1):
        layer.set_rank(rank)
        settled = materialize_model(layer, form)
        torch.testing.assert_close(settled(x), layer(x), rtol=1e-10, atol=1e-10)
        assert not list(iter_adaptive_layers(settled))
        assert layer.current_rank() == rank


CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 1), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    {"kernel_size": 2, "padding": 1, "padding_mode": "circular", "stride": 2, "bias": False},
    {"kernel_size": 1},
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@each_form
@pytest.mark.parametrize("options", CONVS)
def test_every_form_of_a_convolution_computes_the_same(form, options):
    conv = nn.Conv2d(3, 8, **options).double()
    x = torch.randn(2, 3, 7, 6, dtype=double) + 1
    layer = adaptive(conv, x)
    for rank in (0, 1, 2, min(8, layer.max_rank)):
        layer.set_rank(rank)
        settled = materialize_model(layer, form)
        torch.testing.assert_close(settled(x), layer(x), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(settled(x[0]), layer(x[0]), rtol=1e-10, atol=1e-10)


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_forms_have_the_weights_they_promise_and_auto_never_more_than_dense(m, n, data):
    rank = data.draw(st.integers(0, min(m, n)))
    layer = adaptive(linear(m, n))
    layer.set_rank(rank)
    count = {form: weights(materialize_model(layer, form)) for form in ("dense", "auto")}
    assert count["dense"] == m * n
    assert count["auto"] <= m * n
    if 0 < rank < min(m, n):
        assert weights(materialize_model(layer, "factored")) == rank * (m + n)
        assert weights(materialize_model(layer, "identity")) == rank * (m + n - rank)
        best = min(m * n, rank * (m + n), rank * (m + n - rank))
        assert best <= count["auto"] <= best / 0.95**2


def test_auto_picks_a_form_per_layer():
    model = nn.Sequential(linear(32, 32), linear(32, 32), linear(256, 16))
    model = wrap_model_with_adaptive(model)
    for layer, rank in zip(model, (31, 16, 1), strict=True):
        layer.set_rank(rank)
    settled = materialize_model(model)
    for part, kind in zip(settled, (nn.Linear, IdentityBlock, nn.Sequential), strict=True):
        assert isinstance(part, kind)


def test_the_entries_of_an_identity_block_stay_small():
    layer = adaptive(linear(64, 64), torch.randn(200, 64, dtype=double) * torch.logspace(0, -6, 64))
    layer.set_rank(20)
    tail = materialize_model(layer, "identity").tail.weight.detach()
    assert float(tail.abs().max()) < 50
    single = materialize_model(copy.deepcopy(layer).float(), "identity")
    x = torch.randn(50, 64) * torch.logspace(0, -6, 64)
    torch.testing.assert_close(single(x), layer(x.double()).float(), rtol=1e-4, atol=1e-5)


def test_a_layer_whose_directions_training_made_equal_can_still_be_settled():
    layer = adaptive(linear(6, 6))
    layer.set_rank(3)
    with torch.no_grad():
        layer.up[:, 1] = layer.up[:, 0]
    x = torch.randn(4, 6, dtype=double)
    for form in ("factored", "identity"):
        torch.testing.assert_close(materialize_model(layer, form)(x), layer(x))


def network():
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 25, 20),
        nn.Tanh(),
        nn.Linear(20, 4, bias=False),
    ).double()


def wrapped(ranks=(5, 6, 2)):
    plain = network().eval()
    model = wrap_model_with_adaptive(copy.deepcopy(plain))
    for layer, rank in zip(iter_adaptive_layers(model), ranks, strict=True):
        layer.set_rank(rank)
    return plain, model.eval(), torch.randn(3, 2, 5, 5, dtype=double)


@each_form
def test_the_model_is_untouched_and_the_copy_independent(form):
    _, model, _ = wrapped()
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settled = materialize_model(model, form)
    assert [m.training for m in settled[:2]] == [True, False]
    assert settled[4].training
    with torch.no_grad():
        for p in settled.parameters():
            p.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(list(iter_adaptive_layers(model))) == 3


@each_form
def test_a_settled_model_trains_like_any_other(form):
    _, model, x = wrapped()
    settled = materialize_model(model, form).train()
    assert all(p.requires_grad for p in settled.parameters())
    settled(x).square().sum().backward()
    assert all(p.grad is not None for p in settled.parameters())


def test_frozen_layers_stay_frozen():
    plain = network()
    plain[4].requires_grad_(False)
    settled = materialize_model(wrap_model_with_adaptive(plain), "factored")
    assert not any(p.requires_grad for p in settled[4].parameters())
    assert all(p.requires_grad for p in settled[6].parameters())


def test_a_shared_layer_stays_shared():
    shared = nn.Linear(6, 6)
    settled = materialize_model(wrap_model_with_adaptive(nn.Sequential(shared, shared)), "factored")
    assert settled[0] is settled[1]


def test_a_model_without_adaptive_layers_is_copied():
    plain = network()
    settled = materialize_model(plain)
    assert settled is not plain
    assert torch.equal(settled[4].weight, plain[4].weight)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@each_form
def test_a_settled_model_scripts(form):
    _, model, x = wrapped()
    settled = materialize_model(model, form).eval()
    scripted = torch.jit.script(settled)
    torch.testing.assert_close(scripted(x), settled(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@each_form
def test_a_settled_model_exports_with_any_batch(form):
    _, model, x = wrapped()
    settled = materialize_model(model, form).eval()
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.export.export(settled, (x,), dynamic_shapes=(batch,))
    many = torch.randn(7, 2, 5, 5, dtype=double)
    torch.testing.assert_close(program.module()(many), settled(many))


def test_an_elastic_model_gives_its_network():
    plain = network().eval()
    elastic = make_elastic(plain, [torch.randn(16, 2, 5, 5, dtype=double)])
    elastic.set_budget(flops=0.4)
    settled = materialize_model(elastic)
    assert isinstance(settled, nn.Sequential)
    x = torch.randn(3, 2, 5, 5, dtype=double)
    torch.testing.assert_close(settled(x), elastic.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"model": 3}, TypeError, "model must be a Module, got int"),
        ({"form": "small"}, ValueError, "form must be one of .* got 'small'"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        materialize_model(**({"model": nn.Linear(2, 2)} | change))


# files


@each_form
@pytest.mark.parametrize("ranks", [(5, 6, 2), (12, 20, 4), (0, 1, 0)])
def test_a_saved_model_computes_the_same_bits(form, ranks, tmp_path):
    plain, model, x = wrapped(ranks)
    settled = materialize_model(model, form)
    save_materialized(settled, tmp_path, like=plain)
    loaded = load_materialized(tmp_path, network().eval())
    assert torch.equal(loaded(x), settled(x))
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]
    assert weights(loaded) == weights(settled)


def test_layers_that_were_never_adaptive_come_back_as_they_were(tmp_path):
    plain = network().eval()
    x = torch.randn(16, 2, 5, 5, dtype=double)
    elastic = make_elastic(plain, [x], include_conv=False)
    elastic.set_budget(flops=0.5)
    settled = materialize_model(elastic)
    assert settled[0].bias is None
    save_materialized(settled, tmp_path, like=plain)
    loaded = load_materialized(tmp_path, plain)
    assert loaded[0].bias is None
    assert torch.equal(loaded(x), settled(x))


def test_the_plain_model_is_not_changed_by_loading(tmp_path):
    plain, model, _ = wrapped()
    save_materialized(materialize_model(model), tmp_path, like=plain)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    load_materialized(tmp_path, plain)
    assert type(plain[4]) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_only_settled_models_are_saved(tmp_path):
    plain, model, _ = wrapped()
    with pytest.raises(ValueError, match="model must be"):
        save_materialized(model, tmp_path, like=plain)
    with pytest.raises(ValueError, match="model must be a materialised form of like"):
        save_materialized(nn.Linear(2, 2), tmp_path, like=plain)
    assert not list(tmp_path.iterdir())
    assert isinstance(model[0], AdaptiveLayer)


@pytest.fixture
def saved(tmp_path):
    plain, model, _ = wrapped()
    save_materialized(materialize_model(model), tmp_path, like=plain)
    return plain, tmp_path, (tmp_path / "model.safetensors").read_bytes()


def assert_refused(saved, data, model=None):
    plain, folder, _ = saved
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="model.safetensors"):
        load_materialized(folder, plain if model is None else model)


def test_a_damaged_file_is_refused(saved):
    data = saved[2]
    header = int.from_bytes(data[:8], "little") + 8
    for length in {0, 1, 8, header, len(data) - 1, *range(0, len(data), len(data) // 40)}:
        assert_refused(saved, data[:length])
    for place in (*range(9, header, 37), header, header + 5, len(data) - 1):
        damaged = bytearray(data)
        damaged[place] ^= 4
        assert_refused(saved, bytes(damaged))


def test_a_foreign_file_or_architecture_is_refused(saved):
    data = saved[2]
    assert_refused(saved, data, nn.Sequential(nn.Linear(3, 3)))
    other = network()
    other[4] = nn.Linear(12 * 25, 21).double()
    assert_refused(saved, data, other)
    save_file({"x": torch.ones(2)}, saved[1] / "model.safetensors")
    with pytest.raises(ValueError, match="field adlrns is missing"):
        load_materialized(saved[1], saved[0])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_materialized(tmp_path, network())


def test_an_elastic_file_is_no_settled_one(tmp_path):
    plain = network().eval()
    make_elastic(plain, [torch.randn(16, 2, 5, 5, dtype=double)]).save(tmp_path)
    (tmp_path / "elastic.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="field kind must be 'materialized', got 'elastic'"):
        load_materialized(tmp_path, plain)
