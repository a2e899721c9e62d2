"""What does not fit is named by what it does not fit: shapes, kinds and types."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops import encoding
from spike_ops.functional import explain, linear_lif, spike_mm
from spike_ops.learning import DecolleLayer, PairSTDP
from spike_ops.memory import OTTT
from spike_ops.monitor import Monitor
from spike_ops.neuron import ALIF, GLIF, IF, LIF, PLIF, Delay, IFNode, LIFNode, build
from spike_ops.nn import BatchNorm2d, Conv2d, Linear

X = torch.rand(4, 2, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: PLIF(shape=(7,))(X), r"neurons' shape \(7,\), got steps of \(2, 12\)"),
        (lambda: PLIF(shape=(7,), backend="compiled")(X), r"neurons' shape \(7,\)"),
        (lambda: GLIF(shape=(7,))(X), r"neurons' shape \(7,\), got steps of \(2, 12\)"),
        (lambda: GLIF(shape=(3, 2, 12))(X), r"neurons' shape \(3, 2, 12\)"),
        (
            lambda: encoding.delta(X, 0.5, start=torch.zeros(7)),
            r"start must be .*, got \(7,\) for steps of \(2, 12\)",
        ),
        (
            lambda: DecolleLayer(11, 5, 3)((X > 0.5).float()),
            r"spikes must be \[T, B, 11\], got \(4, 2, 12\)",
        ),
        (
            lambda: BatchNorm2d(2)(torch.ones(4, 2, 7, 3, 3)),
            r"input must have 2 channels, got 7 of \(4, 2, 7, 3, 3\)",
        ),
        (lambda: Linear(-1, 4), "in_features must be at least 0, got -1"),
        (lambda: Linear(4, -1), "out_features must be at least 0, got -1"),
    ],
)
def test_shapes_that_do_not_fit_are_named(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("shape", [(), (1,), (12,), (2, 1), (1, 12)])
@pytest.mark.parametrize("kind", [PLIF, GLIF])
def test_shapes_that_broadcast_fit(kind: Any, shape: tuple[int, ...]) -> None:
    neuron = kind(shape=shape)
    assert torch.equal(neuron(X), kind()(X))
    assert build(neuron, X)[""].backend == "compiled"
    start = torch.zeros(shape)
    assert torch.equal(
        encoding.delta(X, 0.5, start=start), encoding.delta(X, 0.5, start=torch.zeros(2, 12))
    )


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: build(nn.Linear(2, 2), "x"), "currents must be a torch.Tensor, got str"),
        (lambda: build("x", X), "module must be a torch.nn.Module, got 'x'"),
        (lambda: build(LIF, X), "module must be a torch.nn.Module, got <class"),
        (
            lambda: PairSTDP().step(nn.Linear(2, 2).weight, X, X),  # type: ignore[arg-type]
            r"connection must have a weight \[out, in\] or be a convolution, got Parameter",
        ),
        (lambda: Linear(2, 2, spike_in="yes"), "spike_in must be True or False, got 'yes'"),
        (lambda: Conv2d(2, 2, 1, spike_in=1), "spike_in must be True or False, got 1"),
        (
            lambda: OTTT(nn.Linear(2, 2), decay=0.5, stateful=1),  # type: ignore[arg-type]
            "stateful must be True or False, got 1",
        ),
        (
            lambda: linear_lif(X, torch.ones(3, 12), neurons=IFNode()),
            "neurons must be a LIF or an IF, got IFNode",
        ),
        (
            lambda: linear_lif(X, torch.ones(3, 12), neurons=LIFNode()),
            "neurons must be a LIF or an IF, got LIFNode",
        ),
    ],
)
def test_what_is_of_another_kind_is_named(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        make()


@pytest.mark.parametrize("function", [explain, spike_mm])
def test_a_plan_is_refused_where_its_product_is(function: Callable[[Tensor, Tensor], Any]) -> None:
    spikes, weight = torch.eye(4), torch.ones(4, 2)
    function(spikes, weight)
    with pytest.raises(TypeError, match="spikes and weight must have one dtype"):
        function(spikes, weight.double())


# states that go on


@pytest.mark.parametrize("make", [LIF, ALIF, PLIF])
def test_a_stream_of_other_neurons_is_refused_before_a_reset(make: Any) -> None:
    neuron = make(stateful=True)
    neuron(X)
    before = neuron.state
    with pytest.raises(ValueError, match=r"a step of \(2, 5\) after one of \(2, 12\); reset()"):
        neuron(X[..., :5])
    assert neuron.state is before
    assert torch.equal(neuron(X[:, :1]), make()(X[:, :1]))  # another batch begins anew
    neuron.reset()
    assert torch.equal(neuron(X[..., :5]), make()(X[..., :5]))


def test_a_delay_that_grows_begins_anew() -> None:
    delay = Delay(1, stateful=True)
    delay(X)
    delay.delays = torch.tensor(3)
    assert torch.equal(delay(X), Delay(3)(X))


# what was watched


def test_a_batch_of_none_is_nothing_watched() -> None:
    net = nn.Sequential(IF())
    with Monitor(net) as monitor:
        net(X[:, :0])
        with pytest.raises(ValueError, match="the network must run between"):
            monitor.get_avg_firing_rate()
        assert monitor.activities() == {}
        net(X)
        seen = monitor.get_avg_firing_rate()
        net(X[:, :0])
    assert monitor.get_avg_firing_rate() == seen
    assert monitor.activity("0").calls == 1


def test_what_was_never_watched_is_told_by_all() -> None:
    monitor = Monitor(net := nn.Sequential(IF()))
    net(X)
    for ask in (monitor.activities, monitor.get_avg_firing_rate, monitor.get_nonfire_ratio):
        with pytest.raises(ValueError, match=r"must run between enable\(\) and disable\(\)"):
            ask()


def test_a_sample_beyond_the_batch_is_named() -> None:
    net = nn.Sequential(IF())
    with Monitor(net, traces=1, sample=7) as monitor:
        net(X)
        with pytest.raises(ValueError, match="sample must be in the batch: no call had one number"):
            monitor.trace("0")
        net(X.repeat(1, 4, 1))
    assert len(monitor.trace("0").steps) == 4
