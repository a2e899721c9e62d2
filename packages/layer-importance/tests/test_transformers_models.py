import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import ElasticDepth, discover, distill
from layer_importance._execute.carry_out import carry_out
from layer_importance._execute.files import load

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
TEXT = {"vocab_size": 60, "num_hidden_layers": 4, "pad_token_id": 0, **SIZES}
CAUSAL = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64}
IMAGE = {"image_size": 16, "patch_size": 4, **SIZES}
T5 = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}


def tokens(**more: Any) -> dict[str, Any]:
    return {"input_ids": torch.arange(2, 14).reshape(2, 6), **more}


def image(size: int = 16) -> dict[str, Tensor]:
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * size * size).reshape(2, 3, size, size)}


def both() -> dict[str, Tensor]:
    return tokens(decoder_input_ids=torch.arange(3, 15).reshape(2, 6))


def made(kind: str, config: str, **words: Any) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**words)).eval()
    with torch.no_grad():  # fresh models hardly use their blocks
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


ROWS: dict[str, tuple[tuple[Any, ...], Callable[[], dict[str, Any]], dict[str, int]]] = {
    "llama": (("LlamaForCausalLM", "LlamaConfig", CAUSAL), tokens, {"model.layers": 4}),
    "gpt2": (
        (
            "GPT2LMHeadModel",
            "GPT2Config",
            {"vocab_size": 60, "n_embd": 16, "n_layer": 4, "n_head": 2},
        ),
        tokens,
        {"transformer.h": 4},
    ),
    "bert": (("BertModel", "BertConfig", TEXT), tokens, {"encoder.layer": 4}),
    "albert": (
        ("AlbertModel", "AlbertConfig", {**TEXT, "embedding_size": 16}),
        tokens,
        {"encoder.albert_layer_groups": 4},
    ),
    "mixtral": (("MixtralForCausalLM", "MixtralConfig", CAUSAL), tokens, {"model.layers": 4}),
    "t5": (
        (
            "T5ForConditionalGeneration",
            "T5Config",
            {**T5, "num_layers": 3, "num_decoder_layers": 2, "decoder_start_token_id": 0},
        ),
        both,
        {"encoder.block": 3, "decoder.block": 2},
    ),
    "clip": (
        (
            "CLIPModel",
            "CLIPConfig",
            {
                "text_config": {**TEXT, "num_hidden_layers": 3, "eos_token_id": 1},
                "vision_config": {**IMAGE, "num_hidden_layers": 2},
            },
        ),
        lambda: tokens(**image()),
        {"vision_model.encoder.layers": 2, "text_model.encoder.layers": 3},
    ),
    "vit": (("ViTModel", "ViTConfig", {**IMAGE, "num_hidden_layers": 4}), image, {"layers": 4}),
    "resnet": (
        (
            "ResNetModel",
            "ResNetConfig",
            {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 3], "layer_type": "basic"},
        ),
        lambda: image(32),
        {"encoder.stages.0.layers": 2, "encoder.stages.1.layers": 3},
    ),
    "swin": (
        (
            "SwinModel",
            "SwinConfig",
            {
                "image_size": 32,
                "patch_size": 2,
                "embed_dim": 8,
                "depths": [2, 2],
                "num_heads": [2, 2],
                "window_size": 2,
            },
        ),
        lambda: image(32),
        {"encoder.layers.0.blocks": 2, "encoder.layers.1.blocks": 2},
    ),
    "convnext": (
        (
            "ConvNextModel",
            "ConvNextConfig",
            {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2},
        ),
        lambda: image(32),
        {"encoder.stages.0.layers": 2, "encoder.stages.1.layers": 3},
    ),
    "resnet with stages of one block": (
        (
            "ResNetForImageClassification",
            "ResNetConfig",
            {"embedding_size": 8, "hidden_sizes": [8, 16, 16], "depths": [1, 3, 1]},
        ),
        lambda: image(32),
        {f"resnet.encoder.stages.{i}.layers": n for i, n in enumerate((1, 3, 1))},
    ),
    "mamba": (
        (
            "MambaForCausalLM",
            "MambaConfig",
            {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 4},
        ),
        tokens,
        {"backbone.layers": 4},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_chains_are_those_of_the_configuration(name: str) -> None:
    (kind, config, words), example, chains = ROWS[name]

    found = discover(made(kind, config, **words), example())

    assert {chain: len(units) for chain, units in found.chains.items()} == chains
    assert not found.refused


def test_towers_are_told_apart_and_stages_belong_together() -> None:
    (kind, config, words), example, _ = ROWS["clip"]
    assert len(discover(made(kind, config, **words), example()).towers) == 2
    (kind, config, words), example, _ = ROWS["swin"]
    assert len(discover(made(kind, config, **words), example()).towers) == 1


EXECUTED = [
    ("llama", ["model.layers.0", "model.layers.2"], "compact", "plain"),
    ("gpt2", ["transformer.h.1"], "compact", "plain"),
    ("bert", ["encoder.layer.1", "encoder.layer.2"], "compact", "plain"),
    ("albert", ["encoder.albert_layer_groups.0#1"], "compact", "plain"),
    ("mixtral", ["model.layers.3"], "compact", "plain"),
    ("t5", ["encoder.block.1", "decoder.block.1"], "compact", "plain"),
    ("t5", ["encoder.block.0"], "mask", "recipe"),
    ("vit", ["layers.2"], "compact", "plain"),
    ("resnet", ["encoder.stages.1.layers.2"], "compact", "plain"),
    ("swin", ["encoder.layers.1.blocks.0"], "compact", "recipe"),
    ("mamba", ["backbone.layers.1"], "compact", "plain"),
]


@pytest.mark.parametrize("name, removed, way, saved", EXECUTED)
def test_a_plan_is_carried_out_and_every_check_holds(
    name: str, removed: list[str], way: str, saved: str, tmp_path: Path
) -> None:
    (kind, config, words), example, chains = ROWS[name]
    model = made(kind, config, **words)

    done = carry_out(model, removed, example=example())

    assert (done.executor, done.kind) == (way, saved), done.attempts
    for check in ("forward", "reload"):
        assert done.checks[check] == "passed"
    if hasattr(model, "generate") and model.can_generate():
        assert done.checks["generate"] == "passed"
    assert len(done.kept) == sum(chains.values()) - len(removed)


def test_the_configuration_of_a_constant_that_depends_on_depth_stays_and_units_are_listed(
    tmp_path: Path,
) -> None:
    model = made("DiffLlamaForCausalLM", "DiffLlamaConfig", **CAUSAL)

    done = carry_out(model, ["model.layers.1"], example=tokens())
    done.save(tmp_path / "model")
    again = load(tmp_path / "model")

    assert (done.executor, done.kind) == ("compact", "recipe")
    with torch.no_grad():
        assert torch.equal(again(**tokens()).logits, done.model.eval()(**tokens()).logits)


def test_a_compacted_model_is_read_by_transformers_alone(tmp_path: Path) -> None:
    (kind, config, words), example, _ = ROWS["llama"]
    done = carry_out(made(kind, config, **words), ["model.layers.0"], example=example())

    done.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()

    assert again.config.num_hidden_layers == 3
    assert done.model.config.num_hidden_layers == 3
    with torch.no_grad():
        assert torch.equal(again(**example()).logits, done.model(**example()).logits)


def test_slicing_alone_breaks_the_cache_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from layer_importance._execute import surgery

    monkeypatch.setattr(surgery, "renumber", lambda blocks, kept: None)
    (kind, config, words), example, _ = ROWS["llama"]
    model = made(kind, config, **words)

    with pytest.raises(ValueError, match="compact: cache "):
        carry_out(model, ["model.layers.0"], example=example(), executor="compact")


def test_a_configuration_left_as_it_was_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from layer_importance._execute import surgery

    monkeypatch.setattr(surgery, "reconfigure", lambda *arguments: None)
    monkeypatch.setattr("layer_importance._execute.job.Job._kinds", lambda *_: ("plain",))
    (kind, config, words), example, _ = ROWS["bert"]

    with pytest.raises(ValueError, match="compact: reload "):
        carry_out(
            made(kind, config, **words), ["encoder.layer.1"], example=example(), executor="compact"
        )


def test_a_model_that_no_configuration_describes_refuses_save_pretrained(tmp_path: Path) -> None:
    model = made("GPT2LMHeadModel", "GPT2Config", vocab_size=60, n_embd=16, n_layer=4, n_head=2)
    bridged = carry_out(
        model, ["transformer.h.1"], example=tokens(), bridges={"transformer.h.1": nn.Linear(16, 16)}
    )
    plain = carry_out(model, ["transformer.h.1"], example=tokens())
    bridged.save(tmp_path / "model")
    models = [bridged.model, copy.deepcopy(bridged.model), load(tmp_path / "model")]

    assert (bridged.kind, plain.kind) == ("recipe", "plain")
    for one in (*models, bridged.model.transformer):
        with pytest.raises(ValueError, match="save_pretrained must not be used .* Compressed.save"):
            one.save_pretrained(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    plain.model.save_pretrained(tmp_path / "plain")


def as_translation_reads_it() -> dict[str, Tensor]:
    labels = torch.arange(3, 17).reshape(2, 7).clone()
    labels[1, 4:] = -100
    return tokens(attention_mask=torch.ones(2, 6, dtype=torch.long), labels=labels)


def test_an_encoder_decoder_is_shortened_by_the_batch_its_task_reads() -> None:
    (kind, config, words), _, _ = ROWS["t5"]
    model, example = made(kind, config, **words), as_translation_reads_it()

    units = discover(model, example, task="translation")
    done = carry_out(model, ["encoder.block.1"], example=example, task="translation")
    healed = distill(done.model, model, [example], task="translation", steps=3)
    elastic = ElasticDepth(model, ["decoder.block.1"], example=example, task="translation")
    elastic.close()

    assert units.removable
    assert {done.checks[name] for name in ("forward", "cache", "generate", "reload")} == {"passed"}
    assert healed.steps == 3


def test_distilling_an_encoder_decoder_counts_the_tokens_of_its_answer() -> None:
    (kind, config, words), _, _ = ROWS["t5"]
    teacher, model = made(kind, config, **words), made(kind, config, **words)
    with torch.no_grad():
        model.encoder.block[0].layer[0].SelfAttention.o.weight.zero_()
    labels = torch.arange(3, 15).reshape(2, 6).clone()
    labels[1, 2:] = -100
    seen = torch.ones(2, 6, dtype=torch.long)
    seen[0, 4:] = 0
    example = tokens(attention_mask=seen, labels=labels)
    with torch.no_grad():
        p, q = (m(**example).logits.log_softmax(-1) for m in (teacher, model))
    expected = (p.exp() * (p - q)).sum(-1)[labels != -100].mean()

    found = distill(model, teacher, [example], task="translation", steps=1)

    torch.testing.assert_close(found.before, float(expected), rtol=1e-4, atol=0)
