import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import analyze, discover
from layer_importance._execute.carry_out import carry_out
from layer_importance._low_rank import low_ranks
from layer_importance._parts import discover_parts
from layer_importance._plan import CompressionPlan
from layer_importance._planning import largest_ratio, plan

Batches = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    def __init__(self, scale: float, inner: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, inner), nn.Linear(inner, 16)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.down(torch.relu(self.up(self.norm(x))))


class Straight(nn.Module):
    """A block that is one affine map, which no other part of the model can do without."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


def net_of(*blocks: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(10, 16), nn.Sequential(*blocks), nn.Linear(16, 5)).eval()


def data_for(net: nn.Module, samples: int = 256, size: int = 32) -> Batches:
    """What the net itself answers, so that every change of it costs something."""
    x = torch.randn(samples, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = (4 * net(x)).argmax(1)
    return list(zip(x.split(size), y.split(size), strict=True))


Planted = tuple[nn.Module, Batches]


@pytest.fixture
def planted() -> Planted:
    """Eight blocks; the second, fifth and sixth do next to nothing."""
    torch.manual_seed(0)
    net = net_of(*[Block(s) for s in (1.0, 0.01, 0.8, 0.9, 0.02, 0.015, 1.1, 0.9)])
    return net, data_for(net)


def test_what_does_next_to_nothing_goes(planted: Planted) -> None:
    found = plan(*planted, units=5, bridges=False, oracle=True)
    assert found.removals == ["1.1", "1.4", "1.5"]
    assert found.oracle_gap == 0.0
    assert found.achieved["units"] == 5


def test_damage_is_that_of_the_compressed_model_on_data_the_search_did_not_see(
    planted: Planted,
) -> None:
    net, batches = planted
    found = plan(net, batches, units=4)
    done = carry_out(net, found.removals, bridges=found.bridges, example=batches[0])
    loss = nn.CrossEntropyLoss(reduction="none")
    with torch.no_grad():
        differences = torch.cat(
            [loss(done.model(x), y) - loss(net(x), y) for x, y in batches[1::2]]
        )
    assert found.damage.mean == pytest.approx(float(differences.mean()), rel=1e-4, abs=1e-6)
    assert found.damage.low <= found.damage.mean <= found.damage.high
    assert done.parameters == found.achieved["parameters"]
    assert done.parameters_before == found.before["parameters"]


def test_quality_is_that_of_the_data_that_judge(planted: Planted) -> None:
    net, batches = planted
    found = plan(net, batches, units=5, bridges=False)
    # the labels are the net's own answers
    assert found.quality == 1.0
    assert found.quality_change is not None
    assert found.quality_change.mean <= 0


def test_a_target_that_is_met_already_takes_nothing_out(planted: Planted) -> None:
    found = plan(*planted, units=8)
    assert found.removals == []
    assert found.damage.mean == 0.0
    assert plan(*planted, target_ratio=1.0).achieved["ratio"] == 1.0


def test_batches_without_labels_are_refused(planted: Planted) -> None:
    net, batches = planted
    with pytest.raises(ValueError, match="batches must have labels"):
        plan(net, [x for x, _ in batches], units=5)


@pytest.mark.parametrize("ratio", [1.2, 1.6, 2.5])
def test_a_ratio_is_of_the_parameters_of_the_whole_model(planted: Planted, ratio: float) -> None:
    found = plan(*planted, target_ratio=ratio, evaluations=12)
    whole = sum(p.numel() for p in planted[0].parameters())
    assert found.before["parameters"] == whole
    assert found.achieved["parameters"] <= whole / ratio
    assert found.achieved["ratio"] == whole / found.achieved["parameters"] >= ratio
    assert found.asked == {"kind": "target_ratio", "value": ratio, "ratio_of": "parameters"}


@pytest.mark.parametrize(
    "scales, expected",
    [((1.0, 0.01, 1.0, 1.0, 1.0), ["1.1"]), ((1.0, 1.0, 0.01, 0.01, 1.0), ["1.2", "1.3"])],
)
def test_blocks_of_different_size_are_weighed_against_what_they_free(
    scales: tuple[float, ...], expected: list[str]
) -> None:
    torch.manual_seed(0)
    widths = (32, 64, 32, 32, 32)
    net = net_of(*[Block(s, w) for s, w in zip(scales, widths, strict=True)])
    whole = sum(p.numel() for p in net.parameters())
    # one block of 64 frees about as much as two of 32
    with torch.no_grad():
        batches = [(x, net(x).softmax(1)) for x, _ in data_for(net)]
    found = plan(net, batches, params=whole - 2100, bridges=False)
    assert found.removals == expected


def test_flops_can_be_asked_for(planted: Planted) -> None:
    net, batches = planted
    block = 2 * len(batches[0][0]) * 2 * 16 * 32
    whole = 8 * block + 2 * len(batches[0][0]) * (10 * 16 + 16 * 5)
    found = plan(net, batches, flops=whole - 2 * block, bridges=False, evaluations=12)
    assert found.before["flops"] == whole
    assert found.achieved["flops"] == whole - 2 * block


def test_a_plan_is_never_worse_than_dropping_from_the_end(planted: Planted) -> None:
    net, batches = planted
    for units in (7, 6, 3):
        found = plan(net, batches, units=units, bridges=False, evaluations=4)
        assert found.from_the_end is not None
        assert found.damage.mean <= found.from_the_end.mean


def test_a_bridge_stands_in_for_an_affine_block_exactly() -> None:
    torch.manual_seed(0)
    net = net_of(Block(1.0), Straight(), Block(1.0), Block(1.0)).double()
    batches = [(x.double(), y) for x, y in data_for(net.float(), 512)]
    net.double()
    keep = ["1.0", "1.2", "1.3"]
    found = plan(net, batches, units=3, keep=keep, keep_types=False)
    assert [a.do for a in found.actions] == ["keep", "bridge", "keep", "keep"]
    assert found.actions[1].over == ("1.1",)
    assert abs(found.damage.mean) < 1e-3
    without = plan(net, batches, units=3, keep=keep, keep_types=False, bridges=False)
    assert without.damage.mean > 100 * abs(found.damage.mean)
    whole, own = (sum(p.numel() for p in m.parameters()) for m in (net, net[1][1]))
    assert found.achieved["parameters"] == whole - own + 16 * 16 + 16


def test_a_bridge_that_would_miss_the_target_is_left_out(planted: Planted) -> None:
    net, batches = planted
    whole = sum(p.numel() for p in net.parameters())
    block = sum(p.numel() for p in net[1][0].parameters())
    found = plan(net, batches, params=whole - 2 * block)
    assert not found.bridges
    assert any("target would be missed" in note for note in found.notes)


def test_constraints_hold(planted: Planted) -> None:
    net, batches = planted
    found = plan(net, batches, units=4, keep=["1.4"], keep_ends=(1, 2), tied=[["1.1", "1.2"]])
    kept = set(found.kept)
    assert {"1.0", "1.4", "1.6", "1.7"} <= kept
    assert ("1.1" in kept) == ("1.2" in kept)
    reasons = {a.unit: a.reason for a in found.actions}
    assert reasons["1.4"] == "asked for"
    assert reasons["1.7"] == "first or last of its tower"


def test_one_of_each_type_stays() -> None:
    torch.manual_seed(0)
    net = net_of(Block(1.0), Straight(), Block(1.0), Block(1.0))
    nn.init.zeros_(net[1][1].down.weight)
    nn.init.zeros_(net[1][1].down.bias)
    batches = data_for(net)
    assert plan(net, batches, units=3).removals != ["1.1"]
    assert plan(net, batches, units=3, keep_types=False).removals == ["1.1"]


def test_branches_can_be_chosen_from() -> None:
    class Two(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
            with torch.no_grad():
                self.mlp[2].weight.mul_(scale)
                self.mlp[2].bias.mul_(scale)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(x, x, x, need_weights=False)[0]
            return x + self.mlp(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 16)
            self.blocks = nn.ModuleList([Two(1.0), Two(0.0), Two(1.0)])
            self.head = nn.Linear(16, 5)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    torch.manual_seed(0)
    net = Net().eval()
    x = torch.randint(0, 9, (64, 6))
    with torch.no_grad():
        y = net(x).softmax(1)  # what is nearest to it is what changes nothing
    batches = list(zip(x.split(16), y.split(16), strict=True))
    found = plan(net, batches, among=discover_parts(net, batches[0]), units=5)
    assert [(a.unit, a.do) for a in found.actions if a.do != "keep"] == [
        ("blocks.1.mlp", "drop_mlp")
    ]
    assert found.damage.mean == 0.0


def test_a_report_is_where_the_search_begins(planted: Planted) -> None:
    net, batches = planted
    report = analyze(net, batches, methods=["skip_attribution", "block_influence"])
    found = plan(net, batches, report=report, units=5, evaluations=0, bridges=False)
    assert found.removals == sorted(report.ranking("skip_attribution")[:3])
    assert found.evaluations == 0
    assert "skip_attribution alone" in " ".join(found.notes)
    other = plan(net, batches, report=report, units=5, evaluations=0, method="block_influence")
    assert other.removals == sorted(report.ranking("block_influence")[:3])


def test_a_budget_of_evaluations_is_kept(planted: Planted) -> None:
    found = plan(*planted, units=4, evaluations=15)
    assert found.evaluations <= 15
    # singles cost half a pass each, and sets less than a whole one
    assert found.forwards <= 1 + 15


def test_one_batch_is_cut_in_two(planted: Planted) -> None:
    net, batches = planted
    only = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    found = plan(net, only, units=5, bridges=False)
    assert found.removals == ["1.1", "1.4", "1.5"]


def test_runs_that_are_not_kept_give_the_same(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    import layer_importance._plan_damage as module

    kept = plan(*planted, units=5)
    enter = module.Judge.__enter__

    def forgetful(self: Any) -> Any:
        self.memory = 0
        return enter(self)

    monkeypatch.setattr(module.Judge, "__enter__", forgetful)
    again = plan(*planted, units=5)
    assert again.removals == kept.removals
    assert again.damage == kept.damage
    assert again.forwards > kept.forwards


def test_planning_leaves_the_model_as_it_was(planted: Planted) -> None:
    net, batches = planted
    net.train()
    before = copy.deepcopy(net.state_dict())
    plan(net, batches, units=6)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all("forward" not in m.__dict__ and not m._forward_hooks for m in net.modules())


def test_a_plan_comes_back_from_its_file(planted: Planted, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = net_of(Block(1.0), Straight(), Block(1.0), Block(1.0))
    keep = ["1.0", "1.2", "1.3"]
    found = plan(net, data_for(net), units=3, keep=keep, keep_types=False, low_rank=True)
    assert found.bridges
    found.save(tmp_path / "plan.json")
    again = CompressionPlan.load(tmp_path / "plan.json")
    assert again == found
    assert again.to_dict() == found.to_dict()
    for name, bridge in found.bridges.items():
        for key, value in bridge.state_dict().items():
            assert torch.equal(again.bridges[name].state_dict()[key], value)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda f: f.update(schema=7), "schema must be 1, got 7"),
        (lambda f: f.pop("actions"), "actions"),
        (lambda f: f["actions"][0].update(doing="x"), "doing"),
        (lambda f: f.update(damage=None), "damage"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(
    planted: Planted, tmp_path: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    fields = plan(*planted, units=7, evaluations=2).to_dict()
    change(fields)
    (tmp_path / "plan.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=says):
        CompressionPlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({}, "exactly one of target_ratio"),
        ({"units": 3, "params": 100}, "exactly one of target_ratio"),
        ({"target_ratio": 0.5}, "target_ratio must be at least 1, got 0.5"),
        ({"target_ratio": 2, "ratio_of": "heads"}, "ratio_of must be one of parameters, layers"),
        ({"target_ratio": 9, "ratio_of": "layers"}, "target_ratio must be at most 8, the number"),
        ({"units": 9}, "units must be in 0..8"),
        ({"units": 3, "keep": ["nobody"]}, "keep must name units, got nobody"),
        ({"units": 3, "keep_ends": (-1, 0)}, "keep_ends"),
        ({"units": 3, "method": "snip"}, "method must be 'auto' without a report"),
        ({"target_ratio": 50.0}, "target_ratio must be reachable, at most 6.661: 7 of 8 units"),
        ({"units": 1, "keep_ends": (2, 2)}, "units must be reachable, at least 4: .*; got 1"),
        ({"units": 2.5}, "units must be a whole number, got 2.5"),
        ({"units": 3, "evaluations": -1}, "evaluations must be at least 0, got -1"),
        ({"units": 3, "keep": "1.0"}, "keep must be a list of names, got '1.0'"),
        ({"units": 3, "tied": ["1.0", "1.1"]}, "tied must be a list of lists of names"),
        ({"units": 0}, "one of each type has to stay"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    planted: Planted, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        plan(*planted, **wrong)


def test_low_ranks_are_those_that_were_planted() -> None:
    torch.manual_seed(0)
    net = net_of(Block(1.0, 64), Block(1.0, 64))
    with torch.no_grad():
        net[1][0].up.weight.copy_(torch.randn(64, 3) @ torch.randn(3, 16))
        for linear in (net[1][0].down, net[1][1].up, net[1][1].down):
            nn.init.orthogonal_(linear.weight)
    from layer_importance import Classification, Subject

    batches = data_for(net)
    units = discover(net, batches[0])
    subject = Subject(net, units, Classification(), batches)
    assert low_ranks(subject, []) == {"1.0.up": 3}
    assert low_ranks(subject, ["1.0"]) == {}


def test_seconds_can_be_asked_for(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    import layer_importance._planning as module

    measure = module.measure_costs

    def timed(*args: Any, **kwargs: Any) -> Any:
        ticks = itertools.count()
        return measure(*args, **kwargs, clock=lambda: float(next(ticks)))

    monkeypatch.setattr(module, "measure_costs", timed)
    # the clock ticks at both ends of each of eight units and of the whole: 17 between
    found = plan(*planted, latency_s=14.0, bridges=False, evaluations=12)
    assert found.before["seconds"] == 17
    assert found.achieved["seconds"] == 14
    assert found.achieved["units"] == 5


@pytest.mark.parametrize("other", ["class", "larger", "smaller", "deeper"])
def test_a_report_of_another_model_is_refused(planted: Planted, other: str) -> None:
    net, batches = planted
    blocks = {
        "class": [Straight() for _ in range(8)],
        "larger": [Block(1.0, 64) for _ in range(8)],
        "smaller": [Block(1.0, 16) for _ in range(8)],
        "deeper": [Block(1.0) for _ in range(9)],
    }[other]
    foreign = net_of(*blocks)
    report = analyze(foreign, data_for(foreign), methods=["block_influence"])

    with pytest.raises(ValueError, match="report must be of the model, got one"):
        plan(net, batches, report=report, units=5)


def test_the_largest_ratio_is_one_that_can_be_planned_for(planted: Planted) -> None:
    net, batches = planted
    most = largest_ratio(net, batches[0])

    found = plan(net, batches, target_ratio=0.9999 * most, evaluations=2)
    assert found.achieved["units"] == 1
    with pytest.raises(ValueError, match="target_ratio must be reachable, at most"):
        plan(net, batches, target_ratio=1.001 * most)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"delta": 2}, "delta must be inside"),
        ({"bottom": 99}, "bottom must be in 1..8, the units that can be removed, got 99"),
    ],
)
def test_what_cannot_be_raced_for_is_refused(
    planted: Planted, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        analyze(*planted, methods="auto", seconds=1, **wrong)


def test_a_method_that_the_report_has_not_is_refused(planted: Planted) -> None:
    report = analyze(*planted, methods=["block_influence"])

    with pytest.raises(ValueError, match="method must be one of auto, block_influence, got 'magic"):
        plan(*planted, report=report, units=5, method="magic")
