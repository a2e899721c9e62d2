"""Neurons around neurons: what they take over, and what may be set of them later."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops.memory import SLTT
from spike_ops.neuron import (
    ALIF,
    CLIF,
    IF,
    ILIF,
    LIF,
    PSN,
    Delay,
    IFNode,
    MaskedPSN,
    Neuron,
    Recurrent,
    Refractory,
    SlidingPSN,
    TsodyksMarkram,
)
from spike_ops.nn import TemporalEffectiveBatchNorm, TimeBatchNorm
from spike_ops.utils import reset

X = 3 * torch.rand(8, 2, 3, generator=torch.Generator().manual_seed(0))
AROUND: dict[str, Callable[..., Neuron]] = {
    "refractory": lambda neuron, **o: Refractory(neuron, 2, **o),
    "recurrent": lambda neuron, **o: Recurrent(neuron, nn.Identity(), **o),
    "sltt": SLTT,
    "both": lambda neuron, **o: SLTT(Refractory(neuron, 1), **o),
}


@pytest.mark.parametrize("row", AROUND)
def test_neurons_that_go_on_do_so_inside_a_wrapper(row: str) -> None:
    make = AROUND[row]
    net, whole = nn.Sequential(make(LIF(stateful=True))), make(LIF())(X)
    assert torch.equal(torch.cat([net(part) for part in X.split([1, 3, 4])]), whole)
    reset(net)
    assert torch.equal(net(X), whole)
    anew = make(LIF(stateful=True), stateful=False)
    assert not torch.equal(torch.cat([anew(part) for part in X.split(1)]), whole)


@pytest.mark.parametrize("row", AROUND)
def test_neurons_of_so_many_steps_refuse_others_inside_a_wrapper(row: str) -> None:
    neuron = AROUND[row](IF(steps=4))
    with pytest.raises(ValueError, match="the first axis of currents must be 4 steps, got 8"):
        neuron(X)
    assert AROUND[row](IF(steps=4), steps=8)(X).shape == X.shape


@pytest.mark.parametrize(
    "row, asked, taken",
    [
        *[(row, "reference", "reference") for row in AROUND],
        *[(row, asked, "auto") for row in AROUND for asked in ("auto", "eager", "triton")],
        *[(row, "compiled", "compiled") for row in AROUND if row != "recurrent"],
        ("recurrent", "compiled", "auto"),
    ],
)
def test_a_wrapper_runs_as_its_neurons_were_told_where_it_can(
    row: str, asked: Any, taken: str
) -> None:
    neuron = AROUND[row](LIF(backend=asked))
    assert neuron.backend == taken
    assert torch.equal(neuron(X), AROUND[row](LIF())(X))
    assert AROUND[row](LIF(backend=asked), backend="reference").backend == "reference"


# what is set later


@pytest.mark.parametrize("make", [LIF, IF, ALIF, IFNode, lambda: SLTT(LIF())])
@pytest.mark.parametrize("wrong", ["soft", None])
def test_a_reset_set_later_is_refused_and_hides_no_method(make: Any, wrong: Any) -> None:
    neuron = make()
    with pytest.raises(ValueError, match="reset is settled when a neuron is made: LIF"):
        neuron.reset = wrong
    assert neuron.reset() is None


CHANGES: dict[str, Callable[[Delay], Any]] = {
    "given": lambda delay: setattr(delay, "delays", torch.tensor([4, 1, 0])),
    "loaded": lambda delay: delay.load_state_dict({"delays": torch.tensor([4, 1, 0])}),
    "in place": lambda delay: delay.delays.copy_(torch.tensor([4, 1, 0])),
}


@pytest.mark.parametrize("row", CHANGES)
def test_delays_changed_later_are_those_given_at_first(row: str) -> None:
    changed, given = Delay(torch.tensor([0, 2, 1])), Delay(torch.tensor([4, 1, 0]))
    assert changed.longest == 2
    CHANGES[row](changed)
    assert changed.longest == 4
    assert torch.equal(changed(X), given(X))


def test_delays_made_in_inference_mode_delay() -> None:
    with torch.inference_mode():
        assert torch.equal(Delay(torch.tensor([0, 2, 1]))(X), Delay(torch.tensor([0, 2, 1]))(X))
        assert Delay(2)(X)[:2].count_nonzero() == 0


# numbers and switches

COUNTED: dict[str, tuple[Callable[[Any], nn.Module], str]] = {
    "steps": (lambda n: LIF(steps=n), "steps"),
    "PSN": (PSN, "weight"),
    "order": (SlidingPSN, "weight"),
    "masked": (lambda n: MaskedPSN(n, order=1), "weight"),
    "most": (lambda n: ILIF(most=n), "most"),
    "period": (lambda n: Refractory(IF(), n), "period"),
    "features": (TimeBatchNorm, "features"),
    "by step": (lambda n: TemporalEffectiveBatchNorm(2, steps=n), "by_step"),
}


@pytest.mark.parametrize("row", COUNTED)
def test_counts_are_whole_numbers_and_no_switches(row: str) -> None:
    make, name = COUNTED[row]
    with pytest.raises(TypeError, match="must be a whole number.*, got True"):
        make(True)
    held = getattr(make(4.0), name)
    assert isinstance(held, int) if not isinstance(held, Tensor) else len(held) == 4


@pytest.mark.parametrize("wrong", [1, "yes", None, 0.0])
@pytest.mark.parametrize("name", ["stateful", "spike_out"])
@pytest.mark.parametrize("make", [LIF, TsodyksMarkram, lambda **o: SLTT(IF(), **o)])
def test_switches_are_true_or_false(make: Any, name: str, wrong: Any) -> None:
    if make is TsodyksMarkram and name == "spike_out":
        return
    with pytest.raises(TypeError, match=f"{name} must be True or False, got {wrong!r}"):
        make(**{name: wrong})


@pytest.mark.parametrize("name", ["reset", "v_reset"])
def test_a_reset_that_a_kind_does_not_take_is_named_by_its_own_name(name: str) -> None:
    with pytest.raises(TypeError, match=rf"CLIF subtracts .*, so it takes no {name}"):
        CLIF(**{name: "hard"})
