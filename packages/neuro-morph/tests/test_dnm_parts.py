"""The parts of the seed's face, each by itself."""

from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    AdaptiveNeuronDivision,
    ConnectionGrowthManager,
    DNMNet2Net,
    GrowthRefusedError,
    LayerPerformanceAnalyzer,
    Morpher,
)
from neuro_morph._dnm_caches import LayerCaches
from neuro_morph._dnm_when import Monitor


def images(n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).double()


def cached(model: nn.Module, *, gradients: bool = True) -> LayerCaches:
    """What the layers of a model do on images whose classes are 0 to 4."""
    outputs: dict[str, Any] = {}
    x, y = images(40), torch.arange(40) % 5
    hooks = [
        m.register_forward_hook(lambda _, a, out, n=n: outputs.__setitem__(n, out))
        for n, m in model.named_children()
    ]
    loss = nn.functional.cross_entropy(model(x), y)
    for hook in hooks:
        hook.remove()
    found = torch.autograd.grad(loss, list(outputs.values()))
    caches = LayerCaches()
    grads = dict(zip(outputs, found, strict=True)) if gradients else {}
    caches.update(model, outputs, grads, y)
    return caches


def test_net2net_makes_any_network_wider_deeper_and_connected_without_a_change() -> None:
    model, x = net().eval(), images()
    before = model(x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    grower = DNMNet2Net(model, x, optimizer=optimizer)
    events = [
        grower.wider("0", by=3),
        grower.wider("3", by=2, share=0.4),
        grower.deeper("2", block="identity"),
        grower.skip("0", "3"),
    ]
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert all(event.parameters_added > 0 for event in events)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    with pytest.raises(KeyError, match="group must be one of"):
        grower.wider("head", by=1)
    with pytest.raises(GrowthRefusedError, match="cannot grow"):
        grower.wider("6", by=1)


def test_the_analyzer_gives_every_group_every_metric_as_the_statistics_of_a_pass_do() -> None:
    from neuro_morph import collect_statistics

    model, x = net().eval(), images()
    morpher = Morpher(model, example_inputs=x[:2], capture="dispatch")
    analyzer = LayerPerformanceAnalyzer()
    held = analyzer.measure(model, morpher.graph, morpher.inputs, cached(model))
    data = [(images(40), torch.arange(40) % 5)]
    truth = collect_statistics(
        model, morpher.graph, data, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])
    )
    values = analyzer.analyze(held)
    assert list(values) == ["0", "3"]
    assert all(set(each) == set(analyzer.metrics) for each in values.values())
    for group in values:
        for name in ("unit_mean", "unit_second", "taylor", "samples"):
            mine, theirs = getattr(held[group], name), getattr(truth[group], name)
            torch.testing.assert_close(mine, theirs, msg=f"{name} of {group}")
    bias = truth["3"].gradient_mean
    assert bias is not None
    assert list(analyzer.scores(held)) == sorted(values, key=lambda g: -analyzer.scores(held)[g])


def test_the_analyzer_says_what_it_cannot_find() -> None:
    model, x = net().eval(), images()
    morpher = Morpher(model, example_inputs=x[:2], capture="dispatch")
    analyzer = LayerPerformanceAnalyzer(["gradient_variance", "information_flow"])
    caches = cached(model, gradients=False)
    del caches.activations["3"], caches.activations["4"], caches.activations["5"]
    held = analyzer.measure(model, morpher.graph, morpher.inputs, caches)
    assert "no layer that gives its units is in the caches" in held.skipped["3"]
    values = analyzer.analyze(held)["0"]
    assert values["gradient_variance"] != values["gradient_variance"]
    assert 0.0 <= values["information_flow"] <= 1.5  # by the targets
    with pytest.raises(ValueError, match="metrics must be among .* got"):
        LayerPerformanceAnalyzer(["width"])


def test_a_division_names_its_parents_and_is_carried_out_exactly() -> None:
    model, x = net().eval(), images()
    morpher = Morpher(model, example_inputs=x[:2], capture="dispatch")
    held = LayerPerformanceAnalyzer().measure(model, morpher.graph, morpher.inputs, cached(model))
    division = AdaptiveNeuronDivision("activation_based", noise=0.0, growth=0.5)
    variance = held["3"].covariance().diagonal()
    assert division.parents(held["3"]) == tuple(variance.argsort(descending=True)[:3].tolist())
    before = model(x)
    event = division.divide(morpher, held["3"])
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert model[3].out_channels == 9
    assert event.parameters_added == 3 * (8 * 9 + 1 + 16 * 5)
    with pytest.raises(ValueError, match="strategy must be one of"):
        AdaptiveNeuronDivision("random")
    with pytest.raises(ValueError, match="growth must be above 0"):
        AdaptiveNeuronDivision(growth=0.0)


def test_the_connection_with_the_steepest_gain_is_grown_and_none_twice() -> None:
    model, x = net().eval(), images()
    morpher = Morpher(model, example_inputs=x[:2], capture="dispatch")
    caches, manager = cached(model), ConnectionGrowthManager()
    scores = manager.scores(morpher, caches)
    pairs = [(score.source, score.target) for score in scores]
    assert ("2", "3") not in pairs  # what it reads anyway
    assert ("3", "0") not in pairs  # backwards
    before = model(x)
    event = manager.grow(morpher, caches)
    assert (event.detail["source"], event.target) == pairs[0]
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert pairs[0] not in [(s.source, s.target) for s in manager.scores(morpher, caches)]


def test_the_gain_of_a_connection_is_the_square_of_its_first_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Linear(5, 2)).double()
    x, y = torch.randn(20, 3).double(), torch.randn(20, 2).double()
    morpher = Morpher(model, example_inputs=x[:2], capture="dispatch")
    outputs: dict[str, Any] = {}
    for n, m in model.named_children():
        m.register_forward_hook(lambda _, a, out, n=n: outputs.__setitem__(n, out))
    loss = (model(x) - y).square().mean()
    found = torch.autograd.grad(loss, list(outputs.values()))
    caches = LayerCaches()
    caches.update(model, outputs, dict(zip(outputs, found, strict=True)), None)
    best = ConnectionGrowthManager().scores(morpher, caches)[0]
    ConnectionGrowthManager().grow(morpher, caches)
    (model(x) - y).square().mean().backward()
    edge = next(p for n, p in model.named_parameters() if "grown" in n)
    assert edge.grad is not None
    assert float(edge.grad.square().sum()) == pytest.approx(best.gain, rel=1e-9)


def test_three_theories_outvote_a_metric_that_still_improves_and_two_do_not() -> None:
    monitor = Monitor(interval=1, threshold=0.01)
    for k in range(3):
        monitor.add_epoch({}, {"accuracy": 0.1 * k})
    monitor.traces.used_rank.append(0.95)
    monitor.traces.spread.append(0.9)
    grow, why = monitor.decide()
    assert not grow
    assert "improved by 0.1" in why[0]
    assert "2 of 3 theories ask for growth" in why[0]
    monitor.traces.saturated.append(0.6)
    grow, why = monitor.decide()
    assert grow
    assert [reason.partition(":")[0] for reason in why] == ["information", "saturation", "topology"]


def test_a_loss_that_has_stopped_falling_is_a_plateau_and_a_held_out_loss_counts_downwards() -> (
    None
):
    monitor = Monitor(interval=4, threshold=0.01)
    generator = torch.Generator().manual_seed(0)
    for k in range(24):
        noise = 0.002 * float(torch.randn((), generator=generator))
        loss = max(2.0 - 0.15 * k, 0.8) + noise
        monitor.add_epoch({"loss": loss}, {"loss": loss})
    grow, why = monitor.decide()
    assert grow
    assert [reason.partition(":")[0] for reason in why] == ["performance", "plateau"]


def test_gradients_out_of_bounds_forbid_growth() -> None:
    monitor = Monitor(interval=1, threshold=0.01)
    for _ in range(3):
        monitor.add_epoch({}, {"accuracy": 0.5})
    monitor.traces.gradient_norm += [1.0, 1.0, 100.0]
    grow, why = monitor.decide()
    assert (grow, why) == (
        False,
        ["gradient health: the gradient's norm is 1e+02 times that of before"],
    )
