"""What rules of learning are given: what makes no sense is refused, autocast changes nothing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops import Calibration, SpikeTensor, use_calibration
from spike_ops.learning import (
    BCM,
    STDP,
    DecolleLayer,
    EProp,
    Hebbian,
    InhibitorySTDP,
    Oja,
    PairSTDP,
    PowerLaw,
    Proportional,
    RewardSTDP,
    SynapticScaling,
    TripletSTDP,
    apply_,
    exponential_trace,
    normalize_,
    reverse_trace,
    trace_gradient,
)
from spike_ops.neuron import LIF

RULES = [
    PairSTDP(3.0, 5.0), PairSTDP(3.0, 5.0, pairing="nearest"), TripletSTDP(2.0, 3.0, 6.0, 8.0),
    InhibitorySTDP(5.0, 0.1), Hebbian(), Oja(), BCM(3.0, 20.0), SynapticScaling(0.1, 10.0),
]  # fmt: skip
NEVER, ALWAYS = Calibration(event_call=1e18), Calibration(dense_call=1e18)


def trains(*shape: int, seed: int = 0, density: float = 0.3) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn < density).float()


PRE, POST = trains(20, 3, 9), trains(20, 3, 7, seed=1)
WEIGHT = torch.randn(7, 9, generator=torch.Generator().manual_seed(2))
REWARDS = torch.randn(20, 3, 7, generator=torch.Generator().manual_seed(3))


# learning rates and settings


@pytest.mark.parametrize("lr", [math.nan, math.inf, -math.inf, -0.1])
def test_a_learning_rate_that_makes_no_sense_changes_nothing(lr: float) -> None:
    layer = nn.Linear(9, 7)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="lr must be"):
        PairSTDP().step(layer, PRE, POST, lr=lr)
    with pytest.raises(ValueError, match="lr must be"):
        RewardSTDP().step(layer, PRE, POST, REWARDS[:, 0, 0], lr=lr)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: PairSTDP(a_plus=math.nan), "a_plus must be finite"),
        (lambda: PairSTDP(tau_post=0.5), "tau_post must be at least 1"),
        (lambda: TripletSTDP(a3_plus=math.inf), "a3_plus must be finite"),
        (lambda: TripletSTDP(tau_x=-1.0), "tau_x must be at least"),
        (lambda: BCM(tau_threshold=0.5), "tau_threshold must be at least 1"),
        (lambda: SynapticScaling(target_rate=math.inf), "target_rate must be positive and finite"),
        (lambda: normalize_(WEIGHT.clone(), math.inf), "total must be positive and finite"),
        (lambda: PowerLaw(mu_plus=math.nan), "mu_plus must be finite"),
        (lambda: PowerLaw(high=math.inf), "high must be finite"),
        (lambda: Proportional(-1.0), "limit must be positive"),
        (lambda: EProp(0.5, beta=math.nan), "beta must be finite"),
        (lambda: DecolleLayer(3, 3, 2, tau_syn=-1.0), "tau_syn must be at least"),
        (lambda: DecolleLayer(3, 3, 2, refractory=math.nan), "refractory must be finite"),
    ],
)
def test_a_setting_outside_its_range_is_named(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: PairSTDP(a_plus="1"), "a_plus must be a number, got '1'"),
        (lambda: PairSTDP(tau_pre="2"), "tau_pre must be a number"),
        (lambda: PairSTDP().step(nn.Linear(9, 7), PRE, POST, lr="1"), "lr must be a number"),
        (lambda: PairSTDP()([1.0], POST, WEIGHT), "pre must be a torch.Tensor, got list"),
        (lambda: PairSTDP()(PRE, POST, [1.0]), "weight must be a torch.Tensor"),
        (lambda: apply_(nn.Linear(9, 7), WEIGHT, bounds=1.0), "bounds must be"),
        (lambda: apply_(nn.Linear(9, 7), WEIGHT, bounds=("0", None)), "bounds.* must be a number"),
        (lambda: apply_(nn.Linear(9, 7), [1.0]), "dw must be a torch.Tensor"),
        (lambda: STDP(nn.Linear(9, 7), LIF()), r"\[out, in\], got LIF: STDP\(node, connection"),
        (lambda: STDP(LIF(), None), "connection must be a torch.nn.Module, got NoneType"),
        (lambda: STDP(LIF(), nn.Linear(9, 7), trace_pre="0"), "trace_pre must be a number"),
        (lambda: STDP(LIF(), nn.Linear(9, 7), tau_post="2"), "tau_post must be a number"),
        (lambda: STDP(LIF(), nn.Linear(9, 7))([1.0]), "x must be a torch.Tensor"),
        (lambda: DecolleLayer(3, 3, 2, surrogate="atan"), "surrogate must be"),
        (lambda: exponential_trace(PRE, "1"), "decay must be a number"),
    ],
)
def test_what_is_no_number_or_layer_is_named(make: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        make()


# autocast


def found(packed: bool) -> list[Tensor]:
    """Return what all rules make of one window."""
    pre, post = (SpikeTensor.from_dense(each) if packed else each for each in (PRE, POST))
    states = [rule(pre, post, WEIGHT) for rule in RULES]
    states += [RewardSTDP(PairSTDP(3.0))(pre, post, WEIGHT, REWARDS[:, 0, 0])]
    states += [RewardSTDP(PairSTDP(3.0), carry=True)(pre, post, WEIGHT, REWARDS)]
    states += [EProp(0.8, 0.5, 0.1, 0.9, carry=True)(pre, POST, REWARDS, WEIGHT)]
    states += [trace_gradient(pre, REWARDS, 0.7, WEIGHT)]
    layer = DecolleLayer(9, 7, 4)
    out = layer(pre)
    layer.learn_(pre, out, lambda y: y.double().square().sum())
    assert layer.weight.grad is not None
    traces = exponential_trace(REWARDS, 0.7), reverse_trace(REWARDS, 0.7)
    flat = [each for update in states for each in (update.dw, *update.state)]
    return [*flat, *traces, out.spikes, out.membrane, *out.state, layer.weight.grad]


@pytest.mark.parametrize("costs", [NEVER, ALWAYS], ids=["dense", "event"])
@pytest.mark.parametrize("packed", [False, True])
def test_autocast_rounds_nothing_that_a_rule_computes(packed: bool, costs: Calibration) -> None:
    with use_calibration(costs):
        wanted = found(packed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = found(packed)
    assert [each.dtype for each in got] == [each.dtype for each in wanted]
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_inhibitory_rule_counts_beyond_the_largest_half(dtype: torch.dtype) -> None:
    pre, silent = torch.ones(33_000, 2, 1), torch.zeros(33_000, 2, 1)
    rule = InhibitorySTDP(tau=2.0, target_rate=2**-11)
    dw = rule(pre, silent, torch.zeros(1, 1, dtype=dtype)).dw
    assert dw == torch.tensor(-66_000 * rule.alpha).to(dtype)
