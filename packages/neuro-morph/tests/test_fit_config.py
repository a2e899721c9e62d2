"""The configuration that builds a grown model of the transformers library."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    AddHeads,
    Deepen,
    Duplicate,
    GrowthRefusedError,
    Morpher,
    Widen,
    fit_config,
)

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
INPUTS = {"input_ids": torch.tensor([[3, 7, 1, 9], [2, 2, 40, 5]]), "use_cache": False}


def llama(**settings: Any) -> Morpher:
    sizes = {"vocab_size": 60, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return run("LlamaForCausalLM", "LlamaConfig", **{**sizes, **settings})


def gpt2() -> Morpher:
    sizes = {"vocab_size": 60, "n_positions": 20, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return run("GPT2LMHeadModel", "GPT2Config", **sizes, bos_token_id=0, eos_token_id=0)


def run(kind: str, config: str, **settings: Any) -> Morpher:
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    return Morpher(model.eval(), example_inputs=INPUTS, outputs=["logits"], capture="dispatch")


def widen(morpher: Morpher, by: int, layers: tuple[int, ...] = (0, 1)) -> None:
    for k in layers:
        morpher.apply(Widen(f"model.layers.{k}.mlp.gate_proj", by=by))


def add_heads(morpher: Morpher, by: int) -> None:
    for k in (0, 1):
        morpher.apply(AddHeads(f"model.layers.{k}.self_attn", by=by))


def saved_and_loaded_it_is_the_same(morpher: Morpher, folder: Path) -> None:
    model: Any = morpher.model
    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder).eval()
    torch.testing.assert_close(again(**INPUTS).logits, model(**INPUTS).logits)


HEADS = {"num_attention_heads": (4, 8), "num_key_value_heads": (2, 4)}


def test_it_is_found_edit_by_edit_as_it_is_for_all_at_once(tmp_path: Path) -> None:
    morpher = llama()
    widen(morpher, 16)
    assert fit_config(morpher) == {"intermediate_size": (72, 88)}
    add_heads(morpher, 2)
    assert fit_config(morpher) == HEADS
    widen(morpher, 2)
    assert fit_config(morpher) == {"intermediate_size": (88, 90)}
    assert fit_config(morpher) == {}
    saved_and_loaded_it_is_the_same(morpher, tmp_path)


def test_it_changes_no_number_that_only_happens_to_be_one_that_grew(tmp_path: Path) -> None:
    morpher = llama(hidden_size=32, max_position_embeddings=32, intermediate_size=48)
    add_heads(morpher, 2)
    assert fit_config(morpher) == HEADS
    saved_and_loaded_it_is_the_same(morpher, tmp_path)


def test_one_that_the_library_does_not_read_again_is_refused_in_its_words() -> None:
    morpher = llama()
    add_heads(morpher, 1)
    model: Any = morpher.model
    before = model.config.to_dict()
    rule = r"num_attention_heads=6, num_key_value_heads=3 would, but .*hidden size \(40\)"
    with pytest.raises(GrowthRefusedError, match=rule):
        fit_config(morpher)
    assert model.config.to_dict() == before


def test_what_it_leaves_open_is_set_where_that_will_do(tmp_path: Path) -> None:
    morpher = gpt2()
    for k in (0, 1):
        morpher.apply(Widen(f"transformer.h.{k}.mlp.c_fc", by=32))
    assert fit_config(morpher) == {"n_inner": (None, 160)}
    saved_and_loaded_it_is_the_same(morpher, tmp_path)


def test_sizes_of_heads_and_streams_are_found_together(tmp_path: Path) -> None:
    morpher = llama()
    morpher.apply(Widen("model.embed_tokens", by=40, init=Duplicate()))
    widen(morpher, 16)
    found = fit_config(morpher)
    assert found["hidden_size"] == (40, 80)
    assert found["intermediate_size"] == (72, 88)
    saved_and_loaded_it_is_the_same(morpher, tmp_path)


def grown_unlike(morpher: Morpher) -> None:
    morpher.apply(Widen("model.embed_tokens", by=4))
    widen(morpher, 16, (1,))


def deepened(morpher: Morpher) -> None:
    morpher.apply(Widen("model.embed_tokens", by=4))
    morpher.apply(Deepen("model.layers.0.mlp"))


@pytest.mark.parametrize(
    "grow, reason",
    [
        (grown_unlike, r"layers.1.mlp.*is \(88, 44\), not \(72, 44\) as 'model.layers.0.mlp"),
        (deepened, r"'grown.block_0.*' is in none of them: they describe nothing that was added"),
    ],
)
def test_the_reason_is_what_no_configuration_has_and_not_what_one_could_have(
    grow: Any, reason: str
) -> None:
    morpher = llama()
    grow(morpher)
    with pytest.raises(GrowthRefusedError, match=reason):
        fit_config(morpher)
