"""The seed's face: its snippets as they stand, its settings, and what the original gets wrong."""

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro_morph import (
    DNMFramework,
    EventLog,
    GrowthRefusedError,
    load_checkpoint,
    save_checkpoint,
)


class YourCNNModel(nn.Module):
    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(64 * size * size, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


class Watched:
    """Keeps what the layers of a model gave last, and the gradients there."""

    def __init__(self, model: nn.Module) -> None:
        self.activations: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if name and not any(module.children()):
                module.register_forward_hook(self._noter(name))

    def _noter(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            self.activations[name] = output.detach()
            if output.requires_grad:
                output.register_hook(lambda grad: self.gradients.__setitem__(name, grad))

        return note


class Loop:
    """A training loop as anyone writes it, on random images."""

    def __init__(
        self, model: nn.Module, size: int = 4, optimizer: str = "SGD", **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.model, self.watched = model, Watched(model)
        self.x = torch.randn(12, 3, size, size)
        self.y = torch.randint(0, 10, (12,))
        options = {"lr": 0.01, **options}
        self.optimizer = getattr(torch.optim, optimizer)(model.parameters(), **options)

    def epoch(self) -> None:
        self.model.train()
        for rows in torch.arange(12).split(6):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.x[rows]), self.y[rows])
            loss.backward()
            self.optimizer.step()

    def tell(self, dnm: DNMFramework) -> None:
        dnm.update_caches(self.watched.activations, self.watched.gradients, self.y[6:])


def grown(config: dict[str, Any], *, epochs: int = 1, **options: Any) -> tuple[DNMFramework, Loop]:
    """A run that has trained for some epochs and told what it saw."""
    torch.manual_seed(0)
    loop = Loop(YourCNNModel(4), **options)
    dnm = DNMFramework(loop.model, config)
    for _ in range(epochs):
        loop.epoch()
        loop.tell(dnm)
        dnm.record_performance(0.5)
    return dnm, loop


# the snippets


def train_epoch(
    model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer, criterion: Any
) -> tuple[float, float]:
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach()), 0.5


def validate_epoch(model: nn.Module, loader: Any, criterion: Any) -> tuple[float, float]:
    model.eval()
    with torch.no_grad():
        return float(sum(criterion(model(x), y) for x, y in loader)), 0.5


def test_the_basic_snippet_runs_and_grows() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))
    train_loader = val_loader = list(zip(x.split(8), y.split(8), strict=True))
    criterion, epochs = nn.CrossEntropyLoss(), 4

    model = YourCNNModel()
    dnm_config = {
        "morphogenesis_interval": 3,
        "max_morphogenesis_per_epoch": 1,
        "performance_improvement_threshold": 0.01,
    }
    dnm = DNMFramework(model, dnm_config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    watched = Watched(model)
    first, printed = model, []

    for epoch in range(epochs):
        train_loss, train_acc = train_epoch(model, train_loader, optimizer, criterion)
        activations, gradients = dict(watched.activations), dict(watched.gradients)
        targets = y[8:]
        val_loss, val_acc = validate_epoch(model, val_loader, criterion)

        dnm.update_caches(activations, gradients, targets)
        dnm.record_performance(val_acc)

        should_trigger, reasons = dnm.should_trigger_morphogenesis(
            epoch + 1,
            {"accuracy": train_acc, "loss": train_loss},
            {"accuracy": val_acc, "loss": val_loss},
        )

        if should_trigger:
            printed += reasons
            results = dnm.execute_morphogenesis(epoch + 1)
            if results["neuron_divisions"] > 0:
                model = dnm.model
    assert results["neuron_divisions"] == 1
    assert model is first
    assert any(reason.startswith("performance") for reason in printed)
    assert results["parameters_added"] == dnm.get_morphogenesis_summary()["parameters_added"] > 0
    assert results["events"][0].relative_change <= 1e-6


def test_the_advanced_settings_are_taken_as_they_stand() -> None:
    dnm_config = {
        "morphogenesis_interval": 3,
        "max_morphogenesis_per_epoch": 1,
        "performance_improvement_threshold": 0.01,
        "neuron_division_strategy": "hybrid",
        "division_noise_scale": 0.1,
        "progressive_activation_epochs": 5,
        "bottleneck_detection_metrics": [
            "gradient_variance",
            "activation_diversity",
            "information_flow",
            "performance_sensitivity",
        ],
        "rollback_enabled": True,
        "performance_drop_threshold": 0.05,
        "max_architecture_changes": 10,
    }
    dnm = DNMFramework(YourCNNModel(4), dnm_config)
    assert dnm.config == DNMFramework(YourCNNModel(4), {}).config


# what the original gets wrong


@pytest.mark.parametrize("strategy", ["gradient_based", "activation_based", "hybrid"])
def test_every_layer_can_divide_by_every_strategy_and_the_output_layer_is_not_touched(
    strategy: str,
) -> None:
    config = {
        "neuron_division_strategy": strategy,
        "max_morphogenesis_per_epoch": 2,
        "progressive_activation_epochs": 0,
    }
    dnm, loop = grown(config)
    before = loop.model(loop.x).detach()
    done = dnm.execute_morphogenesis(1)
    assert {event.target for event in done["events"]} == {"features.0", "features.2"}
    assert loop.model.classifier.out_features == 10
    torch.testing.assert_close(loop.model(loop.x), before, rtol=0, atol=1e-6)
    loop.epoch()
    assert loop.model(loop.x).isfinite().all()


def test_events_carry_what_was_counted_before_and_after() -> None:
    dnm, loop = grown({"max_morphogenesis_per_epoch": 3})
    counted = [sum(p.numel() for p in loop.model.parameters())]
    results = dnm.execute_morphogenesis(1)
    counted.append(sum(p.numel() for p in loop.model.parameters()))
    events = results["events"]
    assert (events[0].parameters_before, events[-1].parameters_after) == tuple(counted)
    assert results["parameters_added"] == counted[1] - counted[0] > 0
    assert all(event.parameters_added > 0 for event in events)
    summary = dnm.get_morphogenesis_summary()
    assert summary["neuron_divisions"] == 2
    assert summary["connection_growths"] == 1
    assert summary["parameters"] == counted[1]


def test_a_new_connection_is_in_the_forward_and_learns() -> None:
    dnm, loop = grown({"max_morphogenesis_per_epoch": 3})
    event = dnm.execute_morphogenesis(1)["events"][2]
    assert event.op == "connect"
    loop.epoch()
    edge = next(p for n, p in loop.model.named_parameters() if n.startswith("grown"))
    assert edge.detach().abs().max() > 0
    with_edge = loop.model(loop.x).detach()
    with torch.no_grad():
        edge.zero_()
    assert not torch.equal(loop.model(loop.x), with_edge)


@pytest.mark.parametrize("kind, key", [("SGD", "momentum_buffer"), ("AdamW", "exp_avg")])
def test_the_optimizer_keeps_its_momentum_and_the_parameters_are_the_same_objects(
    kind: str, key: str
) -> None:
    dnm, loop = grown({}, optimizer=kind, **({"momentum": 0.9} if kind == "SGD" else {}))
    weight = loop.model.features[0].weight
    held = {p: loop.optimizer.state[p][key].clone() for p in loop.model.parameters()}
    dnm.execute_morphogenesis(1)
    assert set(map(id, loop.model.parameters())) == set(map(id, held))
    assert loop.model.features[0].weight is weight
    for p, old in held.items():
        state = loop.optimizer.state[p][key]
        assert state.shape == p.shape
        old_part = state[tuple(slice(0, n) for n in old.shape)]
        if old.dim() != 2:  # the columns of the classifier are in blocks
            torch.testing.assert_close(old_part, old)


def test_a_layer_grows_again_once_its_new_units_have_come_in() -> None:
    dnm, loop = grown({"max_morphogenesis_per_epoch": 2, "progressive_activation_epochs": 1})
    for epoch in (1, 3):
        assert len(dnm.execute_morphogenesis(epoch)["events"]) == 2
        loop.epoch()
        loop.epoch()
        loop.tell(dnm)
    assert loop.model.features[0].out_channels > 40
    assert loop.model(loop.x).isfinite().all()


# every setting changes what happens


def triggered(config: dict[str, Any], metric: Callable[[int], float]) -> list[int]:
    dnm = DNMFramework(YourCNNModel(4), config)
    return [
        epoch
        for epoch in range(1, 7)
        if dnm.should_trigger_morphogenesis(epoch, {}, {"accuracy": metric(epoch)})[0]
    ]


def test_growth_is_asked_about_at_intervals() -> None:
    assert triggered({"morphogenesis_interval": 2}, lambda epoch: 0.5) == [2, 4, 6]
    assert triggered({"morphogenesis_interval": 3}, lambda epoch: 0.5) == [3, 6]


@pytest.mark.parametrize("most", [1, 2])
def test_one_epoch_brings_so_many_changes_and_no_more(most: int) -> None:
    dnm, _ = grown({"max_morphogenesis_per_epoch": most})
    assert len(dnm.execute_morphogenesis(1)["events"]) == most
    with pytest.raises(GrowthRefusedError, match="call update_caches"):
        dnm.execute_morphogenesis(1)


def test_growth_is_asked_for_when_the_metric_improves_less_than_the_threshold() -> None:
    config = {"morphogenesis_interval": 2, "performance_improvement_threshold": 0.05}
    assert triggered(config, lambda epoch: 0.02 * epoch) == [2, 4, 6]
    assert (
        triggered({**config, "performance_improvement_threshold": 0.01}, lambda e: 0.02 * e) == []
    )


def narrow() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    return model, torch.optim.SGD(model.parameters(), 0.1)


def told(config: dict[str, Any], activations: Any, gradients: Any) -> tuple[DNMFramework, Any]:
    model, optimizer = narrow()
    dnm = DNMFramework(
        model,
        {"progressive_activation_epochs": 0, **config},
        optimizer=optimizer,
        example_inputs=torch.randn(2, 3),
    )
    dnm.update_caches(activations, gradients)
    before = copy.deepcopy(model)
    dnm.execute_morphogenesis(1)
    return dnm, before


@pytest.mark.parametrize(
    "strategy, parent", [("gradient_based", 1), ("activation_based", 2), ("hybrid", 3)]
)
def test_the_strategy_chooses_the_units_that_divide(strategy: str, parent: int) -> None:
    torch.manual_seed(0)
    base = torch.randn(64, 4)
    activations = {"0": base * torch.tensor([0.1, 0.1, 1.0, 0.9])}
    gradients = {"0": base * torch.tensor([0.1, 1.0, 0.1, 0.9])}
    config = {"neuron_division_strategy": strategy, "division_noise_scale": 0.0}
    dnm, before = told(config, activations, gradients)
    torch.testing.assert_close(dnm.model[0].weight[4], before[0].weight[parent])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_new_units_are_copies_with_the_noise_asked_for(noise: float) -> None:
    dnm, loop = grown({"division_noise_scale": noise, "max_morphogenesis_per_epoch": 2})
    dnm.execute_morphogenesis(1)
    rows = loop.model.features[2].weight.detach()[64:, :32].flatten(1)
    old = loop.model.features[2].weight.detach()[:64, :32].flatten(1)
    distance = torch.cdist(rows, old).min(1).values / old.square().mean().sqrt()
    found = float(distance.mean()) / rows.shape[1] ** 0.5
    assert found == pytest.approx(noise, rel=0.2, abs=1e-3)


@pytest.mark.parametrize("epochs", [0, 3])
def test_new_units_come_in_over_the_steps_of_so_many_epochs(epochs: int) -> None:
    dnm, loop = grown({"progressive_activation_epochs": epochs}, lr=0.0, epochs=2)
    event = dnm.execute_morphogenesis(2)["events"][0]
    reader = {"features.0": loop.model.features[2], "features.2": loop.model.classifier}
    weight = reader[event.target].weight
    old = {"features.0": 32, "features.2": 64 * 16}[event.target]
    sizes = []
    for _ in range(4):
        sizes.append(float(weight.detach()[:, old:].abs().sum()))
        loop.epoch()
    full = sizes[-1]
    wanted = [full * min(k / epochs, 1) for k in range(4)] if epochs else [0.0] * 4
    assert sizes == pytest.approx(wanted, rel=1e-4)
    assert bool(full) == bool(epochs)


@pytest.mark.parametrize(
    "metric, group",
    [
        ("activation_diversity", "0"),
        ("performance_sensitivity", "2"),
        ("gradient_variance", "0"),
        ("information_flow", "2"),
    ],
)
def test_the_metrics_find_the_group_that_grows(metric: str, group: str) -> None:
    torch.manual_seed(0)
    noise = torch.randn(64, 4)
    one = torch.randn(64, 1)  # what all units of the second layer say
    activations = {"0": noise, "1": noise, "2": one.expand(-1, 4), "3": one.expand(-1, 4)}
    steady = torch.ones(64, 4)
    gradients = {"1": 1e-3 * torch.randn(64, 4), "3": steady}
    dnm, _ = told({"bottleneck_detection_metrics": [metric]}, activations, gradients)
    assert dnm.events[0].target == group


def everything(loop: Loop) -> dict[str, Any]:
    state = {
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    return copy.deepcopy(state)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def fell(config: dict[str, Any], to: float) -> tuple[DNMFramework, Loop, dict[str, Any], bool]:
    """A run that has grown, trained on and become worse."""
    dnm, loop = grown({"max_morphogenesis_per_epoch": 3, **config}, momentum=0.9)
    before = everything(loop)
    dnm.execute_morphogenesis(1)
    loop.epoch()
    loop.tell(dnm)
    return dnm, loop, before, dnm.record_performance(to)


def test_a_run_that_has_become_worse_is_put_back_bit_for_bit() -> None:
    dnm, loop, before, back = fell({}, to=0.3)
    assert back
    assert equal(everything(loop), before)
    undone = [event for event in dnm.events if event.decision == "rolled back"]
    assert [event.parent for event in undone] == [2, 1, 0]
    assert all("fell from 0.5 to 0.3" in str(event.why_not) for event in undone)
    summary = dnm.get_morphogenesis_summary()
    assert (summary["total_events"], summary["rolled_back"]) == (0, 3)
    assert summary["parameters_added"] == 0
    loop.epoch()


def test_hooks_can_be_taken_off_after_a_rollback() -> None:
    loop = Loop(YourCNNModel(4))
    handle = loop.model.register_forward_pre_hook(lambda module, args: None)
    dnm = DNMFramework(loop.model, {})
    for performance in (0.5, 0.1):
        loop.epoch()
        loop.tell(dnm)
        dnm.record_performance(performance)
        if performance == 0.5:
            dnm.execute_morphogenesis(1)
    handle.remove()
    dnm.close()
    assert not loop.model._forward_pre_hooks
    loop.epoch()


def test_training_after_a_rollback_is_that_of_a_run_that_never_grew() -> None:
    _, loop, _, back = fell({}, to=0.3)
    never = grown({}, momentum=0.9)[1]
    assert back
    for each in (loop, never):
        torch.manual_seed(1)
        for _ in range(2):
            each.epoch()
    assert equal(loop.model.state_dict(), never.model.state_dict())
    assert equal(loop.optimizer.state_dict(), never.optimizer.state_dict())


def test_schedulers_that_are_handed_over_are_put_back_and_events_are_logged(tmp_path: Path) -> None:
    loop = Loop(YourCNNModel(4))
    scheduler = torch.optim.lr_scheduler.StepLR(loop.optimizer, 1, 0.5)
    log = tmp_path / "events.jsonl"
    dnm = DNMFramework(loop.model, {}, others=[scheduler], log=log)
    for performance in (0.5, 0.1):
        loop.epoch()
        scheduler.step()
        loop.tell(dnm)
        dnm.record_performance(performance)
        if performance == 0.5:
            dnm.execute_morphogenesis(1)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (1, [0.005])
    decisions = [event["decision"] for event in EventLog(log).read()]
    assert decisions == ["committed", "rolled back"]


def test_without_rollback_what_has_grown_stays() -> None:
    dnm, loop, before, back = fell({"rollback_enabled": False}, to=0.3)
    assert not back
    assert not equal(everything(loop), before)
    assert dnm.get_morphogenesis_summary()["parameters_added"] > 0


def test_only_a_fall_beyond_the_threshold_counts() -> None:
    assert fell({"performance_drop_threshold": 0.3}, to=0.3)[3] is False
    assert fell({"performance_drop_threshold": 0.1}, to=0.3)[3] is True


def test_a_performance_that_is_not_a_number_is_a_fall() -> None:
    dnm, _, _, back = fell({}, to=float("nan"))
    assert back
    assert dnm.get_morphogenesis_summary()["performance"] == [0.5, 0.5]


def test_after_a_rollback_growth_rests_and_what_failed_is_not_tried_again() -> None:
    config = {"morphogenesis_interval": 1, "max_morphogenesis_per_epoch": 1}
    dnm, loop, _, back = fell(config, to=0.1)
    assert back
    failed = dnm.events[0].target
    asked = {}
    for epoch in range(2, 5):
        loop.epoch()
        loop.tell(dnm)
        asked[epoch] = dnm.should_trigger_morphogenesis(epoch, {}, {"accuracy": 0.5})
    assert not asked[2][0]
    assert "growth did not help: it is tried again from epoch 3 on" in asked[2][1]
    assert asked[4][0]
    assert dnm.execute_morphogenesis(4)["events"][0].target != failed


@pytest.mark.parametrize("most", [1, 3])
def test_a_run_keeps_so_many_changes_and_no_more(most: int) -> None:
    dnm, loop = grown({"max_architecture_changes": most, "max_morphogenesis_per_epoch": 2})
    made = 0
    for epoch in range(1, 4):
        made += len(dnm.execute_morphogenesis(epoch)["events"])
        loop.epoch()
        loop.tell(dnm)
    assert made == most
    blocked = dnm.should_trigger_morphogenesis(3, {}, {"accuracy": 0.5})
    assert blocked[0] is False
    assert "max_architecture_changes" in blocked[1][0]


# bad input


@pytest.mark.parametrize(
    "config, match",
    [
        ({"interval": 3}, "keys among morphogenesis_interval, .* got 'interval'"),
        ({"morphogenesis_interval": 0}, "morphogenesis_interval must be at least 1, got 0"),
        ({"max_morphogenesis_per_epoch": 0}, "max_morphogenesis_per_epoch must be at least 1"),
        ({"max_architecture_changes": -1}, "max_architecture_changes must be at least 0"),
        ({"progressive_activation_epochs": -1}, "progressive_activation_epochs must be at least"),
        ({"neuron_division_strategy": "best"}, "neuron_division_strategy must be one of .* 'best'"),
        ({"division_noise_scale": float("nan")}, "division_noise_scale must be finite"),
        ({"performance_drop_threshold": -0.1}, "performance_drop_threshold must be finite and at"),
        ({"performance_improvement_threshold": float("inf")}, "threshold must be finite"),
        ({"bottleneck_detection_metrics": ["depth"]}, "metrics must be among .* got 'depth'"),
        ({"bottleneck_detection_metrics": []}, "bottleneck_detection_metrics must be among"),
    ],
)
def test_wrong_settings_are_refused_by_name(config: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DNMFramework(YourCNNModel(4), config)


@pytest.mark.parametrize(
    "config, match",
    [
        ({"morphogenesis_interval": 1.5}, "morphogenesis_interval must be an integer, got 1.5"),
        ({"rollback_enabled": 1}, "rollback_enabled must be True or False, got 1"),
        ({"division_noise_scale": "much"}, "division_noise_scale must be a number, got 'much'"),
        ({"bottleneck_detection_metrics": "information_flow"}, "must be a list of names"),
        (["morphogenesis_interval"], "config must be a mapping, got list"),
    ],
)
def test_settings_of_the_wrong_type_are_refused_by_name(config: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        DNMFramework(YourCNNModel(4), config)


def test_before_anything_was_seen_it_is_said_what_to_do() -> None:
    loop = Loop(YourCNNModel(4))
    dnm = DNMFramework(loop.model, {})
    with pytest.raises(GrowthRefusedError, match=r"call update_caches\(activations"):
        dnm.execute_morphogenesis(1)
    dnm.update_caches({"features.0": torch.randn(6, 32, 4, 4)}, {})
    with pytest.raises(GrowthRefusedError, match="run it on a batch first, or pass example_inputs"):
        dnm.execute_morphogenesis(1)
    loop.model(loop.x)
    with pytest.raises(GrowthRefusedError, match="train first, or pass optimizer"):
        dnm.execute_morphogenesis(1)
    given = DNMFramework(loop.model, {}, optimizer=loop.optimizer, example_inputs=loop.x[:2])
    given.update_caches({"features.0": torch.randn(6, 32, 4, 4)}, {})
    with pytest.raises(GrowthRefusedError, match="set progressive_activation_epochs to 0"):
        given.execute_morphogenesis(1)
    loop.epoch()
    with pytest.raises(GrowthRefusedError, match="hybrid division of 'features.0' needs gradients"):
        dnm.execute_morphogenesis(1)


def test_caches_take_lists_in_the_order_of_the_layers() -> None:
    dnm, loop = grown({})
    layers = [n for n, m in loop.model.named_modules() if n and not any(m.children())]
    every = [loop.watched.activations[n] for n in layers]
    dnm.update_caches(every, [loop.watched.gradients[n] for n in layers], loop.y[6:])
    assert list(dnm.caches.activations) == layers
    trained = ["features.0", "features.2", "classifier"]
    dnm.update_caches([loop.watched.activations[n] for n in trained], [])
    assert list(dnm.caches.activations) == trained
    with pytest.raises(ValueError, match="of the 5 layers, or of the 3 with parameters.*list of 4"):
        dnm.update_caches(every[:4], [])


def test_caches_refuse_what_does_not_fit() -> None:
    dnm = DNMFramework(YourCNNModel(4), {})
    fits = {"classifier": torch.randn(6, 10)}
    with pytest.raises(ValueError, match="activations must be named by layers among .* got 'head'"):
        dnm.update_caches({"head": torch.randn(6, 10)}, {})
    with pytest.raises(ValueError, match=r"gradients\['classifier'\] must be at what .*\(6, 10\)"):
        dnm.update_caches(fits, {"classifier": torch.randn(10, 4)})
    with pytest.raises(ValueError, match=r"activations\['classifier'\] must have .* 10 units.*7"):
        dnm.update_caches({"classifier": torch.zeros(6, 7)}, {})
    with pytest.raises(ValueError, match="targets must be 6, one for each example; got 5"):
        dnm.update_caches(fits, {}, torch.zeros(5))
    with pytest.raises(TypeError, match=r"activations\['classifier'\] must be a tensor of floats"):
        dnm.update_caches({"classifier": [1.0]}, {})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="activations must hold those of at least one layer"):
        dnm.update_caches({}, {})
    assert not dnm.caches.activations


@pytest.mark.parametrize("where", ["activations", "gradients"])
def test_numbers_that_are_not_finite_never_enter_and_forbid_growth(where: str) -> None:
    dnm, loop = grown({"morphogenesis_interval": 1})
    held = dict(dnm.caches.activations)
    given = {k: dict(getattr(loop.watched, k)) for k in ("activations", "gradients")}
    given[where]["features.1"] = torch.full_like(given[where]["features.1"], float("nan"))
    dnm.update_caches(given["activations"], given["gradients"], loop.y[6:])
    assert equal(dnm.caches.activations, held)
    dnm.should_trigger_morphogenesis(1, {}, {"accuracy": 0.5})
    grow, why = dnm.should_trigger_morphogenesis(2, {}, {"accuracy": 0.5})
    assert (grow, why) == (False, ["gradient health: the gradient is not finite"])
    loop.tell(dnm)
    grow, why = dnm.should_trigger_morphogenesis(3, {}, {"accuracy": float("nan")})
    assert (grow, why) == (False, ["a metric of this epoch is nan"])
    assert dnm.should_trigger_morphogenesis(4, {}, {"accuracy": 0.5})[0]


def test_a_performance_that_cannot_be_compared_is_refused() -> None:
    dnm = DNMFramework(YourCNNModel(4), {})
    with pytest.raises(ValueError, match="performance must be below infinity, got inf"):
        dnm.record_performance(float("inf"))
    with pytest.raises(TypeError, match="performance must be a number, got 'good'"):
        dnm.record_performance("good")  # type: ignore[arg-type]
    assert dnm.get_morphogenesis_summary()["performance"] == []


def test_a_grown_network_is_saved_loaded_and_grown_further(tmp_path: Path) -> None:
    config = {"max_morphogenesis_per_epoch": 1, "progressive_activation_epochs": 0}
    dnm, loop = grown(config)
    assert dnm.morpher is None
    assert dnm.spec.steps == []
    dnm.execute_morphogenesis(1)
    file = tmp_path / "grown.safetensors"
    save_checkpoint(file, loop.model, dnm.spec, loop.optimizer)
    again = Loop(YourCNNModel(4))
    spec = load_checkpoint(file, again.model, again.optimizer)
    assert equal(again.model.state_dict(), loop.model.state_dict())
    with pytest.raises(ValueError, match="the spec does not fit: after its last edit"):
        DNMFramework(YourCNNModel(4), spec=spec)
    other = DNMFramework(again.model, config, spec=spec)
    again.epoch()
    again.tell(other)
    other.execute_morphogenesis(1)
    assert other.morpher is not None
    assert len(other.spec.steps) == 2
    save_checkpoint(file, again.model, other.spec)
    last = YourCNNModel(4)
    load_checkpoint(file, last)
    assert equal(last.state_dict(), again.model.state_dict())


def test_events_say_after_which_step_of_the_optimizer_they_came() -> None:
    dnm, loop = grown({"max_morphogenesis_per_epoch": 1}, epochs=2)
    assert [e.step for e in dnm.execute_morphogenesis(1)["events"]] == [4]
    loop.epoch()
    loop.tell(dnm)
    assert [e.step for e in dnm.execute_morphogenesis(2)["events"]] == [6]


def test_metrics_without_a_result_are_refused() -> None:
    dnm = DNMFramework(YourCNNModel(4), {})
    with pytest.raises(ValueError, match="val_metrics must have 'accuracy' or 'loss', got"):
        dnm.should_trigger_morphogenesis(1, {}, {"f1": 0.5})
    with pytest.raises(TypeError, match="epoch must be an integer, got 'a'"):
        dnm.should_trigger_morphogenesis("a", {}, {"accuracy": 0.5})  # type: ignore[arg-type]


# what it hears


def test_gradients_that_no_step_has_used_are_not_lost() -> None:
    dnm, loop = grown({})
    loop.optimizer.zero_grad()
    F.cross_entropy(loop.model(loop.x), loop.y).backward()
    wanted = [p.grad.clone() for p in loop.model.parameters() if p.grad is not None]
    with pytest.raises(GrowthRefusedError, match="has a gradient: "):
        _grow(dnm)
    kept = [p.grad for p in loop.model.parameters() if p.grad is not None]
    assert equal(kept, wanted)


def _grow(dnm: DNMFramework) -> None:
    if not dnm.execute_morphogenesis(1)["events"]:
        raise GrowthRefusedError(str(dnm.events[-1].why_not))


def test_other_models_optimizers_are_left_alone_and_new_ones_are_found() -> None:
    dnm, loop = grown({"morphogenesis_interval": 1})
    other = nn.Linear(2, 2)
    stranger = torch.optim.SGD(other.parameters(), 0.1)
    other(torch.randn(1, 2)).sum().backward()
    stranger.step()
    loop.optimizer = torch.optim.AdamW(loop.model.parameters())
    loop.epoch()
    loop.tell(dnm)
    dnm.execute_morphogenesis(1)
    shapes = {p: p.shape for p in loop.model.parameters()}
    assert all(loop.optimizer.state[p]["exp_avg"].shape == shape for p, shape in shapes.items())
    assert stranger not in dnm._run._watch.optimizers
    loop.epoch()


def test_a_compiled_model_grows_and_stays_compiled_as_one_graph() -> None:
    torch.manual_seed(0)
    inner = YourCNNModel(4)
    model = torch.compile(inner, backend="eager", fullgraph=True)
    dnm = DNMFramework(model, {})
    optimizer = torch.optim.SGD(inner.parameters(), 0.01)
    x, outputs = torch.randn(6, 3, 4, 4), torch.randn(6, 32, 4, 4)
    for epoch in range(3):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        dnm.update_caches({"features.0": outputs}, {"features.0": outputs})
        before = model(x).detach()
        assert dnm.execute_morphogenesis(epoch)["neuron_divisions"] == 1
        assert dnm.model is model
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
        outputs = torch.randn(6, inner.features[0].out_channels, 4, 4)
    assert inner.features[0].out_channels > 40


def test_closing_stops_listening_and_a_copy_of_the_model_is_nobodys_run() -> None:
    from torch.optim.optimizer import _global_optimizer_pre_hooks as hooks

    gc.collect()
    before = len(hooks)
    loop = Loop(YourCNNModel(4))
    listening = len(loop.model._forward_pre_hooks)
    dnm = DNMFramework(loop.model, {})
    assert len(hooks) == before + 1
    copied = copy.deepcopy(loop.model)
    copied(loop.x)
    assert not dnm._run.ready()
    dnm.close()
    assert len(hooks) == before
    assert len(loop.model._forward_pre_hooks) == listening
    loop.epoch()
    assert not dnm._run.ready()
    again = DNMFramework(loop.model, {})
    del again
    gc.collect()
    assert len(hooks) == before
