from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import AddHeads, GrowthRefusedError, Morpher, Split

transformers = pytest.importorskip("transformers")


class Grouped(nn.Module):
    """Attention with two query heads for each key head, on a fused or a written-out product."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.heads = fused, 4
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(8, 6)
        self.o, self.last = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, 3)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        if self.fused:
            h = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            h = (q @ k.transpose(-1, -2) / 3**0.5).softmax(-1) @ v
        out: Tensor = self.last(self.o(h.transpose(1, 2).flatten(2)))
        return out


class Cross(nn.Module):
    """``nn.MultiheadAttention`` on keys and values of other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(4, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True, kdim=4, vdim=4)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.attend(self.into(x), x, x, need_weights=False)[0])
        return out


def tokens(width: int) -> Tensor:
    return torch.randn(2, 5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def language(name: str, **settings: Any) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=30, bos_token_id=0, eos_token_id=1, pad_token_id=2, **settings
    )
    model: nn.Module = getattr(transformers, f"{name}Model")(config)
    return model


WIDE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20,
}  # fmt: skip
ROWS: dict[str, tuple[Callable[[], nn.Module], Any, str, int]] = {
    "fused": (lambda: Grouped(fused=True), tokens(8), "", 3),
    "written out": (lambda: Grouped(fused=False), tokens(8), "", 3),
    "cross": (Cross, tokens(4), "attend", 3),
    "gpt2": (
        lambda: language("GPT2", n_embd=16, n_layer=2, n_head=4, use_cache=False),
        {"input_ids": torch.arange(12).reshape(2, 6)},
        "h.1.attn",
        6,
    ),
    "bert": (
        lambda: language("Bert", **WIDE),
        {"input_ids": torch.arange(12).reshape(2, 6)},
        "encoder.layer.0",
        6,
    ),
    "llama": (
        lambda: language("Llama", num_key_value_heads=2, use_cache=False, **WIDE),
        {"input_ids": torch.arange(12).reshape(2, 6)},
        "layers.1.self_attn",
        3,
    ),
}


@pytest.mark.parametrize("row", sorted(ROWS))
def test_attention_with_more_heads_computes_what_it_did(row: str) -> None:
    make, inputs, path, heads = ROWS[row]
    torch.manual_seed(0)
    model = make().double().eval()
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    before = AddHeads(path, by=1).group(morpher.site())
    event = morpher.apply(AddHeads(path, by=heads - before.size))
    assert (event.op, event.target) == ("add_heads", path)
    assert event.relative_change is not None
    assert event.relative_change <= (1e-6 if row == "llama" else 1e-12)
    assert event.parameters_added == before.unit_cost * (heads - before.size)
    assert AddHeads(path, by=1).group(morpher.site()).size == heads


def test_heads_are_split_like_other_units_and_found_by_the_id_of_their_group() -> None:
    torch.manual_seed(0)
    model, x = Grouped(fused=True).double(), tokens(8)
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    name = AddHeads("", by=1).group(morpher.site()).id
    morpher.apply(AddHeads(name, by=1, init=Split(parents=(0,))))
    assert model.q.weight.shape == (18, 8)
    assert torch.equal(model.q.weight[12:], model.q.weight[:6])
    assert model.o.weight.shape == (8, 18)


def test_what_has_no_heads_or_several_is_refused_by_name() -> None:
    model = nn.Sequential(Grouped(fused=True), nn.Linear(3, 8), Grouped(fused=False)).double()
    morpher = Morpher(model, example_inputs=tokens(8), capture="dispatch")
    with pytest.raises(GrowthRefusedError, match="'1' has no attention whose heads are a group"):
        morpher.apply(AddHeads("1", by=1))
    with pytest.raises(
        GrowthRefusedError, match="'' has several groups of heads: '0.q.0', '2.q.0'"
    ):
        morpher.apply(AddHeads("", by=1))
    with pytest.raises(GrowthRefusedError, match=r"'0.q.1' has no attention"):
        morpher.apply(AddHeads("0.q.1", by=1))
    with pytest.raises(ValueError, match="layer must be the path of a module or a group"):
        morpher.apply(AddHeads("nothing", by=1))
    with pytest.raises(ValueError, match="by must be an integer of at least 1, got 0"):
        AddHeads("0", by=0)


def test_a_model_of_fixed_width_refuses_heads_with_the_reason() -> None:
    model = nn.Sequential(Whole(), nn.Identity()).double()
    morpher = Morpher(model, example_inputs=tokens(8), capture="dispatch")
    with pytest.raises(GrowthRefusedError, match="cannot grow: it meets|cannot grow: it is"):
        morpher.apply(AddHeads("0", by=1))


class Whole(nn.Module):
    """Attention of the inputs themselves, whose width is given."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attend(x, x, x, need_weights=False)[0]
        return out
