from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import AddHeads, GrowthRefusedError, Morpher, Split, Widen

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


# numbers of heads that modules hold, whether they use them or not
NUMBERS: dict[str, tuple[str, str, int]] = {
    "fused": ("", "heads", 6),
    "written out": ("", "heads", 6),
    "cross": ("attend", "num_heads", 3),
    "gpt2": ("h.1.attn", "num_heads", 6),
    "bert": ("encoder.layer.0.attention.self", "num_attention_heads", 6),
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
    numbers = {n: v for n, v in NUMBERS.items() if n.partition(".")[0] == row}
    for name, (module, attribute, number) in numbers.items():
        assert getattr(model.get_submodule(module), attribute) == number, name
        assert (module, attribute) in {(p, n) for p, n, _, _ in event.attributes}


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


class Stream(nn.Module):
    """Two blocks of ``nn.MultiheadAttention`` on one residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        for block in self.blocks:
            h = h + block(h, h, h, need_weights=False)[0]
        out: Tensor = self.last(h)
        return out


def test_heads_as_wide_as_a_stream_are_one_group_of_all_blocks_and_it_says_so() -> None:
    model = Stream().double()
    site = Morpher(model, example_inputs=tokens(4), capture="dispatch").site()
    one = AddHeads("blocks.0", by=1).group(site)
    assert AddHeads("blocks.1", by=1).group(site) is one
    assert AddHeads("blocks", by=1).group(site) is one
    made = set(one.producers)
    assert {"into.weight", "blocks.0.in_proj_weight", "blocks.1.in_proj_weight"} <= made
    assert "last.weight" in one.consumers
    event = Morpher(model, example_inputs=tokens(4), capture="dispatch").apply(
        AddHeads("blocks.0", by=1)
    )
    assert event.parameters_added == one.unit_cost
    assert [block.num_heads for block in model.blocks] == [3, 3]


class Counting(Grouped):
    """Attention that uses its number of heads otherwise than as a size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (self.heads / 4)


def test_a_number_of_heads_that_the_model_counts_with_stays_as_it_was() -> None:
    torch.manual_seed(0)
    model = Counting(fused=True).double()
    event = Morpher(model, example_inputs=tokens(8), capture="dispatch").apply(AddHeads("", by=1))
    assert model.heads == 4
    assert event.attributes == ()


def test_numbers_of_heads_follow_wherever_the_group_is_widened_and_into_the_spec() -> None:
    morpher = Morpher(Grouped(fused=True).double(), example_inputs=tokens(8), capture="dispatch")
    morpher.apply(Widen(AddHeads("", by=1).group(morpher.site()).id, by=1))
    again = morpher.spec.replay(Grouped(fused=True).double())
    assert again.heads == morpher.model.heads == 6


def test_a_path_without_attention_is_told_where_there_is_some() -> None:
    make, inputs, _, _ = ROWS["bert"]
    morpher = Morpher(make().eval(), example_inputs=inputs, capture="dispatch")
    there = "'encoder.layer.0.attention.self', 'encoder.layer.1.attention.self'"
    with pytest.raises(GrowthRefusedError, match=f"has no attention .*; attention is in {there}"):
        morpher.apply(AddHeads("encoder.layer.0.attention.self.query", by=1))


class Whole(nn.Module):
    """Attention of the inputs themselves, whose width is given."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attend(x, x, x, need_weights=False)[0]
        return out
