"""Per-sample gradient norms of real architectures against the loop over samples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Classification, ParameterEvent, ParameterMethod, Subject, discover
from layer_importance._per_sample.reference import reference_norms
from layer_importance._preserve import preserved
from layer_importance._sweep import Sweep

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
    subject, method = Subject(model, units, task, [batch]), Recorded()
    with preserved(model, gradients=True):
        losses = subject.losses(subject.forward(batch), batch)
        right = reference_norms(losses, [subject.module(unit) for unit in units])
        with Sweep(subject, [method]) as sweep:
            sweep.run(batch)
    assert len(method.rows) == len(units) == 2
    for unit, (squares, products) in zip(units, right, strict=True):
        found = method.rows[unit.name]
        assert float(((found[0] - squares).abs() / squares).max()) < 1e-5
        assert float((found[1] - products).abs().max() / products.abs().max()) < 1e-4
    ways = " ".join(note.split(":")[0] for note in sweep.notes)
    assert f"by {WAYS[name]}" in ways
    assert "by loop" not in ways
