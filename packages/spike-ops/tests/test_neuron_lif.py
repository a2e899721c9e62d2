"""LIF and IF against a loop written here from the definition, in every way of running them."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings as profile, strategies as st
from torch import Tensor

from spike_ops import SpikeTensor
from spike_ops.neuron import IF, LIF, build
from spike_ops.surrogate import ATan, Rectangular, Sigmoid

BACKENDS = ("reference", "eager", "compiled")
RESETS = ("hard", "soft", "none")


def by_definition(
    x: Any, *, beta: float, gain: float, leak: float = 0.0, threshold: float = 1.0,
    v_reset: float = 0.0, reset: str = "hard", strict: bool = False, delay: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    spikes = np.zeros_like(x)
    v: Any = np.full(x.shape[1:], v_reset if reset == "hard" else 0.0)
    for t, b, i in np.ndindex(*x.shape):
        before = v[b, i]
        fired = delay and (before > threshold if strict else before >= threshold)
        before = v_reset if fired and reset == "hard" else before
        h = beta * before + gain * x[t, b, i] + (1 - beta) * leak
        h = h - threshold if fired and reset == "soft" else h
        spikes[t, b, i] = h > threshold if strict else h >= threshold
        v[b, i] = h
        if spikes[t, b, i] and not delay:
            v[b, i] = {"hard": v_reset, "soft": h - threshold, "none": h}[reset]
    return spikes, v


def currents(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # multiples of 1/64: with dyadic settings every sum is exact and no rounding can flip a spike
    return torch.randint(-64, 192, shape, generator=generator).to(dtype) / 64


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("decay_input", [False, True])
@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_every_setting_is_its_definition(
    backend: Any, reset: Any, strict: bool, decay_input: bool, tau: float
) -> None:
    x = currents(9, 2, 5)
    v_reset = -0.5 if reset == "hard" else 0.0
    neuron = LIF(
        tau, threshold=1.25, v_reset=v_reset, reset=reset, strict=strict, decay_input=decay_input,
        v_leak=0.25, backend=backend,
    )  # fmt: skip
    beta = 1 - 1 / tau
    # the leak is not part of the weighted current: v goes to v_leak where nothing comes in
    expected, v = by_definition(
        x.numpy(), beta=beta, gain=1 - beta if decay_input else 1.0, leak=0.25, threshold=1.25,
        v_reset=v_reset, reset=reset, strict=strict,
    )  # fmt: skip
    spikes, (after,) = neuron.run(x)
    assert torch.equal(spikes, torch.from_numpy(expected))
    assert torch.equal(after, torch.from_numpy(v))
    assert 0 < spikes.mean() < 1


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_delayed_reset_is_its_definition(backend: Any, reset: Any) -> None:
    x = currents(12, 2, 5)
    expected, v = by_definition(x.numpy(), beta=0.5, gain=1.0, reset=reset, delay=True)
    neuron = LIF(2.0, decay_input=False, reset=reset, reset_delay=True, backend=backend)
    spikes, (after,) = neuron.run(x)
    assert torch.equal(spikes, torch.from_numpy(expected))
    assert torch.equal(after, torch.from_numpy(v))
    at_once = LIF(2.0, decay_input=False, reset=reset)(x)
    # a state set back before it leaks is the same state; one subtracted after it leaked is not
    assert torch.equal(spikes, at_once) == (reset == "hard")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_perfect_integrator_counts(backend: Any) -> None:
    x = currents(9, 2, 5)
    expected, v = by_definition(x.numpy(), beta=1.0, gain=1.0, reset="soft")
    spikes, (after,) = IF(reset="soft", backend=backend).run(x)
    assert torch.equal(spikes, torch.from_numpy(expected))
    # what came in is in the membrane or was fired
    assert torch.equal(after, x.sum(0) - spikes.sum(0))
    assert torch.equal(after, torch.from_numpy(v))


def test_discretizations_are_named() -> None:
    x = currents(9, 2, 5)
    beta = math.exp(-1 / 3)
    expected, _ = by_definition(x.numpy(), beta=beta, gain=1 - beta, reset="soft")
    assert torch.equal(
        LIF(3.0, reset="soft", discretization="exponential")(x), torch.from_numpy(expected)
    )


@profile(max_examples=25)
@given(
    st.integers(1, 20), st.integers(1, 3), st.integers(1, 40), st.integers(0, 1000),
    st.sampled_from(RESETS), st.booleans(),
)  # fmt: skip
def test_fused_runs_are_the_reference_bit_for_bit(
    steps: int, batch: int, width: int, seed: int, reset: Any, single: bool
) -> None:
    dtype = torch.float32 if single else torch.float64
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, batch, width, generator=generator, dtype=dtype) * 2
    settings: dict[str, Any] = {"tau": 3.7, "threshold": 0.9, "v_reset": 0.1, "reset": reset}
    spikes, (v,) = LIF(**settings, backend="reference").run(x)
    for backend in ("eager", "compiled"):
        others, (after,) = LIF(**settings, backend=backend).run(x)
        assert torch.equal(others, spikes)
        assert torch.equal(after, v)


def gradients(neuron: LIF, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    x, v = x.clone().requires_grad_(), torch.full_like(x[0], 0.25).requires_grad_()
    spikes, (after,) = neuron.run(x, (v,))
    told = spikes.to_dense() if isinstance(spikes, SpikeTensor) else spikes
    by_x, by_v = torch.autograd.grad((told * g).sum() + (after * g[0]).sum(), (x, v))
    return by_x, by_v


@pytest.mark.parametrize("surrogate", [ATan(), Rectangular(0.75)])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("spike_out", [False, True])
def test_fused_gradients_are_the_references(
    surrogate: Any, reset: Any, detach: bool, spike_out: bool
) -> None:
    x, g = currents(11, 3, 7), currents(11, 3, 7, seed=1)
    settings: dict[str, Any] = {
        "tau": 4.0, "reset": reset, "detach_reset": detach, "surrogate": surrogate
    }  # fmt: skip
    expected = gradients(LIF(**settings, backend="reference"), x, g)
    assert expected[0].abs().max() > 0.01
    for backend in ("eager", "compiled"):
        neuron = LIF(**settings, backend=backend, spike_out=spike_out)
        for found, known in zip(gradients(neuron, x, g), expected, strict=True):
            torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("surrogate", [ATan, Sigmoid])
@pytest.mark.parametrize("reset", RESETS[:2])
@pytest.mark.parametrize("delay", [False, True])
def test_the_smooth_neuron_has_the_gradient_of_finite_differences(
    surrogate: Any, reset: Any, delay: bool
) -> None:
    neuron = LIF(3.0, reset=reset, surrogate=surrogate(spiking=False), reset_delay=delay)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    assert neuron.explain(x).backend == "reference"
    assert torch.autograd.gradcheck(neuron, (x,))


@pytest.mark.parametrize("delay", [False, True])
def test_a_smooth_neuron_can_be_built(delay: bool) -> None:
    settings: dict[str, Any] = {"surrogate": Sigmoid(spiking=False), "reset_delay": delay}
    x, g = currents(6, 2, 3), currents(6, 2, 3, seed=1)
    expected = gradients(LIF(3.0, **settings), x, g)
    found = gradients(LIF(3.0, **settings, backend="compiled"), x, g)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_of_any_length_in_sequence_are_the_whole_run(backend: Any) -> None:
    x = currents(23, 2, 5)
    whole = LIF(3.0, backend=backend)(x)
    streaming = LIF(3.0, backend=backend, stateful=True)
    parts = [streaming(part) for part in x.split([1, 5, 2, 15])]
    assert torch.equal(torch.cat(parts), whole)
    streaming.reset()
    assert streaming.state is None
    assert torch.equal(streaming(x), whole)


def test_without_being_asked_nothing_is_kept() -> None:
    x = currents(4, 2, 5)
    neuron = LIF(3.0)
    assert torch.equal(neuron(x), neuron(x))
    assert neuron.state is None


def test_a_kept_state_carries_no_graph_and_begins_anew_at_another_batch_size() -> None:
    neuron = LIF(3.0, stateful=True)
    neuron(currents(4, 3, 5).requires_grad_()).sum().backward()
    assert neuron.state is not None
    assert not neuron.state[0].requires_grad
    last = currents(4, 2, 5)
    assert torch.equal(neuron(last), LIF(3.0)(last))


def test_state_is_in_no_state_dict_and_in_no_copy() -> None:
    neuron = LIF(3.0, stateful=True)
    neuron(currents(4, 2, 5).requires_grad_())
    assert not neuron.state_dict()
    for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert other.state is None
        assert torch.equal(other(currents(4, 2, 5)), LIF(3.0)(currents(4, 2, 5)))


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="state must have shapes"):
        LIF().run(currents(4, 2, 5), (torch.zeros(3, 5, dtype=torch.float64),))


@pytest.mark.parametrize(
    "x, error, told",
    [
        (torch.zeros(4), ValueError, "T, B"),
        (torch.zeros(0, 2, 3), ValueError, "at least 1"),
        (torch.zeros(5, 2, 3), ValueError, "must be 4 steps, got 5"),
        (torch.zeros(4, 2, 3, dtype=torch.int64), TypeError, "floating point, got torch.int64"),
        (torch.full((4, 2, 3), math.nan), ValueError, r"finite, got nan at \(0, 0, 0\)"),
        (torch.full((4, 2, 3), math.inf), ValueError, "finite, got inf"),
        (torch.full((4, 2, 3), -math.inf), ValueError, "finite, got -inf"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_currents_are_refused(x: Tensor, error: Any, told: str, backend: Any) -> None:
    with pytest.raises(error, match=told):
        LIF(steps=4, backend=backend)(x)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"tau": 0.5}, "tau must be at least 1"),
        ({"threshold": 0.0}, "threshold must be positive"),
        ({"v_reset": 1.0}, "v_reset must be below"),
        ({"reset": "softly"}, "reset must be"),
        ({"saving": "4bit"}, "saving must be"),
        ({"backend": "fast"}, "backend must be"),
        ({"discretization": "rk4"}, "discretization must be"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LIF(**settings)


def test_automatic_is_eager_until_a_kernel_is_built_and_says_so() -> None:
    neuron, x = LIF(5.125), torch.rand(4, 2, 3)
    assert neuron.explain(x).backend == "eager"
    before = neuron(x)
    assert build(neuron, x)[""].backend == "compiled"
    assert neuron.explain(x).backend == "compiled"
    assert LIF(5.125).explain(torch.rand(9, 1, 1)).backend == "compiled"
    assert LIF(5.125).explain(x.double()).backend == "eager"
    assert torch.equal(neuron(x), before)


def test_half_precision_runs_without_a_kernel() -> None:
    x = currents(6, 2, 3, dtype=torch.bfloat16)
    assert LIF(2.0).explain(x).backend == "eager"
    assert torch.equal(LIF(2.0)(x), LIF(2.0, backend="reference")(x))
    with pytest.raises(ValueError, match="no kernel for torch.bfloat16"):
        LIF(2.0, backend="compiled")(x)


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_a_second_derivative_is_refused_rather_than_wrong(backend: Any) -> None:
    x = currents(4, 2, 3).requires_grad_()
    (by_x,) = torch.autograd.grad(LIF(2.0, backend=backend)(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="has no derivative"):
        (by_x.sum() + x.sum()).backward()


def test_currents_need_not_lie_in_order() -> None:
    x = currents(6, 5, 4).transpose(1, 2)
    for backend in ("eager", "compiled"):
        assert torch.equal(LIF(2.0, backend=backend)(x), LIF(2.0)(x.contiguous()))


def test_several_threads_give_the_spikes_and_gradients_of_one() -> None:
    x, g = currents(16, 3, 20_011, dtype=torch.float32), torch.rand(16, 3, 20_011)
    neuron, told = LIF(4.0, backend="compiled"), torch.get_num_threads()
    alone = gradients(neuron, x, g)
    try:
        torch.set_num_threads(2)
        shared = gradients(neuron, x, g)
    finally:
        torch.set_num_threads(told)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
