"""Models of the transformers library, made from their configurations: nothing is downloaded."""

import copy
import functools

import pytest
import torch
from torch import nn

from adlrns_models import (
    AdaptiveConv2d,
    AdaptiveGroupedConv2d,
    AdaptiveLinear,
    ElasticModel,
    iter_adaptive_layers,
    load_materialized,
    make_elastic,
    materialize_model,
    save_materialized,
    wrap_model_with_adaptive,
)

transformers = pytest.importorskip("transformers")

EMBEDDING = "an embedding looks rows up"
DEPTHWISE = r"matrix (depthwise): of one rank"


def text(model, config, **options):
    sizes = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    made = getattr(transformers, model)(getattr(transformers, config)(**sizes, **options))
    return made, {"input_ids": torch.randint(3, 64, (4, 9))}


def vision(model, config, **options):
    made = getattr(transformers, model)(getattr(transformers, config)(num_labels=5, **options))
    return made, {"pixel_values": torch.randn(4, 3, 32, 32)}


BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
LLAMA = BLOCKS | {"num_key_value_heads": 2, "intermediate_size": 64}
RESNET = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 1]}
CONVNEXT = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 2}

# name: how to make it, how many layers are wrapped, and which are not, why
ARCHITECTURES = {
    "bert": (
        lambda: text("BertForMaskedLM", "BertConfig", intermediate_size=64, **BLOCKS),
        13,
        {
            "bert.embeddings.word_embeddings": EMBEDDING,
            "bert.embeddings.position_embeddings": EMBEDDING,
            "bert.embeddings.token_type_embeddings": EMBEDDING,
            "cls.predictions.decoder": "tied to another module's: bert.embeddings.word_embeddings",
        },
    ),
    "gpt2": (
        lambda: text("GPT2LMHeadModel", "GPT2Config", **GPT2),
        8,
        {
            "transformer.wte": EMBEDDING,
            "transformer.wpe": EMBEDDING,
            "lm_head": "tied to another module's: transformer.wte.weight",
        },
    ),
    "llama": (
        lambda: text("LlamaForCausalLM", "LlamaConfig", **LLAMA),
        15,
        {"model.embed_tokens": EMBEDDING},
    ),
    "llama, tied": (
        lambda: text("LlamaForCausalLM", "LlamaConfig", tie_word_embeddings=True, **LLAMA),
        14,
        {"model.embed_tokens": EMBEDDING, "lm_head": "tied to another module's"},
    ),
    "albert": (  # one block, used twice
        lambda: text(
            "AlbertModel", "AlbertConfig", embedding_size=16, intermediate_size=64, **BLOCKS
        ),
        8,
        {f"embeddings.{name}_embeddings": EMBEDDING for name in ("word", "position", "token_type")},
    ),
    "vit": (
        lambda: vision(
            "ViTForImageClassification",
            "ViTConfig",
            image_size=32,
            patch_size=8,
            intermediate_size=64,
            **BLOCKS,
        ),
        14,
        {},
    ),
    "resnet": (
        lambda: vision(
            "ResNetForImageClassification", "ResNetConfig", layer_type="bottleneck", **RESNET
        ),
        13,
        {},
    ),
    "regnet": (  # grouped convolutions
        lambda: vision(
            "RegNetForImageClassification",
            "RegNetConfig",
            embedding_size=8,
            hidden_sizes=[16, 32],
            depths=[1, 1],
            groups_width=8,
        ),
        14,
        {},
    ),
    "convnext": (
        lambda: vision(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            layer_scale_init_value=0.5,
            **CONVNEXT,
        ),
        7,
        {f"convnext.encoder.stages.{i}.layers.0.dwconv": DEPTHWISE for i in range(2)},
    ),
}
named = pytest.mark.parametrize("name", ARCHITECTURES)


@functools.cache
def _made(name):
    torch.manual_seed(0)
    model, batch = ARCHITECTURES[name][0]()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases begin as zeros
            nn.init.normal_(parameter, std=0.1)
    return model.eval(), batch


def made(name):
    """A model of one's own and a batch."""
    model, batch = _made(name)
    return copy.deepcopy(model), batch


def first(output):
    return output[0]  # logits, or hidden states


@torch.no_grad()
@named
def test_wrapping_keeps_the_function_and_names_what_it_leaves(name, caplog):
    caplog.set_level("INFO", logger="adlrns_models")
    _, count, skipped = ARCHITECTURES[name]
    model, batch = made(name)
    model = model.double()
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    wanted = first(model(**batch))
    wrapped = wrap_model_with_adaptive(model, r_min=1).eval()
    torch.testing.assert_close(first(wrapped(**batch)), wanted, rtol=1e-10, atol=1e-10)
    assert len(list(iter_adaptive_layers(wrapped))) == count
    said = [record.getMessage() for record in caplog.records if "stays as" in record.getMessage()]
    assert len(said) == len(skipped)
    for line, (layer, reason) in zip(said, skipped.items(), strict=True):
        assert line.startswith(f"{layer} stays as it is: ")
        assert reason in line


@named
def test_an_elastic_model_keeps_budgets_trains_and_is_settled(name, tmp_path):
    model, batch = made(name)
    with torch.no_grad():
        wanted = first(model(**batch))
    elastic = make_elastic(model, [batch])
    assert len(elastic.info["skipped"]) == len(ARCHITECTURES[name][2])
    with torch.no_grad():
        torch.testing.assert_close(first(elastic(**batch)), wanted, rtol=1e-4, atol=1e-4)
    point = elastic.set_budget(flops=0.5)
    assert point.cost <= 0.5 * elastic.full_cost()
    elastic.train()
    outputs = [value for value in elastic(**batch).values() if isinstance(value, torch.Tensor)]
    sum(value.square().mean() for value in outputs).backward()
    for layer in elastic.layers().values():
        assert layer.outer_bias.grad.isfinite().all()
        if layer.current_rank():
            assert layer.up.grad[..., 0].any()
            assert not layer.up.grad[..., layer.current_rank() :].any()
    elastic.eval()
    with torch.no_grad():
        y = first(elastic(**batch))
        for form in ("auto", "factored"):
            settled = materialize_model(elastic, form)
            torch.testing.assert_close(first(settled(**batch)), y, rtol=1e-4, atol=1e-4)
            elastic.save(tmp_path)
            save_materialized(settled, tmp_path, like=model)
            loaded = load_materialized(tmp_path, model)
            assert torch.equal(first(loaded(**batch)), first(settled(**batch)))
        assert torch.equal(first(ElasticModel.load(tmp_path, model)(**batch)), y)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama, tied"])
def test_generation_at_full_rank_gives_the_same_tokens(name):
    model, batch = made(name)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    options["attention_mask"] = torch.ones_like(batch["input_ids"])
    wanted = model.generate(**batch, **options)
    elastic = make_elastic(model, [batch])
    assert torch.equal(elastic.network.generate(**batch, **options), wanted)
    elastic.set_budget(flops=0.5)
    cheap = elastic.network.generate(**batch, **options)
    assert cheap.shape == wanted.shape
    wrapped = wrap_model_with_adaptive(model).eval()
    assert torch.equal(wrapped.generate(**batch, **options), wanted)


@named
def test_layers_become_of_the_kind_they_were(name):
    model, _ = made(name)
    plain = dict(model.named_modules())
    wrapped = wrap_model_with_adaptive(model)
    for layer_name, layer in wrapped.named_modules():
        if isinstance(layer, AdaptiveLinear):
            weight = plain[layer_name].weight
            turned = type(plain[layer_name]).__name__ == "Conv1D"
            assert layer.weight_shape == tuple(weight.T.shape if turned else weight.shape)
        elif isinstance(layer, AdaptiveConv2d):
            grouped = plain[layer_name].groups > 1
            assert isinstance(layer, AdaptiveGroupedConv2d) is grouped
