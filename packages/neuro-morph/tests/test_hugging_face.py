"""Growth on models of the transformers library, built from small configurations."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    ArchitectureSpec,
    Duplicate,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
)
from neuro_morph._configuration import fit_config
from neuro_morph.testing import randomized

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
IDS = torch.tensor([[3, 7, 1, 9], [2, 2, 40, 5]])
IMAGE = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32).sin()
TEXT = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"intermediate_size": 40, "max_position_embeddings": 20}
INITS = {"free": (ZeroFanOut(), 2), "copy": (Split(), 2), "equal": (Duplicate(), 0)}
INITS["masked"] = ZeroFanOut("masked"), 2


def causal(kind: str, config: str, **settings: Any) -> tuple[nn.Module, Any]:
    settings = {"bos_token_id": 0, "eos_token_id": 0, **settings}
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    return model, {"input_ids": IDS, "use_cache": False}


def images(kind: str, size: int = 32, **settings: Any) -> tuple[nn.Module, Any]:
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    return model, {"pixel_values": IMAGE[..., :size, :size]}


def built(name: str) -> tuple[nn.Module, Any]:
    if name == "bert":
        config = transformers.BertConfig(**TEXT)
        return transformers.BertForSequenceClassification(config), {"input_ids": IDS}
    if name == "gpt2":
        sizes = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 20, "n_inner": 40}
        return causal("GPT2LMHeadModel", "GPT2Config", vocab_size=60, **sizes)
    if name == "llama":
        return causal("LlamaForCausalLM", "LlamaConfig", **TEXT, num_key_value_heads=2)
    if name == "t5":
        sizes = {"d_model": 24, "num_layers": 1, "num_heads": 4, "d_kv": 6, "d_ff": 40}
        model, inputs = causal("T5ForConditionalGeneration", "T5Config", vocab_size=60, **sizes)
        return model, {**inputs, "decoder_input_ids": IDS}
    if name == "vit":
        sizes = {
            k: v for k, v in TEXT.items() if k not in ("vocab_size", "max_position_embeddings")
        }
        return images("ViT", 16, **sizes, image_size=16, patch_size=8)
    if name == "swin":
        sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2]}
        return images("Swin", **sizes, num_heads=[2, 4], window_size=4)
    if name == "convnext":
        return images("ConvNext", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])
    if name == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
        return images("ResNet", **sizes, layer_type="bottleneck")
    if name == "mobilenet":
        return images("MobileNetV2", image_size=32, depth_multiplier=0.1, min_depth=4)
    sizes = {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}
    return images("EfficientNet", image_size=32, **sizes)


@pytest.mark.parametrize(
    "name",
    [
        "bert",
        "gpt2",
        "llama",
        "t5",
        "vit",
        "swin",
        "convnext",
        "resnet",
        "mobilenet",
        "efficientnet",
    ],
)
def test_every_group_grows_and_most_parameters_are_in_one(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = randomized(*built(name))
    # the RMSNorms of these compute in float32 whatever they are given
    tolerance = 1e-6 if name in ("llama", "t5") else 1e-12
    morpher = Morpher(
        model,
        example_inputs=inputs,
        outputs=["logits"],
        capture="dispatch",
        tolerance=tolerance,
    )
    graph, start = morpher.graph, morpher.snapshot()
    sizes = {k: p.numel() for k, p in model.named_parameters()}
    grown: set[str] = set()
    for group in [g for g in graph if g.growable]:
        way = graph.ways(group)[0]
        init, by = INITS[way]
        event = morpher.apply(Widen(group.id, by=by or group.size, init=init))
        assert event.relative_change is not None
        assert event.relative_change <= tolerance
        grown |= group.parameters()
        start.restore()
        morpher._graph = graph
    assert sum(sizes[k] for k in grown & set(sizes)) >= 0.9 * sum(sizes.values())


def grown_alike(morpher: Morpher, parts: tuple[str, ...], way: str) -> None:
    """Widens the groups of all layers whose names end alike."""
    names = [g.id for g in morpher.graph if g.growable and g.id.endswith(parts)]
    assert len(names) >= len(parts)
    for name in names:
        init, by = INITS[way]
        morpher.apply(Widen(name, by=by or morpher.graph[name].size, init=init))


@pytest.mark.parametrize(
    "name, parts, changed",
    [
        ("bert", ("intermediate.dense",), {"intermediate_size": (40, 42)}),
        (
            "bert",
            ("word_embeddings", "query.0", "pooler.dense"),
            {"hidden_size": (24, 48), "num_attention_heads": (4, 8)},
        ),
        ("gpt2", ("mlp.c_fc",), {"n_inner": (40, 42)}),
        ("llama", ("mlp.gate_proj",), {"intermediate_size": (40, 42)}),
        ("t5", ("DenseReluDense.wi",), {"d_ff": (40, 42)}),
        ("vit", ("fc1",), {"intermediate_size": (40, 42)}),
    ],
)
def test_a_configuration_is_found_for_layers_that_grew_alike(
    name: str, parts: tuple[str, ...], changed: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, inputs = built(name)
    morpher = Morpher(model.eval(), example_inputs=inputs, outputs=["logits"], capture="dispatch")
    grown_alike(morpher, parts, "equal" if "hidden_size" in changed else "free")
    found = fit_config(morpher)
    assert changed.items() <= found.items()
    assert fit_config(morpher) == {}
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)


def test_layers_that_grew_by_themselves_have_no_configuration_but_a_spec() -> None:
    torch.manual_seed(0)
    model, inputs = built("bert")
    morpher = Morpher(model.eval(), example_inputs=inputs, outputs=["logits"], capture="dispatch")
    group = next(g.id for g in morpher.graph if g.growable and "layer.1.intermediate" in g.id)
    morpher.apply(Widen(group, by=2))
    before = model.config.to_dict()
    with pytest.raises(GrowthRefusedError, match=r"no BertConfig builds this .*: 'bert.*is .*not"):
        fit_config(morpher)
    assert model.config.to_dict() == before
    spec = ArchitectureSpec.from_json(morpher.spec.to_json())
    fresh = spec.replay(type(model)(model.config)).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)
    with pytest.raises(TypeError, match="Linear has no configuration"):
        fit_config(Morpher(nn.Linear(2, 2), example_inputs=torch.ones(1, 2)))
