from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Classification, Report, Task, analyze
from layer_importance._methods import BUILT_IN

GRADIENTS = {"gradients", "parameter_gradients", "per_sample", "sampled", "exact"}
OF_GRADIENTS = sorted(
    m.name for m in BUILT_IN if m.needs & GRADIENTS and m.name != "attention_analysis"
)
OTHERS = ["block_influence", "layer_correlation", "layer_ablation", "synflow"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    """Lets no gradient pass before the block of a number; 4 is the head."""

    def __init__(self, cut: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head, self.cut = nn.Linear(8, 3), cut

    def forward(self, x: Tensor) -> Tensor:
        for place, module in enumerate([*self.blocks, self.head]):
            x = module(x.detach() if place == self.cut else x)
        return x


class Detached(Classification):
    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        return super().loss(output, labels, batch).detach()


class Mistakes(Classification):
    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        return (output.argmax(1) != labels).float()


def run(net: nn.Module, task: Task, methods: Any) -> Report:
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(8, 8, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(3)
    ]
    return analyze(net, data, methods=methods, task=task)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("task", [Detached(), Mistakes()])
def test_a_loss_without_a_gradient_leaves_the_methods_that_need_none(task: Task) -> None:
    report = run(Net(), task, OF_GRADIENTS + OTHERS)
    assert list(report.methods) == OTHERS
    for name in OF_GRADIENTS:
        assert "the loss has none: it is detached" in report.reasons[name]


def test_the_choice_of_methods_does_without_gradients_too() -> None:
    report = run(Net(), Mistakes(), "auto")
    assert {"block_influence", "layer_ablation"} <= set(report.methods)
    assert not set(OF_GRADIENTS) & set(report.methods)
    assert "it is detached" in report.reasons["skip_attribution"]


@pytest.mark.parametrize("name", [*OF_GRADIENTS, "synflow"])
@pytest.mark.parametrize("cut", [2, 4])
def test_units_that_no_gradient_reaches_are_missing_and_not_zero(name: str, cut: int) -> None:
    scores = run(Net(cut), Classification(), [name])[name]
    assert set(scores) == {f"blocks.{place}" for place in range(cut, 4)}
    assert set(scores.missing) == {f"blocks.{place}" for place in range(cut)}


def test_a_unit_that_the_loss_does_not_depend_on_has_a_score_of_zero() -> None:
    class Deaf(Net):
        def forward(self, x: Tensor) -> Tensor:
            for place, block in enumerate(self.blocks):
                x = x + 0 * block(x).detach() if place == 1 else block(x)
            out: Tensor = self.head(x)
            return out

    scores = run(Deaf(), Classification(), ["skip_attribution"])["skip_attribution"]
    assert scores["blocks.1"].value == 0


def test_a_unit_that_adds_nothing_has_a_gradient_of_zero_all_the_same() -> None:
    net = Net()
    for parameter in net.blocks[1].parameters():
        nn.init.zeros_(parameter)
    assert (
        run(net, Classification(), ["skip_attribution"])["skip_attribution"]["blocks.1"].value == 0
    )


def test_looking_where_gradients_go_leaves_no_trace() -> None:
    net = Net()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    run(net, Mistakes(), ["skip_attribution", "block_influence"])
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    assert all(p.grad is None for p in net.blocks.parameters())
    assert all(not m._forward_hooks for m in net.modules())


def test_gradients_reach_frozen_models() -> None:
    net = Net().requires_grad_(False)
    assert len(run(net, Classification(), ["skip_attribution"])["skip_attribution"]) == 4
