"""What neurons are given: arguments that are refused by name, and settings that are told."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spike_ops import surrogate as surrogates
from spike_ops.memory import SLTT
from spike_ops.neuron import (
    ALIF,
    CLIF,
    CUBA,
    EIF,
    GLIF,
    IF,
    ILIF,
    KLIF,
    LIAF,
    LIF,
    PLIF,
    PSN,
    QIF,
    SRM,
    AdEx,
    BaseNode,
    Delay,
    IFNode,
    Izhikevich,
    LIFNode,
    MaskedPSN,
    Membrane,
    Neuron,
    Recurrent,
    Refractory,
    SigmaDelta,
    SlidingPSN,
    TsodyksMarkram,
    build,
)
from spike_ops.nn import (
    MembraneBatchNormLIF,
    TemporalEffectiveBatchNorm,
    ThresholdBatchNorm,
    TimeBatchNorm,
)

X = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
PRIMITIVE = surrogates.Sigmoid(spiking=False)

# what fires by a surrogate
FIRING: dict[str, Callable[..., Any]] = {
    "LIF": LIF, "ALIF": ALIF, "SRM": SRM, "PSN": lambda **o: PSN(4, **o),
    "SlidingPSN": lambda **o: SlidingPSN(2, **o),
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong, told",
    [
        ("atan", "got 'atan'"),
        (surrogates.ATan, r"got the class ATan; ATan\(\)"),
        (torch.sigmoid, "got builtin_function_or_method"),
        (nn.Sigmoid(), "got Sigmoid"),
    ],
)
@pytest.mark.parametrize("row", FIRING)
def test_what_is_no_surrogate_is_named(row: str, wrong: Any, told: str) -> None:
    with pytest.raises(TypeError, match=f"surrogate must be a .*Surrogate, {told}"):
        FIRING[row](surrogate=wrong)
    if isinstance(made := FIRING[row](), Neuron):
        before = made.surrogate
        with pytest.raises(TypeError, match="surrogate must be"):
            made.surrogate = wrong
        assert made.surrogate is before


# bits of what is not 0 or 1


@pytest.mark.parametrize("row", FIRING)
def test_bits_of_a_primitive_are_refused(row: str) -> None:
    with pytest.raises(ValueError, match="spike_out needs spikes"):
        FIRING[row](surrogate=PRIMITIVE, spike_out=True)
    assert not set(FIRING[row](surrogate=PRIMITIVE)(X).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: LIF(surrogate=PRIMITIVE),
        lambda: Refractory(ALIF(surrogate=PRIMITIVE), 1),
        lambda: SLTT(LIF(surrogate=PRIMITIVE)),
        lambda: ILIF(beta=1.0),
        TsodyksMarkram,
        lambda: Delay(1),
        SigmaDelta,
    ],
)
@pytest.mark.parametrize("built", [False, True])
def test_bits_asked_for_later_are_spikes_or_refused(make: Any, built: bool) -> None:
    neuron = make()
    neuron.stateful = True
    if built:
        build(neuron, X)
    neuron.spike_out = True
    with pytest.raises(ValueError, match="spikes must be 0 or 1"):
        neuron(4 * X)
    assert neuron.state is None


# steps of one's own, inside


class Twice(LIF):
    def step(self, current: Tensor, state: Any) -> Any:
        return super().step(2 * current, state)


class Learned(PLIF):
    def step(self, current: Tensor, state: Any) -> Any:
        return super().step(3 * current, state)


WRAPPERS: dict[str, Callable[..., Neuron]] = {
    "refractory": lambda neuron, **o: Refractory(neuron, 0, **o),
    "sltt": SLTT,
    "recurrent": lambda neuron, **o: Recurrent(neuron, torch.zeros_like, **o),
    "both": lambda neuron, **o: Refractory(SLTT(neuron), 0, **o),
}


@pytest.mark.parametrize("kind", [Twice, Learned])
@pytest.mark.parametrize("row", WRAPPERS)
def test_a_step_of_ones_own_is_that_inside_a_wrapper(row: str, kind: type[Neuron]) -> None:
    wrapped, plain = WRAPPERS[row](kind()), kind()
    assert torch.equal(wrapped(2 * X), plain(2 * X))
    assert not torch.equal(wrapped(2 * X), kind.__bases__[0]()(2 * X))
    assert build(wrapped, X)[""].backend == "reference"
    assert torch.equal(wrapped(2 * X), plain(2 * X))


@pytest.mark.parametrize("row", WRAPPERS)
def test_wrapped_neurons_fire_by_their_own_surrogate(row: str) -> None:
    with pytest.raises(TypeError, match="takes no surrogate: .* fires by its own"):
        WRAPPERS[row](LIF(), surrogate=surrogates.Sigmoid())
    with pytest.raises(TypeError, match=r"neuron must be a spike_ops.neuron.Neuron, got Linear"):
        WRAPPERS[row](nn.Linear(3, 3))


def test_a_connection_that_is_no_function_is_named() -> None:
    with pytest.raises(TypeError, match="connection must take spikes to currents, got None"):
        Recurrent(LIF(), None)  # type: ignore[arg-type]


# numbers


TAUS = (LIF, PLIF, KLIF, ALIF, CUBA, QIF, EIF, AdEx, SRM, LIAF, CLIF, LIFNode)


@pytest.mark.parametrize("wrong", ["2", None, [2.0], torch.tensor(2.0), 2j])
@pytest.mark.parametrize("kind", TAUS)
def test_a_time_constant_that_is_no_number_is_named(kind: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match="tau must be a number, got"):
        kind(tau=wrong)
    assert kind(tau=np.float32(2.5))(X).shape == X.shape


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: surrogates.ATan(alpha="2"), "alpha must be a number, got '2'"),
        (lambda: LIF(threshold="1"), "threshold must be a number, got '1'"),
        (lambda: ALIF(threshold="1"), "threshold must be a number"),
        (lambda: ALIF(v_reset=[0]), "v_reset must be a number"),
        (lambda: ALIF(kappa="1"), "kappa must be a number"),
        (lambda: LIF(v_leak="1"), "v_leak must be a number"),
        (lambda: LIFNode(v_threshold="1"), "v_threshold must be a number"),
        (lambda: QIF(v_c="1"), "v_c must be a number"),
        (lambda: Izhikevich(dt="1"), "dt must be a number"),
        (lambda: GLIF(alpha="1"), "alpha must be a number"),
        (lambda: LIAF(activation=None), "activation must be a function"),
        (lambda: ILIF(most="4"), "most must be a whole number"),
        (lambda: LIF(steps="4"), "steps must be a whole number"),
        (lambda: MaskedPSN(4, order=1, masking="1"), "masking must be a number"),
        (lambda: TimeBatchNorm("3"), "features must be a whole number"),
        (lambda: Refractory(LIF(), "a"), "period must be a whole number of steps"),
        (lambda: LIF(v_threshold=1.0), "v_threshold"),
        (lambda: LIF()(X.numpy()), "currents must be a torch.Tensor, got ndarray"),
        (lambda: LIF()([1.0]), "currents must be a torch.Tensor, got list"),
        (lambda: LIFNode()(X.numpy()), "x must be a torch.Tensor, got ndarray"),
        (lambda: PSN(4)(X.numpy()), "currents must be a torch.Tensor, got ndarray"),
        (lambda: SlidingPSN(2)([1.0]), "currents must be a torch.Tensor, got list"),
        (lambda: TimeBatchNorm(3)(X.numpy()), "x must be a torch.Tensor, got ndarray"),
    ],
)
def test_what_is_no_number_or_tensor_is_named(make: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        make()


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: LIF(v_reset=-np.inf), "v_reset must be finite"),
        (lambda: LIF(v_leak=np.nan), "v_leak must be finite"),
        (lambda: AdEx(b=np.nan), "b must be finite"),
        (lambda: MaskedPSN(4, order=5), "order must be in 1..4, the steps, got 5"),
        (lambda: MaskedPSN(4, order=0), "order must be in 1..4"),
        (lambda: SlidingPSN(1.5), "order must be a whole number, got 1.5"),  # type: ignore[arg-type]
        (lambda: Izhikevich(dt=2.0), "at most 1 ms, got 2.0: it is in milliseconds"),
        (lambda: ThresholdBatchNorm(3, threshold=np.inf), "threshold must be positive and finite"),
    ],
)
def test_a_number_outside_its_range_is_named(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("kind", [Neuron, Membrane, BaseNode])
def test_a_neuron_that_defines_no_step_says_what_is_missing(kind: type[Neuron]) -> None:
    with pytest.raises(NotImplementedError, match=f"{kind.__name__} must define "):
        kind()(X)


# what is told


@pytest.mark.parametrize(
    "module, told",
    [
        (LIF(), "tau=2.0, threshold=1.0, hard reset, surrogate=ATan("),
        (LIF(v_reset=-1.0), "hard reset, v_reset=-1.0, surrogate="),
        (LIF(reset="soft", strict=True), "soft reset, strict=True, surrogate="),
        (LIF(discretization="exponential"), "hard reset, discretization='exponential', surrogate="),
        (LIF(reset_delay=True, detach_reset=True), "detach_reset=True, reset_delay=True, "),
        (LIF(decay_input=False, v_leak=0.5), "decay_input=False, v_leak=0.5, "),
        (LIF(backend="reference", steps=4), "steps=4, backend='reference', "),
        (LIF(stateful=True, spike_out=True), "stateful=True, spike_out=True, "),
        (IF(v_reset=-1.0), "tau=inf, threshold=1.0, hard reset, v_reset=-1.0, surrogate="),
        (ALIF(tau=3.0, v_reset=-1.0, decay_input=False), "tau=3.0, decay_input=False, v_reset=-1"),
        (CUBA(order="membrane first"), "order='membrane first'"),
        (AdEx(3.0, tau_w=9.0, delta=0.5), "tau=3.0, tau_w=9.0, delta=0.5, "),
        (Izhikevich(c=-60.0), "c=-60.0"),
        (SRM(tau_refractory=3.0), "tau_refractory=3.0"),
        (TsodyksMarkram(tau_depression=3.0), "tau_depression=3.0"),
        (MembraneBatchNormLIF(3, 4.0), "tau=4.0"),
        (LIFNode(3.0, detach_reset=True), "T=1, tau=3.0, detach_reset=True"),
        (IFNode(v_reset=None), "v_threshold=1.0, v_reset=None, T=1"),
        (Refractory(IF(), 2), "period=2"),
        (PSN(4), "(4, surrogate="),
        (MaskedPSN(4, order=3, masking=0.5), "4, order=3, masking=0.5, "),
        (SlidingPSN(3), "(3, surrogate="),
        (ThresholdBatchNorm(3, alpha=0.5), "3, eps=1e-05, momentum=0.1, threshold=1.0, alpha=0.5"),
        (TemporalEffectiveBatchNorm(3, steps=4), "momentum=0.1, steps=4"),
    ],
)  # fmt: skip
def test_a_modules_line_tells_what_is_not_as_usual(module: nn.Module, told: str) -> None:
    assert told in repr(module)


@pytest.mark.parametrize("kind", [LIF, IF, PLIF, ALIF, CUBA, QIF, EIF, AdEx, SRM, CLIF, LIFNode])
def test_a_modules_line_tells_nothing_that_is_as_usual(kind: type[Neuron]) -> None:
    line = re.sub(r"surrogate=\w+\(.*\)", "", repr(kind()).removeprefix(kind.__name__))
    names = re.findall(r"(\w+)=", line)
    assert set(names) <= {"tau", "threshold", "v_threshold", "v_reset", "T"}


@pytest.mark.parametrize(
    "make, settings",
    [
        (ALIF, {"tau": 3.0, "tau_adaptation": 5.0, "decay_input": False}),
        (CUBA, {"tau_synapse": 2.0, "tau": 3.0}),
        (KLIF, {"tau": 3.0}),
        (QIF, {"tau": 3.0, "dt": 0.5}),
        (AdEx, {"tau": 3.0, "tau_w": 5.0}),
        (SRM, {"tau": 3.0, "tau_refractory": 2.0}),
        (TsodyksMarkram, {"tau_depression": 3.0, "tau_facilitation": 2.0}),
        (CLIF, {"tau": 5.0}),
        (lambda **o: MembraneBatchNormLIF(3, **o), {"tau": 5.0}),
    ],
)
def test_a_time_constant_set_later_is_one_given_at_first(make: Any, settings: Any) -> None:
    x, changed, given = 4 * torch.cat([X, X]), make(), make(**settings)
    before = changed.run(x)[1]
    for name, value in settings.items():
        setattr(changed, name, value)
    states = [neuron.run(x)[1] for neuron in (changed, given)]
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))
    assert torch.equal(changed(x), given(x))
    assert repr(changed) == repr(given)
    assert not all(torch.equal(*each) for each in zip(before, states[0], strict=True))
