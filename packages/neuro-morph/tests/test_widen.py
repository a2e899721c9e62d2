from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    Duplicate,
    GrowthGraph,
    GrowthRefusedError,
    MaskedLayerNorm,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
)

INITS: dict[str, Any] = {
    "masked": (ZeroFanOut("masked"), 3),
    "free": (ZeroFanOut(), 3),
    "copy": (Split(), 3),
    "equal": (Duplicate(), None),
}


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


def test_new_channels_of_a_batch_norm_come_out_normalised() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    ).double()
    x = 3 + 2 * torch.randn(8, 3, 6, 6).double()
    for _ in range(20):
        model(x)
    old = model[1].running_mean.clone()
    Morpher(model, example_inputs=x).apply(Widen("0", by=3))
    assert torch.equal(model[1].running_mean[:4], old)
    units = model.eval()[:2](x)[:, 4:].transpose(0, 1).flatten(1)
    scale = model[1].weight[4:].detach()
    assert torch.allclose(units.mean(1), torch.zeros(3).double(), atol=1e-6)
    assert torch.allclose(units.std(1), scale, rtol=1e-3)


class PostNorm(nn.Module):
    """A stream that is normalised after each sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch = nn.Linear(3, 6), nn.Linear(6, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.head(self.norm(x + self.branch(x).tanh()))


def test_a_stream_normalised_after_its_sums_grows_by_any_number_with_masks() -> None:
    torch.manual_seed(0)
    model, x = PostNorm().double(), torch.randn(5, 3).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    morpher = Morpher(model, example_inputs=x)
    group = morpher.graph["first"]
    assert morpher.graph.ways(group) == ["equal", "masked"]
    with pytest.raises(GrowthRefusedError, match="free|counted|mean"):
        morpher.apply(Widen("first", by=2))
    snapshot, norm = morpher.snapshot(), model.norm
    for _ in range(2):  # masked again, then freely
        way = morpher.graph.ways(morpher.graph["first"])
        init = ZeroFanOut("masked" if "masked" in way else "free")
        assert morpher.apply(Widen("first", by=2, init=init)).relative_change <= 1e-12  # type: ignore[operator]
    assert isinstance(model.norm, MaskedLayerNorm)
    assert model.norm.unit_mask.tolist() == [1.0] * 6 + [0.0] * 4
    assert model.norm.weight is norm.weight
    assert model.norm.normalized_shape == (10,)
    replayed = morpher.spec.replay(PostNorm().double())
    replayed.load_state_dict(model.state_dict())
    assert torch.equal(replayed(x), model(x))
    model(x).square().sum().backward()
    assert model.head.weight.grad[:, 6:].abs().min() > 0
    snapshot.restore()
    assert model.norm is norm
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_mask_of_ones_is_layer_norm() -> None:
    norm = nn.LayerNorm(5).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(7, 5).double()
    assert torch.allclose(MaskedLayerNorm(norm)(x), norm(x), rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="one axis"):
        MaskedLayerNorm(nn.LayerNorm((2, 3)))


class Scaled(nn.Module):
    """A stream with a layer scale on its branch, normalised at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch = nn.Linear(3, 6), nn.Linear(4, 6)
        self.up, self.gamma = nn.Linear(6, 4), nn.Parameter(torch.randn(6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.gamma * self.branch(self.up(x).tanh())
        return self.head(self.norm(x))


def test_a_layer_scale_before_a_norm_takes_new_units_that_are_the_mean_of_scaled_ones() -> None:
    torch.manual_seed(0)
    model = Scaled().double()
    rows, scale = model.branch.weight.detach().clone(), model.gamma.detach().clone()
    morpher = Morpher(model, example_inputs=torch.randn(5, 3).double())
    event = morpher.apply(Widen("first", by=3))
    assert event.relative_change is not None
    assert event.relative_change <= 1e-12
    assert torch.allclose(model.branch.weight[6:], (scale[:, None] * rows).mean(0).expand(3, 4))
    assert model.gamma[6:].tolist() == [1.0, 1.0, 1.0]


class Alike(nn.Module):
    """Attention that holds two more numbers that happen to be those of its sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.heads, self.steps, self.size = 3, 3, 3, 4
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.heads, self.size).mT for f in (self.q, self.k, self.v))
        a = (q.transpose(1, 2) @ k.transpose(1, 2).mT).softmax(-1)
        out = (a @ v.transpose(1, 2)).transpose(1, 2).mT
        return self.o(out.reshape(n, t, self.heads * self.size)) * self.steps + self.depth


def test_numbers_that_only_happen_to_be_a_size_are_left_alone() -> None:
    torch.manual_seed(0)
    model = Alike().double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    before = model(x)
    group = next(g for g in morpher.graph if g.growable and g.size == 3)
    event = morpher.apply(Widen(group.id, by=2))
    assert (model.depth, model.heads, model.steps, model.size) == (3, 5, 3, 4)
    assert [edit[1:] for edit in event.attributes] == [("heads", 3, 5)]
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
