"""Norms over examples whose channels are not what grows: in training they count what does."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import Duplicate, GrowthGraph, Morpher, Widen
from neuro_morph.testing import randomized


class Normed(nn.Module):
    """Two layers, and between them a norm whose input is seen in some shape."""

    def __init__(self, norm: nn.Module, *shape: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 8), norm, nn.Linear(8, 3)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.shape:
            return self.b(self.norm(h.unflatten(-1, self.shape)).flatten(-len(self.shape)).tanh())
        return self.b(self.norm(h).tanh())


TOKENS, ROWS = (6, 5, 4), (6, 4)
COUNTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tokens as channels": (lambda: Normed(nn.BatchNorm1d(5)), TOKENS),
    "tokens as channels, each example by itself": (
        lambda: Normed(nn.InstanceNorm1d(5, affine=True, track_running_stats=True)),
        TOKENS,
    ),
    "one channel": (lambda: Normed(nn.BatchNorm2d(1), 1, 1, -1), ROWS),
    "one channel, nothing kept": (
        lambda: Normed(nn.BatchNorm2d(1, track_running_stats=False), 1, 1, -1),
        ROWS,
    ),
}
APART: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "channels": (lambda: Normed(nn.BatchNorm1d(8)), ROWS),
    "channels by places": (lambda: Normed(nn.BatchNorm1d(4), -1, 2), ROWS),
    "channels, each example by itself": (
        lambda: Normed(nn.InstanceNorm1d(4, affine=True, track_running_stats=True), -1, 2),
        ROWS,
    ),
}


def built(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = (COUNTED | APART)[name]
    return randomized(make(), torch.randn(shape, generator=torch.Generator().manual_seed(1)))


def in_training(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).train()(x)


@pytest.mark.parametrize("capture", ["dispatch", "export"])
@pytest.mark.parametrize("name", COUNTED)
def test_what_a_norm_counts_in_training_grows_only_by_doubling(name: str, capture: str) -> None:
    model, x = built(name)
    graph = GrowthGraph.capture(model, x, capture=capture)
    assert graph.ways(graph["a"]) == ["equal"]
    assert "units are counted" in str(graph.refusal(graph["a"], "free"))
    before, trained = copy.deepcopy(model).eval()(x), in_training(model, x)
    morpher = Morpher(model, example_inputs=x, capture=capture)
    morpher.apply(Widen("a", by=8, init=Duplicate()))
    torch.testing.assert_close(copy.deepcopy(model).eval()(x), before)
    torch.testing.assert_close(in_training(model, x), trained)


@pytest.mark.parametrize("capture", ["dispatch", "export"])
@pytest.mark.parametrize("name", APART)
def test_what_a_norm_takes_apart_grows_freely(name: str, capture: str) -> None:
    model, x = built(name)
    trained, morpher = in_training(model, x), Morpher(model, example_inputs=x, capture=capture)
    group = next(g for g in morpher.graph if g.growable)
    assert {"free", "copy"} <= set(morpher.graph.ways(group))
    for by in (1, 3):
        morpher.apply(Widen(group.id, by=by))
    torch.testing.assert_close(in_training(model, x), trained)
