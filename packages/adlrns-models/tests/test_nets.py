"""Reference nets: shapes, baselines, gradients, and what they promise."""

import pytest
import torch
from torch import nn

from adlrns_models import (
    DynamicConv2d,
    DynamicLinear,
    TrainConfig,
    adlrns_transformer,
    adlrns_vit,
    create_model,
    iter_dynamic_layers,
    rank_budget,
)

SEED_SECTION = {
    "type": "adlrns_resnet",
    "r_min": 4,
    "r_max": 64,
    "scorer_hidden": 32,
    "num_gate_blocks": 8,
}
TOKENS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))
# name, options, input, shape of the output, number of dynamic layers
NETS = {
    "mlp": ("adlrns_mlp", {"hidden": (32, 16)}, torch.randn(3, 8, 8), (3, 10), 2),
    "resnet": ("adlrns_resnet", {"blocks": (1, 2)}, torch.randn(3, 3, 9, 7), (3, 10), 6),
    "gray resnet": ("adlrns_resnet", {"channels": 1}, torch.randn(1, 1, 8, 8), (1, 10), 12),
    "vit": (
        "adlrns_vit",
        {"image_size": 8, "patch": 2, "width": 32, "depth": 2, "classes": 5},
        torch.randn(3, 3, 8, 8),
        (3, 5),
        8,
    ),
    "encoder": ("adlrns_transformer", {"width": 32, "depth": 2}, TOKENS, (3, 2), 8),
    "decoder": (
        "adlrns_transformer",
        {"kind": "decoder", "vocabulary": 20, "width": 32, "depth": 1},
        TOKENS,
        (3, 7, 20),
        4,
    ),
}
each_net = pytest.mark.parametrize("net", NETS)


def made(net, **more):
    name, options, x, shape, layers = NETS[net]
    return create_model(name, **options, **more), x, shape, layers


@each_net
def test_scores_have_their_shape_and_every_parameter_a_gradient(net):
    model, x, shape, layers = made(net)
    y = model(x)
    assert y.shape == shape
    assert len(list(iter_dynamic_layers(model))) == layers
    y.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@each_net
def test_the_baseline_has_the_same_layers_dense(net):
    dense, x, shape, _ = made(net, dense=True)
    model, *_ = made(net)
    assert dense(x).shape == shape
    assert not list(iter_dynamic_layers(dense))
    plain = {n: m for n, m in dense.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    ours = {n: m for n, m in model.named_modules() if isinstance(m, DynamicLinear | DynamicConv2d)}
    for name, layer in ours.items():
        assert plain[name].weight.shape == layer.weight.shape
    left = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert left == plain.keys() - ours.keys()


@each_net
def test_no_rank_costs_more_than_the_dense_layer(net):
    model, *_ = made(net, r_max=1000, r_min=900)
    for layer in iter_dynamic_layers(model):
        m, n = layer.sizes
        assert layer.max_rank * (m + n) <= m * n
        assert 1 <= layer.r_min <= layer.max_rank


@each_net
def test_a_budget_moves_the_ranks_of_a_net(net):
    model, x, *_ = made(net, r_min=1, r_max=8)
    model(x)
    with rank_budget(model, 0.0, "flops"):
        model(x)
        assert all(layer.last_rank == layer.r_min for layer in iter_dynamic_layers(model))


def test_the_seeds_model_section_makes_a_model():
    model = create_model(**SEED_SECTION)
    layers = list(iter_dynamic_layers(model))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert {layer.r_min for layer in layers} == {4}
    assert max(layer.max_rank for layer in layers) > 50  # 64, where that pays


@pytest.mark.parametrize("dense", [True, False])
def test_a_decoder_never_looks_ahead(dense):
    torch.manual_seed(0)
    # all ranks one number: a gate may let what follows move them
    ranks = {} if dense else {"r_min": 3, "r_max": 3}
    options = {"vocabulary": 20, "width": 32, "depth": 2, "dense": dense, **ranks}
    model = adlrns_transformer(kind="decoder", **options).double()
    changed = TOKENS.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 20
    one, two = model(TOKENS), model(changed)
    torch.testing.assert_close(one[:, :4], two[:, :4], rtol=0, atol=1e-12)
    assert (one[:, 4:] - two[:, 4:]).abs().max() > 1e-3


def test_an_encoder_does_not_see_what_is_masked():
    torch.manual_seed(0)
    model = adlrns_transformer(vocabulary=20, width=32, depth=2, dense=True).double()
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    changed = torch.where(mask, TOKENS, 5)
    torch.testing.assert_close(model(TOKENS, mask), model(changed, mask), rtol=0, atol=1e-12)
    alone = model(TOKENS[1:2, :4])  # as if the rest were not there
    torch.testing.assert_close(model(TOKENS, mask)[1:2], alone, rtol=1e-10, atol=1e-12)


def test_attention_is_softmax_of_products():
    torch.manual_seed(0)
    block = adlrns_vit(image_size=4, patch=2, width=8, heads=2, depth=1, dense=True).blocks[0]
    attention, x = block.attention.double(), torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = attention.query_key_value(x).chunk(3, -1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[..., part] @ k[..., part].mT / 2.0
        heads.append(scores.softmax(-1) @ v[..., part])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, -1)))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet", {}, "type must be one of adlrns_mlp.*got 'resnet'"),
        ("adlrns_mlp", {"width": 3}, "unknown option width of adlrns_mlp"),
        ("adlrns_mlp", {"bias": False}, "unknown option bias"),
        ("adlrns_mlp", {"hidden": [4, 0]}, "hidden must be in 1"),
        ("adlrns_resnet", {"width": 12}, "width must be a multiple of 8, got 12"),
        ("adlrns_resnet", {"blocks": []}, "at least one stage"),
        ("adlrns_vit", {"image_size": 9}, "image_size must be a multiple of patch"),
        ("adlrns_vit", {"width": 30}, "width must be a multiple of heads"),
        ("adlrns_transformer", {"kind": "both"}, "kind must be one of"),
        ("adlrns_vit", {"gate": "nothing"}, "gate must be"),
        ("adlrns_vit", {"r_min": 8, "r_max": 4}, "r_min must be in 1..4, got 8"),
    ],
)
def test_what_cannot_be_built_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


def test_options_of_the_wrong_kind_are_named():
    from adlrns_models import SpectralGate

    with pytest.raises(TypeError, match="gate must be the name of a gate"):
        create_model("adlrns_mlp", gate=SpectralGate())
    with pytest.raises(TypeError, match="a decoder has as many scores"):
        create_model("adlrns_transformer", kind="decoder", classes=3)
    with pytest.raises(ValueError, match="tokens must be at most length"):
        create_model("adlrns_transformer", length=6, width=8, heads=1)(TOKENS)


def test_a_whole_configuration_file_serves_model_and_training():
    config = {
        "model": SEED_SECTION,
        "train": {"batch_size": 64, "epochs": 100, "lr": "1e-4", "energy_penalty_weight": 0.01},
        "scheduler": {
            "type": "energy_aware",
            "energy_budget_mJ_per_sample": 5.0,
            "alpha": 1.0,
            "beta": 0.1,
        },
        "hardware": {"gpu_type": "V100", "flops_per_mac": 2, "energy_per_flop": "1e-6"},
    }
    create_model(**config["model"])
    found = TrainConfig.from_dict(config)
    assert (found.lr, found.epochs, found.batch_size) == (1e-4, 100, 64)
    assert (found.energy_penalty_weight, found.alpha, found.beta) == (0.01, 1.0, 0.1)
    assert found.energy_budget_mj_per_sample == 5.0
