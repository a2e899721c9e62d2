from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    Duplicate,
    GrowthGraph,
    GrowthRefusedError,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
)

INITS = {"free": (ZeroFanOut(), 3), "copy": (Split(), 3), "equal": (Duplicate(), None)}


def growable(model: nn.Module, inputs: Any, way: str) -> list[tuple[str, int]]:
    graph = GrowthGraph.capture(model, inputs)
    return [(g.id, g.size) for g in graph if g.growable and way in graph.ways(g)]


@pytest.mark.parametrize("way", sorted(INITS))
def test_every_group_grows_and_the_network_computes_what_it_did(
    net: tuple[nn.Module, Any], way: str
) -> None:
    model, inputs = net
    init, by = INITS[way]
    groups = growable(model, inputs, way)
    for name, size in groups:
        morpher = Morpher(model, example_inputs=inputs)
        event = morpher.apply(Widen(name, by=by or size, init=init))
        assert event.relative_change is not None
        assert event.relative_change <= 1e-12
        assert (
            event.parameters_added
            == sum(p.numel() for p in model.parameters()) - event.parameters_before
        )
        assert event.parameters_added > 0
    assert groups or way != "free"


def test_all_groups_grow_one_after_another_and_then_again(net: tuple[nn.Module, Any]) -> None:
    model, inputs = net
    morpher = Morpher(model, example_inputs=inputs)
    before = morpher.probe()
    for _ in range(2):
        for group in [g for g in morpher.graph if "free" in morpher.graph.ways(g)]:
            morpher.apply(Widen(group.id, by=2))
    change = max(float((before[k] - v).abs().max()) for k, v in morpher.probe().items())
    assert change <= 1e-12 * max(float(v.abs().max()) for v in before.values()) + 1e-12


def test_both_ways_to_look_find_the_same_groups(net: tuple[nn.Module, Any]) -> None:
    model, inputs = net
    found = [
        [
            (
                frozenset((m.name, m.dim) for m in g.members),
                g.size,
                g.unit_cost,
                tuple(graph.ways(g)),
            )
            for g in graph
            if g.growable
        ]
        for graph in (
            GrowthGraph.capture(model, inputs, capture="export"),
            GrowthGraph.capture(model, inputs, capture="dispatch"),
        )
    ]
    assert {f[:3] for f in found[0]} == {f[:3] for f in found[1]}


def test_a_unit_costs_what_it_is_said_to(net: tuple[nn.Module, Any]) -> None:
    model, inputs = net
    for name, _ in growable(model, inputs, "free"):
        morpher = Morpher(model, example_inputs=inputs)
        cost = morpher.graph[name].unit_cost
        assert morpher.apply(Widen(name, by=1)).parameters_added == cost


def test_the_widths_that_modules_state_follow_their_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    Morpher(model, example_inputs=torch.randn(2, 3, 2, 2)).apply(Widen("0", by=2))
    assert (model[0].out_channels, model[1].num_features, model[3].in_features) == (6, 6, 24)


def test_a_group_that_cannot_grow_is_refused_with_its_reason() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    morpher = Morpher(model, example_inputs=torch.randn(2, 3))
    with pytest.raises(GrowthRefusedError, match="the model's output"):
        morpher.apply(Widen("2", by=1))
    with pytest.raises(KeyError, match="group must be one of '0'"):
        morpher.apply(Widen("nothing", by=1))


def test_a_softmax_over_units_refuses_copies_and_new_units_alike() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 2))
    graph = GrowthGraph.capture(model, torch.randn(2, 3))
    assert not graph["0"].growable
    assert "compete" in str(graph["0"].reason)


def test_equal_twins_never_part_and_uneven_ones_do() -> None:
    for share, parts in ((0.5, False), (0.3, True)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x = torch.randn(16, 3).double()
        split = Split(share=share, parents=(1,))
        Morpher(model, optimizer, example_inputs=x).apply(Widen("0", by=1, init=split))
        for _ in range(20):
            optimizer.zero_grad()
            (model(x) - x[:, :1] * x[:, 1:2]).square().mean().backward()
            optimizer.step()
        gap = float((model[0].weight[1] - model[0].weight[4]).detach().abs().max())
        assert (gap > 1e-4) is parts
