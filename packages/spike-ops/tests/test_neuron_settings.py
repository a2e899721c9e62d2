"""Neurons that are changed: settings set later, steps of one's own, types that differ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops.neuron import (
    ALIF,
    CUBA,
    IF,
    LIF,
    PLIF,
    LIFNode,
    Membrane,
    Neuron,
    Refractory,
    build,
)
from spike_ops.surrogate import ATan, MultiGaussian


def currents(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5


def gradient(neuron: nn.Module, x: Tensor) -> Tensor:
    given = x.clone().requires_grad_()
    return torch.autograd.grad(neuron(given).square().sum(), given)[0]


# settings set later


CHANGES: dict[str, tuple[Callable[..., LIF], dict[str, Any]]] = {
    "threshold": (LIF, {"threshold": 2.5}),
    "tau": (LIF, {"tau": 5.0}),
    "v_reset": (LIF, {"v_reset": -1.5}),
    "detach_reset": (LIF, {"detach_reset": True}),
    "decay_input": (LIF, {"decay_input": False}),
    "surrogate": (LIF, {"surrogate": ATan(20.0)}),
    "several": (LIF, {"v_reset": -1.0, "tau": 3.0, "decay_input": False, "threshold": 0.5}),
}


@pytest.mark.parametrize("backend", ["reference", "eager", "compiled"])
@pytest.mark.parametrize("row", CHANGES)
def test_a_setting_set_later_is_one_given_at_first(row: str, backend: Any) -> None:
    make, settings = CHANGES[row]
    x, changed, given = currents(8, 3, 5), make(backend=backend), make(backend=backend, **settings)
    before = changed(x), gradient(changed, x)
    for name, value in settings.items():
        setattr(changed, name, value)
        assert getattr(changed, name) == value
    assert torch.equal(changed(x), given(x))
    assert torch.equal(gradient(changed, x), gradient(given, x))
    assert changed.rule == given.rule
    same = torch.equal(before[0], given(x)) and torch.equal(before[1], gradient(given, x))
    assert not same


def test_a_neuron_is_strict_from_when_it_is_told() -> None:
    neuron, x = IF(), torch.ones(2, 1, 1)
    assert neuron(x).sum() == 2
    neuron.strict = True
    assert neuron(x).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("parallel_optim", [False, True])
def test_a_node_changes_with_its_settings(parallel_optim: bool) -> None:
    x = currents(6, 3, 5)
    settings = {"v_threshold": 1.5, "v_reset": None, "detach_reset": True}
    changed, given = LIFNode(T=6), LIFNode(T=6, parallel_optim=parallel_optim, **settings)
    for name, value in {**settings, "parallel_optim": parallel_optim}.items():
        setattr(changed, name, value)
        assert getattr(changed, name) == value
    changed.surrogate_function = given.surrogate_function = ATan(3.0)
    for _ in range(2):
        out, wanted = changed(x.flatten(0, 1)), given(x.flatten(0, 1))
        assert torch.equal(out, wanted)
        assert 0 < wanted.mean() < 1
    changed.v_threshold = 1e9
    assert not changed(x.flatten(0, 1)).any()
    changed.v_reset = -2.0
    changed.reset()
    assert changed.v == -2.0


@pytest.mark.parametrize(
    "name, value, told",
    [
        ("threshold", -1.0, "threshold must be positive"),
        ("v_reset", 2.0, "v_reset must be below"),
        ("tau", 0.5, "tau must be at least 1"),
        ("surrogate", MultiGaussian(), "derivative of one sign"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_and_changes_nothing(
    name: str, value: Any, told: str
) -> None:
    neuron = LIF(saving="8bit")
    rule, tau = neuron.rule, neuron.tau
    with pytest.raises(ValueError, match=told):
        setattr(neuron, name, value)
    assert (neuron.rule, neuron.tau, neuron.surrogate) == (rule, tau, rule.surrogate)
    with pytest.raises(TypeError, match="surrogate_function must be"):
        LIFNode().surrogate_function = "atan"  # type: ignore[assignment]


def test_a_kernel_is_not_used_for_other_settings_than_its_own() -> None:
    x = currents(8, 3, 5)
    for neuron, inner in ((one := ALIF(2.0), one), (Refractory(other := CUBA(), 1), other)):
        assert build(neuron, x)[""].backend == "compiled"
        fired = neuron(x)
        neuron.spike_out, neuron.stateful = False, False
        neuron.eval()
        assert neuron.explain(x).backend == "compiled"
        inner.threshold = 5.0
        assert neuron.explain(x).backend == "reference"
        assert neuron(x).sum() < fired.sum()
        wanted = neuron(x)
        assert build(neuron, x)[""].backend == "compiled"
        assert torch.equal(neuron(x), wanted)


# steps of one's own


class Half(LIF):
    def transition(self, current: Tensor, state: Any, *constants: Tensor) -> Any:
        s, after = super().transition(current, state, *constants)
        return s / 2, after


class Never(LIF):
    def fire(self, u: Tensor) -> Tensor:
        return torch.zeros_like(u)


class High(LIF):
    def initial(self, current: Tensor) -> Any:
        return (torch.full_like(current, 3.0),)


class Twice(LIF):
    def step(self, current: Tensor, state: Any) -> Any:
        return super().step(2 * current, state)


class Never2(LIFNode):
    def fire(self, u: Tensor) -> Tensor:
        return torch.zeros_like(u)


class Kept(ALIF):
    def step(self, current: Tensor, state: Any) -> Any:
        return super().step(2 * current, state)


@pytest.mark.parametrize("kind", [Half, Never, High, Twice, Kept])
def test_a_step_of_ones_own_is_never_passed_over(kind: type[Neuron]) -> None:
    x = currents(6, 3, 5)
    neuron = kind()
    state, wanted = neuron.initial(x[0]), []
    for current in x:
        s, state = neuron.step(current, state)
        wanted.append(s)
    assert torch.equal(neuron(x), torch.stack(wanted))
    assert not torch.equal(neuron(x), kind.__bases__[0]()(x))
    choice = build(neuron, x)[""]
    assert choice.backend == ("reference" if "step" in vars(kind) else "compiled")
    torch.testing.assert_close(neuron(x), torch.stack(wanted))


@pytest.mark.parametrize("parallel_optim", [False, True])
def test_a_nodes_own_way_to_fire_is_used(parallel_optim: bool) -> None:
    x = currents(18, 5)
    assert LIFNode(T=6)(x).any()
    assert not Never2(T=6, parallel_optim=parallel_optim)(x).any()


# types that differ


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_learned_constants_leave_the_state_in_the_type_of_the_currents(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = currents(8, 3, 5).to(dtype)
    whole, after = PLIF(3.0, shape=shape).run(x)
    assert (whole.dtype, after[0].dtype) == (dtype, dtype)
    streaming = PLIF(3.0, shape=shape, stateful=True)
    parts = torch.cat([streaming(part) for part in x.split([1, 3, 4])])
    assert torch.equal(parts, whole)
    assert 0 < whole.float().mean() < 1


class Promoting(Membrane):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.bias = nn.Parameter(torch.full((5,), 0.25))

    def transition(self, current: Tensor, state: Any, *constants: Tensor) -> Any:
        h = state[0] / 2 + current + self.bias
        s = self.fire(h - self.threshold)
        return s, (self.settle(h, s),)


def test_a_kept_state_of_another_type_goes_on_in_that_of_the_currents() -> None:
    x = torch.full((4, 1, 5), 0.375)
    streaming, wanted = Promoting(stateful=True), Promoting()(x)
    parts = [streaming(part.bfloat16()) for part in x.split(1)]
    assert torch.equal(torch.cat(parts).float(), wanted)
    assert wanted[0].sum() == 0 < wanted.sum()
    leaky = LIF(stateful=True)
    leaky(torch.full((1, 1, 5), 1.5))
    assert leaky(torch.full((1, 1, 5), 1.5, dtype=torch.float64)).all()


def test_a_node_goes_on_in_the_type_of_the_currents() -> None:
    node = LIFNode()
    node(torch.full((1, 5), 1.5))
    out = node(torch.full((1, 5), 1.5, dtype=torch.float64))
    assert out.dtype == torch.float64
    assert out.all()
