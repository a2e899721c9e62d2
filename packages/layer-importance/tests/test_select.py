import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import PassMethod, Registry, Report, analyze
from layer_importance._halves import Halved, halved
from layer_importance._methods import BUILT_IN
from layer_importance._select import Circumstances, sweep_seconds

Batches = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.down(torch.relu(self.up(self.norm(x))))


SCALES = (2.0, 0.0, 1.5, 1.0, 0.001, 2.5, 0.5, 3.0)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), *map(Block, SCALES), nn.Linear(8, 4)).eval()


@pytest.fixture
def batches(net: nn.Module) -> Batches:
    x = torch.randn(320, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x).softmax(1)
    return list(zip(x.split(16), y.split(16), strict=True))


class Clock:
    """Goes on by a second with every forward pass and every look at it by a thousandth."""

    def __init__(self, net: nn.Module) -> None:
        self.now = 0.0
        original = net.forward

        def forward(*args: Any) -> Any:
            self.now += 1.0
            return original(*args)

        net.forward = forward  # type: ignore[method-assign]

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_without_a_limit_the_whole_sweep_runs_and_every_unit_is_left_out(
    net: nn.Module, batches: Batches
) -> None:
    report = analyze(net, batches, methods="auto")
    assert {"skip_attribution", "fisher_information", "block_influence"} <= set(report.methods)
    damage = report["layer_ablation"]
    assert {s.samples for s in damage.values()} == {320}
    assert damage["2"].value == 0.0
    assert report.samples == 320


def test_every_method_known_has_a_reason(net: nn.Module, batches: Batches) -> None:
    report = analyze(net, batches[:3], methods="auto")
    assert set(report.reasons) >= {method.name for method in BUILT_IN}
    assert "answer there is" in report.reasons["exact_fisher"]
    assert "passes of its own" in report.reasons["shapley"]
    assert "needs attention" in report.reasons["attention_analysis"]


def test_the_race_names_the_units_that_do_nothing(net: nn.Module, batches: Batches) -> None:
    bottom = analyze(net, batches, methods="auto", bottom=2, delta=0.1).bottom
    assert bottom is not None
    assert set(bottom["units"]) == {"2", "5"}
    assert bottom["certain"]
    assert bottom["delta"] == 0.1
    assert "are the 2 units of least damage with probability at least 0.9" in bottom["statement"]


def test_the_race_measures_what_layer_ablation_does(net: nn.Module, batches: Batches) -> None:
    raced = analyze(net, batches, methods="auto")["layer_ablation"]
    asked = analyze(net, batches, methods=["layer_ablation"])["layer_ablation"]
    for name, score in asked.items():
        assert raced[name].value == pytest.approx(score.value, rel=1e-9, abs=1e-12)
        assert raced.extras["even"][name] == pytest.approx(asked.extras["even"][name])
        assert raced.extras["high"][name] == pytest.approx(asked.extras["high"][name])


@pytest.mark.parametrize("seconds", [6.0, 20.0, 60.0])
def test_the_time_is_kept_but_for_the_batch_at_hand(
    net: nn.Module, batches: Batches, seconds: float
) -> None:
    clock = Clock(net)
    report = analyze(net, batches, methods="auto", seconds=seconds, clock=clock)
    # one batch of the race is nine passes: the unchanged one and one for each unit
    assert clock.now <= seconds + 9 + 4
    assert report.batches >= 1


def test_less_time_means_less_of_the_data(net: nn.Module, batches: Batches) -> None:
    found = []
    for seconds in (8.0, 30.0):
        fresh = copy.deepcopy(net)
        found.append(
            analyze(fresh, batches, methods="auto", seconds=seconds, clock=Clock(fresh)).batches
        )
    assert 1 <= found[0] < found[1] <= 20


def test_where_time_is_short_the_race_says_what_it_does_not_know(
    net: nn.Module, batches: Batches
) -> None:
    report = analyze(net, batches, methods="auto", seconds=20.0, clock=Clock(net))
    assert report.bottom is not None
    assert not report.bottom["certain"]
    assert "time was up" in report.bottom["statement"]


def test_methods_that_run_the_model_are_not_begun_after_the_time(
    net: nn.Module, batches: Batches
) -> None:
    methods = ["skip_attribution", "layer_ablation"]
    report = analyze(net, batches, methods=methods, seconds=5.0, clock=Clock(net))
    assert list(report.methods) == ["skip_attribution"]
    assert "were up before it began" in report.reasons["layer_ablation"]
    assert any("time was up" in note for note in report.notes)


def test_a_dear_sweep_is_left_for_a_cheaper_one(net: nn.Module, batches: Batches) -> None:
    clock = Clock(net)
    report = analyze(net, batches, methods="auto", seconds=53.0, clock=clock)
    # a forward pass takes a second, a backward pass next to none: 1.5 or 1.3 s for each of 20
    assert "over half of the time" in report.reasons["fisher_information"]
    assert "skip_attribution" in report.methods


def test_without_labels_what_reads_the_forward_pass_runs(net: nn.Module, batches: Batches) -> None:
    report = analyze(net, [x for x, _ in batches], methods="auto")
    assert "block_influence" in report.methods
    assert report.bottom is None
    assert "labels" in report.reasons["skip_attribution"]
    assert report.consensus is not None


def test_frozen_models_have_gradients_of_activations(net: nn.Module, batches: Batches) -> None:
    net.requires_grad_(False)
    report = analyze(net, batches[:4], methods="auto")
    assert "skip_attribution" in report.methods
    assert "all are frozen" in report.reasons["fisher_information"]
    assert not any(p.requires_grad for p in net.parameters())


def test_a_method_of_somebody_elses_is_chosen_too(net: nn.Module, batches: Batches) -> None:
    class Own(type(next(m for m in BUILT_IN if m.name == "block_influence")())):  # type: ignore[misc]
        name = "own"

    registry = Registry()
    registry.add_method("own", Own)
    assert "own" in analyze(net, batches[:2], methods="auto", registry=registry).methods


def test_reports_hold_validity_consensus_and_bottom_in_json(
    net: nn.Module, batches: Batches
) -> None:
    report = analyze(net, batches, methods="auto")
    assert report.validity.measured == 8
    assert report.validity.depth.units == 8
    assert report.validity.ceiling > 0.9
    assert report.validity.methods["skip_attribution"].reliability > 0.9
    assert report.consensus is not None
    assert report.consensus.ranking[:2] == ["2", "5"]
    again = Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert again.to_dict() == report.to_dict()


def test_halves_are_merged_to_what_one_pass_gives(net: nn.Module, batches: Batches) -> None:
    for name in ("skip_attribution", "empirical_fisher", "block_influence"):
        whole = analyze(net, batches, methods=[name])
        parts = [analyze(net, batches[start::2], methods=[name])[name] for start in (0, 1)]
        for unit, score in whole[name].items():
            mean = sum(part[unit].value for part in parts) / 2
            assert score.value == pytest.approx(mean, rel=1e-9, abs=1e-15)
            assert score.samples == 320


def test_a_method_with_hooks_of_its_own_is_left_whole() -> None:
    kinds = {m.name: m for m in BUILT_IN}
    assert isinstance(halved(kinds["skip_attribution"]()), Halved)  # type: ignore[arg-type]
    assert not isinstance(halved(kinds["outliers"]()), Halved)  # type: ignore[arg-type]


def test_the_modality_is_recognised_and_said(net: nn.Module, batches: Batches) -> None:
    facts = analyze(net, batches[:2]).facts
    assert facts["modality"] == "tabular"
    assert "[16, 6]" in facts["modality_reason"]
    assert analyze(net, batches[:2], modality=None).facts["modality"] is None
    with pytest.raises(ValueError, match="modality must be"):
        analyze(net, batches[:2], modality="smell")


def test_data_that_look_like_nothing_are_analysed_all_the_same() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block(1.0) for _ in "ab")

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x.mean((1, 2, 3, 4))

    batch = torch.randn(3, 2, 2, 2, 2, 8), torch.tensor([0, 1, 2])
    report = analyze(Net(), [batch])
    assert report.facts["modality"] is None
    assert "looks like none" in report.facts["modality_reason"]
    assert len(report["block_influence"]) == 2


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"methods": "all"}, {"bottom": 99}])
def test_what_makes_no_sense_is_refused(
    net: nn.Module, batches: Batches, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        analyze(net, batches[:2], **{"methods": "auto", **wrong})


def test_an_error_in_a_method_leaves_the_model_as_it_was(net: nn.Module, batches: Batches) -> None:
    class Broken(PassMethod):
        name = "broken"

        def passes(self, units: int) -> tuple[float, float]:
            return 0.0, 0.0

        def run(self, subject: Any, progress: Any) -> Any:
            raise RuntimeError("broken")

    before = copy.deepcopy(net.state_dict())
    registry = Registry()
    registry.add_method("broken", Broken)
    with pytest.raises(RuntimeError, match="broken"):
        analyze(net.train(), batches[:3], methods="auto", registry=registry)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_an_iterator_of_batches_is_read_once(net: nn.Module, batches: Batches) -> None:
    def once() -> Iterator[Any]:
        yield from batches[:4]

    assert analyze(net, once(), methods="auto").samples == 64


def test_longer_sweeps_are_expected_to_take_longer() -> None:
    here = Circumstances(
        gradients=True,
        labels=True,
        units=3,
        removable=3,
        parameters=9,
        task="classification",
        modality="",
        forward_s=1.0,
        backward_s=2.0,
        batches=10,
    )
    seconds = [sweep_seconds(here, level) for level in range(4)]
    assert seconds[1:] == sorted(seconds[1:])
    assert seconds[0] == 15.0


class SlowNet(nn.Module):
    """Some of its layers take time, by a clock of its own: the last block, forward and back."""

    def __init__(self, first: float, later: float, back: float) -> None:
        super().__init__()
        self.now, self.calls = 0.0, 0
        self.first, self.later, self.back = first, later, back
        self.start = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(Block(scale) for scale in SCALES)
        self.head = nn.Linear(8, 4)
        self.blocks[-1].norm.register_forward_hook(self._takes)

    def _takes(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.calls += 1
        self.now += self.first if self.calls < 8 else self.later
        if output.requires_grad:
            output.register_hook(self._back)

    def _back(self, grad: Tensor) -> None:
        self.now += self.back

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("seconds", [30.0, 100.0])
@pytest.mark.parametrize("slow", [(1.0, 1.0, 2.0), (0.3, 1.0, 1.0), (1.0, 0.1, 0.1)])
def test_all_of_it_takes_little_more_than_the_time_given_and_half_of_it_is_the_races(
    batches: Batches, seconds: float, slow: tuple[float, float, float]
) -> None:
    net = SlowNet(*slow).eval()
    report = analyze(net, batches, methods="auto", seconds=seconds, clock=net.clock)
    assert net.now <= 1.25 * seconds
    assert report.bottom is not None
    parts = dict(report.facts["seconds"])
    asked, whole = parts.pop("asked"), parts.pop("in all")
    assert asked == seconds
    assert whole == pytest.approx(net.now, abs=0.1)
    assert sum(parts.values()) == pytest.approx(whole, abs=0.1)
    # nine passes make a batch of the race, which ends before one that would take too long
    decided = "decided after" in report.bottom["statement"]
    assert decided or parts["race"] + 9 * max(slow) > seconds / 2 - 5 * sum(slow)


def slowly_scored(net: SlowNet, each: float) -> type[Any]:
    kind: Any = next(m for m in BUILT_IN if m.name == "block_influence")

    class Slow(kind):  # type: ignore[misc]
        name = "slow"

        def scores(self) -> Any:
            found = super().scores()
            net.now += each * len(found.scores)
            return found

    return Slow


@pytest.mark.parametrize("each, runs", [(0.01, True), (0.5, False), (2.0, False)])
def test_a_method_whose_scores_take_too_long_is_left_out_and_says_so(
    batches: Batches, each: float, runs: bool
) -> None:
    net = SlowNet(0.1, 0.1, 0.1).eval()
    registry = Registry()
    registry.add_method("slow", slowly_scored(net, each))
    report = analyze(net, batches, methods="auto", seconds=40.0, clock=net.clock, registry=registry)
    assert net.now <= 50.0
    assert ("slow" in report.methods) == runs
    assert runs or "working out its scores would take about" in report.reasons["slow"]
    assert "block_influence" in report.methods
    assert report.bottom is not None


def test_without_time_for_a_race_the_report_says_what_one_batch_of_it_would_take(
    batches: Batches,
) -> None:
    net = SlowNet(1.0, 1.0, 1.0).eval()
    report = analyze(net, batches, methods="auto", seconds=12.0, clock=net.clock)
    assert report.bottom is None
    assert "the first batch of a race would take about 4.5 s" in report.reasons["layer_ablation"]


def test_a_race_that_ends_within_its_first_batch_keeps_the_damages_it_measured(
    net: nn.Module, batches: Batches
) -> None:
    report = analyze(net, batches, methods="auto", seconds=18.0, clock=Clock(net))
    damage, bottom = report["layer_ablation"], report.bottom
    assert bottom is not None
    assert "within the first batch" in bottom["statement"]
    assert 0 < len(damage) < 8
    assert set(damage.missing.values()) == {"time was up before it ran"}
    assert {score.samples for score in damage.values()} == {16}
