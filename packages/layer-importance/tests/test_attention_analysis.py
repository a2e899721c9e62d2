"""Attention against closed forms, on every way to compute it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import Method, Subject, analyze, discover
from layer_importance._heads import mixers
from layer_importance._methods import BUILT_IN
from layer_importance._methods.attention_analysis import AttentionAnalysis
from layer_importance._methods.attention_maps import distance, entropy, over_queries, rollout
from layer_importance._scores import Table
from layer_importance._tasks.classification import Classification

N, T, D, H = 6, 5, 8, 2


class Attention(nn.Module):
    """Self-attention with a choice of how it is computed."""

    def __init__(self, how: str = "fused") -> None:
        super().__init__()
        self.how = how
        self.qkv, self.mix = nn.Linear(D, 3 * D), nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (H, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return x + self.mix(y.transpose(1, 2).flatten(2))


class Own(nn.Module):
    """Torch's attention as a block."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(D, H, batch_first=batch_first, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        t = x if self.attend.batch_first else x.transpose(0, 1)
        y = self.attend(t, t, t, need_weights=False)[0]
        return x + (y if self.attend.batch_first else y.transpose(0, 1))


class Net(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(D, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def _batch(samples: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, T, D, generator=generator, dtype=torch.float64)
    return x, torch.arange(samples) % 3


MAKE: dict[str, Any] = {
    "fused": lambda: Attention("fused"),
    "by hand": lambda: Attention("by hand"),
    "torch's": Own,
    "torch's with tokens first": lambda: Own(batch_first=False),
}


def _scored(blocks: list[nn.Module], *methods: str) -> Any:
    model = Net(blocks).double()
    units = [f"blocks.{i}" for i in range(len(blocks))]
    names = methods or ("attention_analysis",)
    return model, analyze(model, [_batch()], methods=names, units=units)


def _gates(model: nn.Module, block: Any) -> Tensor:
    """The gradients of gates by autograd: gates stand on the columns of the mixing layer."""
    x, labels = _batch()
    mix = block.mix if isinstance(block, Attention) else block.attend.out_proj
    weight = mix.weight.detach().clone()
    rows = []
    for i in range(N):
        gate = torch.ones(H, dtype=torch.float64, requires_grad=True)
        scaled = weight * gate.repeat_interleave(D // H)
        name = next(n for n, p in model.named_parameters() if p is mix.weight)
        output = torch.func.functional_call(model, {name: scaled}, (x[i : i + 1],))
        loss = F.cross_entropy(output, labels[i : i + 1])
        rows.append(torch.autograd.grad(loss, gate)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("how", MAKE)
def test_gates_are_those_that_autograd_finds(how: str) -> None:
    torch.manual_seed(0)
    model, report = _scored([MAKE[how](), MAKE[how]()])
    scores = report["attention_analysis"]
    for place, block in enumerate(model.blocks):
        right = _gates(model.train(), block).abs()
        name = f"blocks.{place}"
        heads = [scores.tables["heads"][name, f"head {h}"] for h in range(H)]
        assert heads == pytest.approx(right.mean(0).tolist(), rel=1e-9)
        assert scores[name].value == pytest.approx(float(right.sum(1).mean()), rel=1e-9)
        error = float(right.sum(1).std() / N**0.5)
        assert scores[name].standard_error == pytest.approx(error, rel=1e-9)


def test_a_head_that_the_mixing_layer_ignores_has_none() -> None:
    torch.manual_seed(0)
    block = Attention()
    with torch.no_grad():
        block.mix.weight[:, : D // H] = 0
    _, report = _scored([block, Attention()])
    table = report["attention_analysis"].tables["heads"]
    assert table["blocks.0", "head 0"] == 0
    assert table["blocks.0", "head 1"] > 0
    with torch.no_grad():
        block.mix.weight.zero_()
    _, report = _scored([block, Attention()])
    assert report["attention_analysis"]["blocks.0"].value == 0
    assert report.ranking("attention_analysis")[0] == "blocks.0"


def test_equal_heads_are_equally_important() -> None:
    torch.manual_seed(0)
    block = Attention()
    half = D // H
    with torch.no_grad():
        for part in block.qkv.weight.unflatten(0, (3, -1)):
            part[half:] = part[:half]
        for part in block.qkv.bias.unflatten(0, (3, -1)):
            part[half:] = part[:half]
        block.mix.weight[:, half:] = block.mix.weight[:, :half]
    _, report = _scored([block, Attention()])
    table: Table = report["attention_analysis"].tables["heads"]
    assert table["blocks.0", "head 0"] == pytest.approx(table["blocks.0", "head 1"], rel=1e-10)


def test_batches_may_be_split_and_merged() -> None:
    torch.manual_seed(0)
    model = Net([Attention(), Own()]).double()
    x, y = _batch()
    units = ["blocks.0", "blocks.1"]

    def run(parts: list[Any]) -> AttentionAnalysis:
        method = AttentionAnalysis()
        analyze(model, parts, methods=[method], units=units)
        return method

    whole = run([(x, y)]).scores()
    split = run(list(zip(x.split(4), y.split(4), strict=True))).scores()
    merged = run([(x[:1], y[:1])])
    merged.merge(run([(x[1:], y[1:])]).state())
    for found in (split, merged.scores()):
        for name, score in whole.items():
            assert found[name].value == pytest.approx(score.value, rel=1e-10)
            assert found[name].standard_error == pytest.approx(score.standard_error, rel=1e-9)


def test_several_attentions_of_a_unit_add_up() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Attention(), Own()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    torch.manual_seed(0)
    model = Net([Both(), Attention()]).double()
    units = ["blocks.0", "blocks.0.first", "blocks.0.second", "blocks.1"]
    scores = analyze(model, [_batch()], methods=["attention_analysis"], units=units)
    found = scores["attention_analysis"]
    parts = found["blocks.0.first"].value + found["blocks.0.second"].value
    assert found["blocks.0"].value == pytest.approx(parts, rel=1e-10)
    row = [found.tables["heads"]["blocks.0", f"head {h}"] for h in range(2 * H)]
    assert sum(row) == pytest.approx(parts, rel=1e-10)
    assert math.isnan(found.tables["heads"]["blocks.1", f"head {H}"])


def test_where_nothing_attends_the_method_says_so() -> None:
    model = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 3)).double()
    x, y = _batch()
    report = analyze(
        model,
        [(x[:, 0], y)],
        methods=["attention_analysis", "attention_maps"],
        units=["0", "2"],
    )
    assert report.methods == {}
    assert "no unit attends" in report.reasons["attention_analysis"]


def test_uniform_and_certain_attention() -> None:
    uniform = torch.full((1, 1, T, T), 1 / T, dtype=torch.float64)
    certain = torch.eye(T, dtype=torch.float64)[None, None]
    assert entropy(uniform).flatten().tolist() == pytest.approx([math.log(T)] * T)
    assert entropy(certain).abs().max() == 0
    assert distance(certain).abs().max() == 0
    # places 0..4: from the first one, others are 0, 1, 2, 3, 4 away
    assert distance(uniform)[0, 0].tolist() == pytest.approx([2, 1.4, 1.2, 1.4, 2])
    assert torch.equal(rollout([certain, certain]), certain[0])


def test_rollout_of_uniform_attention_becomes_uniform() -> None:
    uniform = torch.full((1, 2, T, T), 1 / T, dtype=torch.float64)
    for depth in (1, 2, 5):
        right = torch.full((T, T), (1 - 0.5**depth) / T) + 0.5**depth * torch.eye(T)
        torch.testing.assert_close(rollout([uniform] * depth)[0], right.double())


def test_padded_queries_do_not_count() -> None:
    values = torch.tensor([[[1.0, 2.0, 1e9]], [[3.0, 5.0, 7.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert over_queries(values, mask).tolist() == [1.5, 5.0]


@pytest.mark.parametrize("how", MAKE)
def test_maps_of_a_net_that_attends_uniformly(how: str) -> None:
    torch.manual_seed(0)
    blocks = [MAKE[how](), MAKE[how]()]
    with torch.no_grad():
        for block in blocks:
            packed = (
                block.qkv.weight if isinstance(block, Attention) else block.attend.in_proj_weight
            )
            packed[:D] = 0  # queries that are zero like all keys alike
            if isinstance(block, Attention):
                block.qkv.bias[:D] = 0
    _, report = _scored(blocks, "attention_maps")
    found = report["attention_maps"]
    for name in ("blocks.0", "blocks.1"):
        assert found[name].value == pytest.approx(math.log(T), rel=1e-9)
        assert found.extras["confidence"][name] == pytest.approx(1 / T)
        assert found.extras["distance"][name] == pytest.approx(1.6)
    eye, rest = 0.25 + 0.75 / T, 0.75 / T
    second = -eye * math.log(eye) - (T - 1) * rest * math.log(rest)
    assert found.extras["rollout_entropy"]["blocks.1"] == pytest.approx(second, rel=1e-9)
    assert found.direction == "diagnostic"


def test_heads_are_found_without_names() -> None:
    model = Net([Attention("fused"), Attention("by hand"), Own()]).double()
    batch = _batch()
    units = discover(model, batch, units=["blocks.0", "blocks.1", "blocks.2"])
    found = mixers(Subject(model.eval(), units, Classification(), [batch]))
    assert [(m.path, m.heads) for m in found] == [
        ("blocks.0.mix", H),
        ("blocks.1.mix", H),
        ("blocks.2.attend.out_proj", H),
    ]


class Counting(nn.Module):
    """Attention that draws, counts its calls and keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.drop, self.norm = Attention(), nn.Dropout(0.5), nn.BatchNorm1d(T)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(self.drop(self.attention(x)))


@pytest.mark.parametrize("method", BUILT_IN)
@pytest.mark.parametrize("training", [True, False])
def test_asking_whether_a_method_can_run_leaves_the_model_as_it_was(
    method: type[Method], training: bool
) -> None:
    torch.manual_seed(0)
    model = Net([Counting(), Counting()]).double().train(training)
    subject = Subject(model, discover(model, _batch()), Classification(), [_batch()])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    state = torch.get_rng_state()
    method().unmet(subject)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name])
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
