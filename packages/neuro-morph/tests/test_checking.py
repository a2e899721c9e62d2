"""What shows that a network no longer computes what it did, and what a look at it leaves behind."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from neuro_morph import (
    Budget,
    Deepen,
    Duplicate,
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
)
from neuro_morph._checking import change_between, outputs_of
from neuro_morph._inputs import ExampleInputs

Forward = Callable[..., Any]


class Own(nn.Module):
    """A module with a forward of one's own."""

    def __init__(self, forward: Forward, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.own = forward

    def forward(self, x: Tensor) -> Any:
        return self.own(self, x)


@dataclass
class Answer:
    logits: Tensor
    note: str = ""


class Plain:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def two_layers(forward: Forward, **parts: Any) -> nn.Module:
    torch.manual_seed(0)
    return Own(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3), **parts).double()


def wide(rows: int = 5) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(1)).double()


def head(s: Any, x: Tensor) -> Tensor:
    return s.b(s.a(x).tanh())


def morpher_of(model: nn.Module, x: Any, **settings: Any) -> Morpher:
    return Morpher(model, example_inputs=x, capture="dispatch", **settings)


WRAPS: dict[str, Callable[[Tensor], Any]] = {
    "dataclass": Answer,
    "distribution": lambda x: Categorical(logits=x),
    "object": Plain,
    "list of dataclasses": lambda x: [Answer(x), Answer(2 * x)],
    "object beside a dictionary": lambda x: {"answer": Answer(x), "text": "text"},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_outputs_are_found_in_whatever_a_model_returns_them(wrap: str) -> None:
    model = two_layers(lambda s, x: WRAPS[wrap](head(s, x)))
    morpher = morpher_of(model, wide())
    assert not morpher.graph["b"].growable
    if wrap != "distribution":  # which fixes it by what it does with its logits
        assert "output" in str(morpher.graph["b"].reason)
    assert any(torch.equal(v, head(model, wide())) for v in morpher.probe().values()) or (
        wrap == "distribution"  # which normalises its logits
    )
    event = morpher.apply(Widen("a", by=2))
    assert event.relative_change is not None
    assert event.relative_change <= 1e-12


def test_a_cache_beside_the_outputs_is_no_output() -> None:
    model = two_layers(lambda s, x: {"logits": head(s, x), "cache": Plain(s.a(x))})
    assert morpher_of(model, wide()).apply(Widen("a", by=2)).decision == "committed"


@pytest.mark.parametrize("give", [lambda x: None, lambda x: "text", lambda x: x.argmax(-1)])
def test_a_model_whose_outputs_cannot_be_checked_is_refused(give: Any) -> None:
    model = two_layers(lambda s, x: give(head(s, x)))
    for capture in ("dispatch", "auto"):
        with pytest.raises(GrowthRefusedError, match="no tensors that can be checked"):
            GrowthGraph.capture(model, wide(), capture=capture)
    with pytest.raises(GrowthRefusedError, match="no tensors that can be checked"):
        outputs_of(model, ExampleInputs.of(wide()))


def test_nothing_is_not_the_same_as_nothing() -> None:
    assert not change_between({}, {}).within(1.0)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6])
def test_a_change_is_relative_to_what_the_output_was(scale: float) -> None:
    old = {"": torch.tensor([0.5, -1.0]) * scale}
    change = change_between(old, {"": torch.tensor([0.5, -0.9]) * scale})
    assert change.relative == pytest.approx(0.1, rel=1e-5)
    assert change.absolute == pytest.approx(0.1 * scale, rel=1e-5)
    assert not change.within(0.05)
    zeros = {"": torch.zeros(2)}
    assert change_between(zeros, {"": torch.full((2,), scale)}).relative == pytest.approx(scale)


def mean_square(s: Any, x: Tensor) -> Tensor:
    h = s.a(x).unflatten(-1, (2, -1))
    return 1e-6 * s.b((h / h.square().mean(-1, keepdim=True).sqrt()).flatten(1))


def test_small_outputs_are_checked_as_large_ones() -> None:
    torch.manual_seed(0)
    model, x = Own(mean_square, a=nn.Linear(4, 8), b=nn.Linear(8, 3)), torch.randn(16, 4)
    morpher, before = morpher_of(model, x), model(x).detach()
    for group in [g.id for g in morpher.graph if g.growable]:
        for init in (Split(), Duplicate()):
            try:
                morpher.apply(Widen(group, by=morpher.graph[group].size, init=init))
            except GrowthRefusedError:
                continue
            assert float((model(x).detach() - before).abs().max()) <= 1e-5 * float(
                before.abs().max()
            )


def centred(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h - h.mean(-1, keepdim=True) if s.training else h)


def with_aux(s: Any, x: Tensor) -> Tensor:
    h = s.a(x).relu()
    return s.b(h) + 0.3 * s.aux(h) if s.training else s.b(h)


def with_noise(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h + 0.1 * torch.randn(8, dtype=h.dtype) if s.training else h)


def with_centre(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    if s.training:
        s.centre.mul_(0.9).add_(0.1 * h.detach().mean(0))
    return s.b(h)


ONLY_IN_TRAINING: dict[str, Callable[[], nn.Module]] = {
    "centred": lambda: two_layers(centred),
    "auxiliary head": lambda: two_layers(with_aux, aux=nn.Linear(8, 3)),
    "noise of a size in the code": lambda: two_layers(with_noise),
    "a centre kept": lambda: two_layers(with_centre, centre=nn.Buffer(torch.zeros(8))),
}


@pytest.mark.parametrize("name", ONLY_IN_TRAINING)
def test_what_happens_only_in_training_is_checked_too(name: str) -> None:
    model, x = ONLY_IN_TRAINING[name]().train(), wide()
    torch.manual_seed(1)
    before, held = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    morpher = morpher_of(model, x)
    with pytest.raises(GrowthRefusedError, match="in training|was not used"):
        morpher.apply(Widen("a", by=8))
    assert all(torch.equal(v, held[k]) for k, v in model.state_dict().items())
    torch.manual_seed(1)
    assert torch.equal(model(x), before)


def test_what_stays_the_same_in_training_grows() -> None:
    morpher = morpher_of(two_layers(centred), wide())
    assert morpher.apply(Widen("a", by=8, init=Duplicate())).decision == "committed"


DROPS: dict[str, Forward] = {
    "dropout": lambda s, x: s.b(F.dropout(s.a(x).tanh(), 0.5, s.training)),
    "noise": lambda s, x: (lambda h: s.b(h + torch.randn_like(h) if s.training else h))(s.a(x)),
    "stochastic depth": lambda s, x: (
        lambda h: s.b(h * (0.7 + torch.rand(len(h), 1)).floor().double() if s.training else h)
    )(s.a(x)),
    "layers left out": lambda s, x: s.b(
        s.a(x) if not s.training or random.random() < 0.5 else s.a(x) * np.random.rand()  # noqa: NPY002
    ),
    "labels needed": lambda s, x: s.missing if s.training else head(s, x),
}


@pytest.mark.parametrize("name", DROPS)
def test_what_is_random_in_training_grows(name: str) -> None:
    model = two_layers(DROPS[name])
    assert morpher_of(model, wide()).apply(Widen("a", by=3, init=Split())).decision == "committed"


def test_dropout_does_not_hide_a_change_in_training() -> None:
    def dropped(s: Any, x: Tensor) -> Tensor:
        return centred(s, F.dropout(x, 0.5, s.training))

    with pytest.raises(GrowthRefusedError, match="in training"):
        morpher_of(two_layers(dropped), wide()).apply(Widen("a", by=8))


def numpy_state() -> list[int]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    return [*state["state"]["key"].tolist(), state["state"]["pos"]]


class Moving(nn.Module):
    """Counts its runs in every way there is, and draws from every generator there is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.n, self.seen, self.by = 0, [], {"n": 0}
        self.plain, self.count = torch.zeros(1), nn.Buffer(torch.zeros(1))
        self.array, self.generator = np.zeros(1), torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        self.n, self.by["n"] = self.n + 1, self.n
        self.seen.append(self.n)
        self.plain += 1
        self.count = self.count + 1
        self.array += 1
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002
        self.last = 0 * (noise + torch.rand(1, generator=self.generator))
        return self.b(self.a(x).relu())

    def held(self) -> list[Any]:
        numbers = self.n, list(self.seen), dict(self.by), hasattr(self, "last")
        tensors = self.plain, self.count, torch.from_numpy(self.array), self.generator.get_state()
        everywhere = torch.get_rng_state().tolist(), random.getstate(), numpy_state()
        return [*numbers, *(t.tolist() for t in tensors), *everywhere, id(self.count)]


def refused(morpher: Morpher) -> None:
    with pytest.raises(GrowthRefusedError):
        morpher.apply(Widen("b", by=1))


LOOKS: dict[str, Callable[[Morpher], Any]] = {
    "capture": lambda m: m.graph,
    "export": lambda m: GrowthGraph.capture(m.model, m.inputs, capture="auto"),
    "probe": lambda m: m.probe(),
    "counting": lambda m: Budget().measure(m),
    "timing": lambda m: Budget(latency_s=1.0).measure(m),
    "a refused edit": refused,
    "an edit": lambda m: m.apply(Widen("a", by=2)),
    "a new layer": lambda m: m.apply(Deepen("a", block="residual")),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_leaves_everything_as_it_was(look: str) -> None:
    model = Moving()
    morpher = morpher_of(model, torch.randn(2, 4))
    before = model.held()
    LOOKS[look](morpher)
    assert model.held() == before


class OwnAttention(nn.Module):
    """Attention written out, whose heads are a number or a size it reads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.h, self.kind = 2, kind
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.h, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.kind == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "fused, scaled":
            y = F.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
        else:
            y = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.table, self.attention = nn.Embedding(7, 8), OwnAttention(kind)

    def forward(self, ids: Tensor) -> Tensor:
        return self.attention(self.table(ids))


ALIKE: dict[str, Callable[[], Tensor]] = {
    "one token": lambda: torch.zeros(1, 1, dtype=torch.long),
    "one token in each of two rows": lambda: torch.tensor([[1], [2]]),
    "equal tokens": lambda: torch.zeros(1, 6, dtype=torch.long),
}


@pytest.mark.parametrize("kind", ["fused", "fused, scaled", "written out"])
@pytest.mark.parametrize("alike", ALIKE)
def test_inputs_that_are_all_alike_hide_nothing(alike: str, kind: str) -> None:
    grown = 0
    for init, by in ((ZeroFanOut(), 2), (Split(), 1), (Duplicate(), 0)):
        torch.manual_seed(0)
        model, ids = Tokens(kind).double(), torch.randint(0, 7, (3, 6))
        before = model(ids).detach()
        morpher = morpher_of(model, ALIKE[alike]())
        for group in [g.id for g in morpher.graph if g.growable]:
            try:
                morpher.apply(Widen(group, by=by or morpher.graph[group].size, init=init))
                grown += 1
            except (GrowthRefusedError, KeyError):  # two groups may have become one
                continue
            assert float((model(ids).detach() - before).abs().max()) <= 1e-12, group
        assert model.attention.h >= 2
    assert grown >= 6


def test_numbers_that_are_all_alike_hide_nothing() -> None:
    torch.manual_seed(0)
    model, x = OwnAttention("written out").double(), torch.randn(3, 6, 8).double()
    before, morpher = model(x).detach(), morpher_of(model, torch.ones(1, 6, 8).double())
    for group in [g.id for g in morpher.graph if g.growable]:
        morpher.apply(Widen(group, by=2))
        assert float((model(x).detach() - before).abs().max()) <= 1e-12


class MeanSquare(nn.Module):
    """A norm whose epsilon stands beside a number of the same value."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.momentum, self.names = 1e-3, names
        for name in names:
            setattr(self, name, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), eps=getattr(self, self.names[0])) * (1 + self.momentum)


@pytest.mark.parametrize(
    "names, left",
    [
        (("eps",), ()),
        (("variance_epsilon",), ()),
        (("small", "other"), ("other",)),
        (("offset",), ()),
    ],
)
def test_an_epsilon_is_told_from_other_numbers_and_noted(
    names: tuple[str, ...], left: tuple[str, ...]
) -> None:
    norm = MeanSquare(*names)
    model = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 3)).double()
    event = morpher_of(model, wide()).apply(Widen("0", by=2))
    assert [getattr(norm, name) for name in (*left, "momentum")] == [1e-3] * (len(left) + 1)
    assert event.attributes == (("1", names[0], 1e-3, pytest.approx(1e-3 * 8 / 10)),)


class Experts(nn.Module):
    """One of two experts, by what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(4, 8), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(self.experts[int(x[0, 0] > 0)](h))


def test_what_the_inputs_do_not_reach_keeps_a_group_from_growing() -> None:
    model, x = Experts().double(), -torch.ones(2, 4).double()
    morpher = morpher_of(model, x)
    assert "'experts.1.bias' was not used" in str(morpher.graph["i"].reason)
    with pytest.raises(GrowthRefusedError, match="was not used"):
        morpher.apply(Widen("i", by=2))


def test_what_is_never_used_can_be_named() -> None:
    model = two_layers(head, idle=nn.Linear(8, 2))
    assert not morpher_of(model, wide()).graph["a"].growable
    for name in ("idle", "idle.weight"):
        graph = morpher_of(model, wide(), unused=[name, "idle.bias"]).graph
        assert graph["a"].growable
    with pytest.raises(ValueError, match="unused must name parameters"):
        assert morpher_of(model, wide(), unused=["nothing"]).graph


def test_a_layer_of_one_unit_is_listed_with_its_reason() -> None:
    graph = GrowthGraph.capture(
        nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2)), torch.ones(1, 4)
    )
    assert graph["0"].size == 1
    assert "one unit" in str(graph["0"].reason)
    assert "one unit" in graph.report()


def test_units_that_only_a_frozen_layer_would_read_are_refused() -> None:
    model = two_layers(head)
    model.b.requires_grad_(False)
    with pytest.raises(GrowthRefusedError, match=r"'b\.weight' is frozen"):
        morpher_of(model, wide()).apply(Widen("a", by=2))
    assert morpher_of(model, wide()).apply(Widen("a", by=2, init=Split())).decision == "committed"


@pytest.mark.parametrize("examples", [3, 8, 40])
def test_the_further_runs_take_a_few_examples_and_all_where_a_few_cannot_be_run(
    examples: int,
) -> None:
    class Counting(nn.Module):
        def __init__(self, whole: bool) -> None:
            super().__init__()
            self.layer, self.whole = nn.Linear(4, 2), whole

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.whole and len(x) != examples:
                raise ValueError("other examples")
            seen.append(len(x))
            return self.layer(x)

    for whole in (False, True):
        seen: list[int] = []
        found = outputs_of(Counting(whole), ExampleInputs.of(torch.randn(examples, 4)))
        few = examples if whole else min(examples, 8)
        assert seen == [examples, few, few]
        assert [len(value) for value in found.values()] == seen
