"""The sweep: what it tells is true of every model, what it costs is counted, nothing stays."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from layer_importance import Classification, MeanMethod, Subject, UnitEvent, analyze, discover
from layer_importance._methods import BUILT_IN
from layer_importance._methods.fisher_information import EmpiricalFisher, FisherInformation
from layer_importance._methods.gradient_based import GradientBased
from layer_importance._methods.skip_attribution import SkipAttribution
from layer_importance._methods.snip import Snip
from layer_importance._preserve import preserved
from layer_importance._sweep import Sweep

N, T, D = 6, 5, 8


class Heard(MeanMethod):
    """Keeps gradients, to be compared with autograd's."""

    name = "heard"
    needs = frozenset({"data", "labels", "gradients"})

    def __init__(self) -> None:
        super().__init__()
        self.x: dict[str, Tensor] = {}
        self.y: dict[str, Tensor] = {}
        self.values_of: dict[str, tuple[Tensor, Tensor]] = {}

    def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
        assert event.x_grad is not None
        assert event.y_grad is not None
        self.x[event.unit.name] = event.x_grad.clone()
        self.y[event.unit.name] = event.y_grad.clone()
        self.values_of[event.unit.name] = event.x.clone(), event.y.clone()
        return (event.x_grad.flatten(1).norm(dim=1),)


class Block(nn.Module):
    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        self.act = nn.ReLU(inplace=inplace)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        if not self.inplace:
            return x + self.down(self.act(self.up(x)))
        y = self.down(self.act(self.up(self.act(x))))  # x is written into first, then y
        y += x
        return self.act(y)


class Net(nn.Module):
    """Blocks in a row behind a stem; `around` may wrap the call of a block."""

    def __init__(
        self,
        blocks: list[nn.Module],
        around: Callable[[nn.Module, Tensor], Tensor] = lambda block, x: block(x),
    ) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, D), nn.Linear(D, 4)
        self.blocks = nn.ModuleList(blocks)
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.around(block, x)
        return self.head(x.mean(1) if x.ndim > 2 else x)


class Swapped(Net):
    """Samples in the second dimension inside."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(0))


def _again(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=False)


def _net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    blocks: list[nn.Module] = [Block(inplace=kind == "in place") for _ in range(3)]
    if kind == "repeated":
        blocks = [blocks[0]] * 3
    if kind == "checkpointed":
        return Net(blocks, _again).double()
    return (Swapped(blocks) if kind == "swapped" else Net(blocks)).double()


KINDS = ("plain", "in place", "checkpointed", "swapped", "frozen", "repeated")


def _batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(N, T, 3, dtype=torch.float64), torch.arange(N) % 4


def _paths(kind: str) -> list[str]:
    return ["blocks.0"] if kind == "repeated" else [f"blocks.{i}" for i in range(3)]


def _subject(model: nn.Module, kind: str = "plain") -> Subject:
    batch = _batch()
    units = discover(model, batch, units=_paths(kind))
    return Subject(model, units, Classification(), [batch])


def _autograd(model: nn.Module, kind: str) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Inputs, outputs and their gradients by hand, on a copy that writes nothing in place."""
    twin = copy.deepcopy(model).requires_grad_(True)
    x, labels = _batch()
    x = twin.stem(x)
    x = x.transpose(0, 1) if kind == "swapped" else x
    found = []
    for block in twin.blocks:
        values = x.detach().clone()
        x.retain_grad()
        y = x + block.down(torch.relu(block.up(x)))
        if block.inplace:
            positive = torch.relu(x)
            y = torch.relu(positive + block.down(torch.relu(block.up(positive))))
        y.retain_grad()
        found.append((values, x, y))
        x = y
    pooled = x.mean(0 if kind == "swapped" else 1)
    nn.functional.cross_entropy(twin.head(pooled), labels, reduction="sum").backward()
    axis = 1 if kind == "swapped" else 0
    return [
        tuple(t.movedim(axis, 0) for t in (v, y.detach(), x.grad, y.grad))  # type: ignore[misc]
        for v, x, y in found
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_streams_and_gradients_are_autograds(kind: str) -> None:
    model = _net(kind).requires_grad_(kind != "frozen")
    right = _autograd(model, kind)
    heard = Heard()
    with preserved(model, gradients=True), Sweep(_subject(model, kind), [heard]) as sweep:
        sweep.run(_batch())
    assert len(heard.x) == 3
    for name, (x, y, x_grad, y_grad) in zip(heard.x, right[::-1], strict=True):
        torch.testing.assert_close(heard.values_of[name], (x, y))
        torch.testing.assert_close(heard.x[name], x_grad, msg=f"x {name}")
        torch.testing.assert_close(heard.y[name], y_grad)


def test_a_unit_that_nothing_depends_on_has_zero_gradients() -> None:
    torch.manual_seed(0)

    class Deaf(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for number, block in enumerate(self.blocks):
                x = x + 0 * block(x).detach() if number == 1 else block(x)
            return self.head(x.mean(1))

    model = Deaf([Block() for _ in range(3)]).double()
    heard = Heard()
    with preserved(model, gradients=True), Sweep(_subject(model), [heard]) as sweep:
        sweep.run(_batch())
    assert not heard.y["blocks.1"].any()
    assert heard.x["blocks.0"].any()
    report = analyze(
        model, [_batch()], methods=["empirical_fisher", "gradient_based"], units=_paths("")
    )
    assert report["empirical_fisher"]["blocks.1"].value == 0
    assert report["gradient_based"]["blocks.1"].value == 0


def test_what_runs_without_gradients_is_missing_with_the_reason() -> None:
    def no_grad(block: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            return block(x)

    model = Net([Block() for _ in range(2)], no_grad).double()
    report = analyze(model, [_batch()], methods=["skip_attribution", "block_influence"])
    assert len(report["block_influence"].scores) == 2
    assert report["skip_attribution"].scores == {}
    assert "without gradients" in report["skip_attribution"].missing["blocks.0"]


def test_reentrant_checkpointing_is_refused_by_name() -> None:
    def again(block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x.requires_grad_() if x.is_leaf else x, use_reentrant=True)

    model = Net([Block() for _ in range(2)], again).double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        analyze(model, [_batch()], methods=["skip_attribution"], units=["blocks.0", "blocks.1"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["skip_attribution", "empirical_fisher"])
def test_checkpointing_changes_nothing_where_a_loop_over_samples_goes_back(method: str) -> None:
    def again(block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=False)

    found = []
    for through in (again, lambda block, x: block(x)):
        torch.manual_seed(0)
        blocks = [Block() for _ in range(2)]
        for block in blocks:
            parametrizations.weight_norm(block.up)
        model = Net(blocks, through).double()
        units = ["blocks.0", "blocks.1"]
        report = analyze(model, [_batch()], methods=[method, "gradient_based"], units=units)
        assert any("by loop" in note for note in report.notes)
        found.append([report[method][name].value for name in units])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def _counted(model: nn.Module) -> dict[str, int]:
    """Counts forward calls of the head and backward passes through it."""
    counts = {"forward": 0, "backward": 0}

    def after(module: nn.Module, args: Any, output: Tensor) -> None:
        counts["forward"] += 1
        if output.requires_grad:
            output.register_hook(lambda grad: _add(counts))

    model.head.register_forward_hook(after)
    return counts


def _add(counts: dict[str, int]) -> None:
    counts["backward"] += 1


@pytest.mark.parametrize(
    "methods, backwards",
    [
        ([SkipAttribution], 1),
        ([SkipAttribution, GradientBased, EmpiricalFisher, Snip], 1),
        ([FisherInformation], 1),
        ([SkipAttribution, GradientBased, EmpiricalFisher, Snip, FisherInformation], 2),
    ],
)
def test_all_methods_share_one_forward_and_as_few_backward_passes_as_there_are_labels(
    methods: list[Any], backwards: int
) -> None:
    model = _net("plain")
    subject = _subject(model)
    assert subject.layouts
    with preserved(model, gradients=True):
        with Sweep(subject, [method() for method in methods]) as sweep:
            counts = _counted(model)
            for _ in range(3):
                sweep.run(_batch())
        assert counts == {"forward": 3, "backward": 3 * backwards}
        assert sweep.passes == (1, backwards)


def test_forward_methods_alone_need_no_backward_pass() -> None:
    report = analyze(_net("plain"), [_batch()], methods=["block_influence"])
    assert report.passes == (1, 0)


def test_nothing_before_the_first_unit_and_no_parameter_gets_a_gradient_in_vain() -> None:
    model = _net("plain")
    seen: list[Any] = []
    with preserved(model, gradients=True):
        with Sweep(_subject(model), [SkipAttribution(), EmpiricalFisher()]) as sweep:
            assert not any(p.requires_grad for p in model.parameters())
            handle = model.stem.register_forward_hook(
                lambda module, args, output: seen.append(output.requires_grad)
            )
            sweep.run(_batch())
            handle.remove()
        assert all(p.requires_grad for p in model.parameters())
    assert seen == [False]
    assert all(p.grad is None for p in model.parameters())


def test_sampled_passes_leave_the_gradients_of_parameters_alone() -> None:
    model = _net("plain")
    both, alone = Snip(), Snip()
    options: dict[str, Any] = {"units": _paths("")}
    report = analyze(model, [_batch()], methods=[both, FisherInformation()], **options)
    right = analyze(model, [_batch()], methods=[alone], **options)
    for name, score in right["snip"].items():
        assert report["snip"][name].value == score.value


def _print(model: nn.Module) -> list[Any]:
    """All there is to change about a model."""
    return [
        [(name, value.clone()) for name, value in model.state_dict().items()],
        [(name, p.requires_grad, p.grad) for name, p in model.named_parameters()],
        [
            (name, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), set(m.__dict__))
            for name, m in model.named_modules()
        ],
        torch.get_rng_state().clone(),
    ]


def _same(a: list[Any], b: list[Any]) -> bool:
    values = all(n == m and torch.equal(v, w) for (n, v), (m, w) in zip(a[0], b[0], strict=True))
    return values and a[1:3] == b[1:3] and torch.equal(a[3], b[3])


@pytest.mark.parametrize("kind", ["plain", "in place", "attention"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(kind: str, fails: bool) -> None:
    model = _net(kind) if kind != "attention" else _attention_net()
    model.train()
    model.head.weight.requires_grad_(False)

    class Failing(Heard):
        def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
            if fails:
                raise ArithmeticError("a hook went wrong")
            return super().values(event)

    methods = [Failing(), *(method() for method in BUILT_IN if issubclass(method, MeanMethod))]
    batch = _batch()
    before = _print(model)
    for _ in range(2):
        if fails:
            with pytest.raises(ArithmeticError, match="a hook went wrong"):
                analyze(model, [batch], methods=methods, units=_paths(""))
        else:
            analyze(model, [batch], methods=methods, units=_paths(""))
        assert _same(before, _print(model))


class Careless(nn.Module):
    """Writes into its weight, its buffers, and makes new ones as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(9, D, max_norm=0.5)
        self.register_buffer("late", None)
        self.register_buffer("log", torch.zeros(0))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(D, 3)

    def forward(self, ids: Tensor) -> Tensor:
        self.late = torch.ones(ids.shape[1])
        self.register_buffer("made", torch.ones(2), persistent=False)
        self.log.data = torch.cat([self.log, torch.ones(1)])
        x = self.rows(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def test_a_careless_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model, batch = Careless(), (torch.randint(0, 9, (N, T)), torch.arange(N) % 3)
    before, log, hidden = _print(model), model.log, set(model._non_persistent_buffers_set)
    analyze(model, [batch], methods=["skip_attribution", "empirical_fisher"])
    assert _same(before, _print(model))
    assert model.log is log
    assert model.late is None
    assert (len(log), hidden) == (0, model._non_persistent_buffers_set)
    assert not hasattr(model, "made")


def test_what_cannot_be_given_back_keeps_nothing_else_from_it() -> None:
    model = nn.Sequential(nn.Embedding(4, D, max_norm=1.0), nn.Linear(D, D)).train()
    with pytest.raises(RuntimeError, match="incompatible tensor type"):  # noqa: SIM117, PT012
        with preserved(model, gradients=True):
            model[1].register_forward_hook(lambda *_: None)
            model[0].weight.data = model[0].weight.data[:, :2].to("meta")
    assert model.training
    assert not model[1]._forward_hooks
    assert torch.backends.mha.get_fastpath_enabled()


def _attention_net() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.TransformerEncoderLayer(D, 2, 16, batch_first=True) for _ in range(3)
    ]
    return Net(layers).double()


def test_nothing_of_a_batch_outlives_it() -> None:
    model = _attention_net()
    methods = [EmpiricalFisher(), FisherInformation(), SkipAttribution()]
    kept: list[Any] = []

    def after(module: nn.Module, args: Any, output: Tensor) -> None:
        kept.append(weakref.ref(output))

    with preserved(model, gradients=True), Sweep(_subject(model), methods) as sweep:
        for layer in model.blocks:
            layer.linear1.register_forward_hook(after)
        sweep.run(_batch())
        gc.collect()
        assert kept
        assert all(reference() is None for reference in kept)


def test_state_does_not_grow_with_batches() -> None:
    model, sizes = _net("plain"), []
    for count in (1, 5):
        methods = [EmpiricalFisher(), GradientBased(), SkipAttribution(), Snip()]
        analyze(model, [_batch()] * count, methods=methods, units=_paths(""))
        states = [state for method in methods for state in method.state().values()]
        assert all(state.dtype == torch.float64 for state in states)
        sizes.append(sum(state.numel() for state in states))
    assert sizes[0] == sizes[1]


class Pair(nn.Module):
    """An encoder, and a decoder that reads all of it in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Block() for _ in range(2))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(D, 2, 16, batch_first=True) for _ in range(2)
        )
        self.stem, self.head = nn.Linear(3, D), nn.Linear(D, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.stem(x)
        y = memory[:, :2].flip(1)
        for block in self.encoder:
            memory = block(memory)
        for layer in self.decoder:
            y = layer(y, memory)
        return self.head(y.mean(1))


def test_two_towers_are_heard_in_one_pass() -> None:
    torch.manual_seed(0)
    model = Pair().double()
    batch = _batch()
    names = ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]
    report = analyze(model, [batch], methods=["empirical_fisher"], units=names)
    assert report.passes == (1, 1)
    model.eval()
    losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    for name in names:
        parameters = list(model.get_submodule(name).parameters())
        squares = [
            sum(g.square().sum() for g in torch.autograd.grad(loss, parameters, retain_graph=True))
            for loss in losses
        ]
        right = float(torch.stack(squares).mean())  # type: ignore[arg-type]
        assert report["empirical_fisher"][name].value == pytest.approx(right, rel=1e-9)


def test_attention_gives_the_same_answer_while_it_is_opened() -> None:
    model = _attention_net().eval()
    right = model(_batch()[0])
    got: list[Tensor] = []
    with preserved(model, gradients=True), Sweep(_subject(model), [Heard()]):
        got.append(model(_batch()[0]))
    torch.testing.assert_close(got[0], right)
