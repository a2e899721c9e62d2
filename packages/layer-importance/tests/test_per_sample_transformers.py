"""Per-sample gradient norms of real architectures against the loop over samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import (
    Classification,
    ParameterEvent,
    ParameterMethod,
    Subject,
    Task,
    Units,
    discover,
)
from layer_importance._per_sample.reference import reference_norms
from layer_importance._preserve import preserved
from layer_importance._sweep import Sweep
from layer_importance.tasks import Translation

transformers = pytest.importorskip("transformers")
COMMON: dict[str, Any] = {"vocab_size": 64, "num_labels": 5, "pad_token_id": 0}
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    **COMMON,
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
    "gpt2": lambda: transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **COMMON)
    ),
    "llama": lambda: transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(num_key_value_heads=2, **SMALL)
    ),
    "mixtral": lambda: transformers.MixtralForSequenceClassification(
        transformers.MixtralConfig(num_key_value_heads=2, num_local_experts=4, **SMALL)
    ),
}
WAYS = {"bert": "formula", "gpt2": "formula", "llama": "vmap", "mixtral": "vmap"}


TINY: dict[str, Any] = {"vocab_size": 64, "pad_token_id": 0, "decoder_start_token_id": 0}
ENCODER_DECODERS: dict[str, Callable[[], nn.Module]] = {
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, dropout_rate=0.0, **TINY
        )
    ),
    "bart": lambda: transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=32,
            bos_token_id=1,
            eos_token_id=2,
            forced_eos_token_id=None,
            **TINY,
        )
    ),
}
LOOPED = {"t5": ["per-sample gradients by loop: 2 Embedding"], "bart": []}


class Recorded(ParameterMethod):
    name = "recorded"
    needs = frozenset({"data", "labels", "per_sample"})
    columns = ("squares", "products")

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, tuple[Tensor, Tensor]] = {}

    def values(self, event: ParameterEvent) -> tuple[Tensor, ...]:
        self.rows[event.unit.name] = event.squares.clone(), event.products.clone()
        return self.rows[event.unit.name]


@pytest.mark.parametrize("name", MODELS)
def test_norms_are_those_of_the_loop_to_single_precision(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    mask = torch.ones(6, 9, dtype=torch.long)
    mask[2, 6:] = 0
    ids = torch.where(mask.bool(), torch.randint(3, 60, (6, 9)), 0)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(6) % 5}
    task = Classification()
    units = discover(model, batch, call=task.inputs(batch))
    ways = _assert_equal(model, task, units, batch)
    assert len(units) == 2
    assert any(f"by {WAYS[name]}" in way for way in ways)
    assert not any("by loop" in way for way in ways)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_and_a_decoder_have_the_norms_of_the_loop(name: str) -> None:
    torch.manual_seed(0)
    model = ENCODER_DECODERS[name]().eval()
    lengths, answered = torch.tensor([9, 4, 7, 9, 2]), torch.tensor([5, 6, 1, 3, 6])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.where(mask.bool(), torch.randint(3, 60, (5, 9)), 0)
    known = torch.arange(6) < answered[:, None]
    labels = torch.where(known, torch.randint(3, 60, (5, 6)), -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    task = Translation()
    units = discover(model, batch, call=task.inputs(batch))
    assert [sum(side in unit.path for unit in units) for side in ("encoder", "decoder")] == [2, 2]
    ways = _assert_equal(model, task, units, batch)
    # a bias for positions has no samples in it: only the loop tells them apart
    assert [way for way in ways if "by loop" in way] == LOOPED[name]


def _assert_equal(model: nn.Module, task: Task, units: Units, batch: Any) -> list[str]:
    """Compares all units with the loop; returns the ways that were taken."""
    subject, method = Subject(model, units, task, [batch]), Recorded()
    with preserved(model, gradients=True):
        losses = subject.losses(subject.forward(batch), batch)
        right = reference_norms(losses, [subject.module(unit) for unit in units])
        with Sweep(subject, [method]) as sweep:
            sweep.run(batch)
    assert len(method.rows) == len(units)
    for unit, (squares, products) in zip(units, right, strict=True):
        found = method.rows[unit.name]
        assert float(((found[0] - squares).abs() / squares).max()) < 1e-5
        assert float((found[1] - products).abs().max() / products.abs().max()) < 1e-4
    return [note.partition(" (")[0] for note in sweep.notes]
