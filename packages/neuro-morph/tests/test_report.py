"""What a growth graph says of itself, and what refusals say can be done instead."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    Duplicate,
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    Widen,
    ZeroFanOut,
)


class PostNorm(nn.Module):
    """A stream that is normalised after each sum."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.block, self.again, self.out = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.into(x))
        out: Tensor = self.out(self.again(h + self.block(h).relu()))
        return out


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()


def graph_of(model: nn.Module) -> GrowthGraph:
    return GrowthGraph.capture(model.double(), X, capture="dispatch")


@pytest.mark.parametrize(
    "make, told",
    [
        (mlp, "free is init=ZeroFanOut(), copy is init=Split(), equal is init=Duplicate()"),
        (PostNorm, "equal is init=Duplicate(), masked is init=ZeroFanOut('masked')"),
    ],
)
def test_the_report_maps_its_ways_to_what_they_are_asked_for_by(make: Any, told: str) -> None:
    lines = graph_of(make()).report().splitlines()
    assert lines[-2] == told
    assert lines[-1].endswith("of the parameters are in a group that can grow")


def test_what_nothing_grows_in_has_no_ways_to_tell() -> None:
    report = graph_of(nn.Linear(4, 2)).report()
    assert "init=" not in report


def test_a_way_that_is_refused_names_those_that_are_not_and_they_work() -> None:
    torch.manual_seed(0)
    model = PostNorm().double()
    morpher = Morpher(model, example_inputs=X, capture="dispatch")
    with pytest.raises(GrowthRefusedError) as refused:
        morpher.apply(Widen("into", by=6))
    ways = re.findall(r"init=(\w+\(.*?\))", str(refused.value))
    assert str(refused.value).endswith("can do it")
    assert ways == ["Duplicate()", "ZeroFanOut('masked')"]
    want = model(X).detach()
    for init in (Duplicate(), ZeroFanOut("masked")):
        morpher.apply(Widen("into", by=morpher.graph["into"].size, init=init))
    assert (model(X) - want).abs().max() <= 1e-12 * want.abs().max()


def test_a_graph_shows_how_much_of_it_can_grow() -> None:
    shown = repr(graph_of(mlp()))
    assert re.fullmatch(
        r"<GrowthGraph: 1 of 3 groups can grow, .*% of the .*; see report\(\)>", shown
    )


@pytest.mark.parametrize(
    "name, match",
    [
        ("up", "must be one that can grow, and the model has none: no rule .*; got 'up'"),
        ("other", "must be one that can grow, and the model has none: no rule .*; got 'other'"),
    ],
)
@pytest.mark.parametrize("wanted", [lambda r, n: r.apply(Widen(n, by=1)), lambda r, n: r.graph[n]])
def test_where_nothing_can_grow_the_reason_stands_in_the_place_of_the_groups(
    name: str, match: str, wanted: Callable[[Morpher, str], Any]
) -> None:
    weight_norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential()
    model.add_module("up", weight_norm(nn.Linear(4, 8)))
    model.add_module("down", weight_norm(nn.Linear(8, 2)))
    with pytest.raises(KeyError, match=match):
        wanted(Morpher(model, example_inputs=torch.ones(2, 4), capture="dispatch"), name)


def test_a_module_that_cannot_grow_says_why_among_groups_that_can() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.utils.parametrizations.weight_norm(model[4])
    graph = GrowthGraph.capture(model, torch.ones(2, 4), capture="dispatch")
    with pytest.raises(KeyError, match="must be one of '0'; got '4': no rule is known for .*'4"):
        graph["4"]
    with pytest.raises(KeyError, match="must be one of '0'; got '9'\"$"):
        graph["9"]
