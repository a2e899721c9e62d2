"""Growth on the families of networks: every group, in every way it can grow."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neuro_morph import (
    Duplicate,
    GrowthGraph,
    GrowthGroup,
    Morpher,
    Split,
    UnitInit,
    Widen,
    ZeroFanOut,
)
from neuro_morph.testing import architectures, randomized

NAMES = sorted(architectures())
# these view a tensor with a size that they read off another, which only a real run shows
READ_SIZES = {"vit", "swin"}


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return randomized(*architectures()[name](), dtype=dtype)


def inits(graph: GrowthGraph, group: GrowthGroup) -> Iterator[Widen]:
    known: dict[str, tuple[UnitInit, int]] = {
        "free": (ZeroFanOut(), 3),
        "copy": (Split(), 2),
        "equal": (Duplicate(), group.size),
        "masked": (ZeroFanOut("masked"), 3),
    }
    for way in graph.ways(group):
        init, by = known[way]
        yield Widen(group.id, by=by, init=init)


def growable(morpher: Morpher) -> list[str]:
    return [g.id for g in morpher.graph if g.growable]


def grow_all(morpher: Morpher) -> float:
    worst = 0.0
    for name in growable(morpher):
        edit = next(inits(morpher.graph, morpher.graph[name]))
        worst = max(worst, morpher.apply(edit).relative_change or 0.0)
    return worst


def train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        sum(leaf.square().mean() for leaf in tree_leaves(model(*given))).backward()
        optimizer.step()
    optimizer.zero_grad()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_each_group_grows_by_itself_in_every_way_and_is_put_back(name: str) -> None:
    model, inputs = built(name)
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    graph, before = morpher.graph, morpher.probe()
    assert growable(morpher)
    for group in [g for g in graph if g.growable]:
        for edit in inits(graph, group):
            snapshot, held = morpher.snapshot(), state(model)
            event = morpher.apply(edit)
            assert event.relative_change is not None
            assert event.relative_change <= 1e-12, (group.id, edit.init)
            assert event.parameters_added > 0
            snapshot.restore()
            morpher._graph = graph
            after = model.state_dict()
            assert all(torch.equal(after[k], v) for k, v in held.items())
    assert all(torch.equal(v, before[k]) for k, v in morpher.probe().items())


@pytest.mark.parametrize("name", NAMES)
def test_all_groups_grow_twice_with_training_between(name: str) -> None:
    model, inputs = built(name)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    morpher = Morpher(model, optimizer, example_inputs=inputs, capture="dispatch")
    first = set(growable(morpher))
    assert grow_all(morpher) <= 1e-12
    train(model.train(), optimizer, inputs)
    assert set(growable(morpher)) >= first
    assert grow_all(morpher) <= 1e-12
    assert model.training
    before = morpher.probe()
    train(model, optimizer, inputs)
    assert any(not torch.equal(v, before[k]) for k, v in morpher.probe().items())


@pytest.mark.parametrize("name", NAMES)
def test_growth_in_single_precision_changes_less_than_a_millionth(name: str) -> None:
    model, inputs = built(name, torch.float32)
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    before = morpher.probe()
    assert grow_all(morpher) <= 1e-6
    after = morpher.probe()
    for key, old in before.items():
        assert float((after[key] - old).abs().max()) <= 5e-6 * max(1.0, float(old.abs().max()))


@pytest.mark.parametrize("name", sorted(set(NAMES) - READ_SIZES))
def test_export_and_dispatch_find_the_same_groups(name: str) -> None:
    model, inputs = built(name)
    found = [
        {
            (
                frozenset((m.name, m.dim) for m in g.members),
                g.size,
                g.unit_cost,
                tuple(graph.ways(g)),
            )
            for graph in [GrowthGraph.capture(model, inputs, capture=capture)]
            for g in graph
            if g.growable
        }
        for capture in ("export", "dispatch")
    ]
    assert found[0] == found[1]
