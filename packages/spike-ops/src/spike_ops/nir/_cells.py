"""Neurons as a graph describes them: constants that may differ from neuron to neuron."""

from typing import Any

import torch
from torch import Tensor, nn

from spike_ops.neuron import Neuron
from spike_ops.neuron._base import Reset, State
from spike_ops.nir._numbers import Number


def put(module: nn.Module, **numbers: Number) -> None:
    """Set numbers as attributes of a module, tensors as its buffers."""
    for name, value in numbers.items():
        if isinstance(value, Tensor):
            module.register_buffer(name, value)
        else:
            setattr(module, name, value)


class _Cells(Neuron):
    """A membrane h = β v + g x + c, whose constants are numbers or one for each neuron."""

    beta: Number
    gain: Number
    offset: Number

    def __init__(self, beta: Number, gain: Number, offset: Number, **options: Any) -> None:
        super().__init__(**options)
        put(self, beta=beta, gain=gain, offset=offset)

    def _hindrance(self, currents: Tensor) -> str:
        if any(True for _ in self.buffers()):
            return "its constants differ from neuron to neuron"
        return super()._hindrance(currents)

    def charge(self, current: Tensor, v: Tensor) -> Tensor:
        """Return h = β v + g x + c."""
        h = self.beta * v
        h = h + (current if _is(self.gain, 1) else self.gain * current)
        return h if _is(self.offset, 0) else h + self.offset


class Integrator(_Cells):
    """Return the membranes [T, B, ...] of neurons that never fire: v[t] = β v[t-1] + g x[t] + c.

    NIR's `LI` (and `I` with β = 1) by Euler steps. The membrane begins at 0.

    Args:
        beta: β, one number or a tensor of the shape of a sample.
        gain: g, likewise.
        offset: c, likewise.
        options: `steps`, `stateful`, `backend` of `Neuron`.

    Example:
        >>> Integrator(0.5, 1.0)(torch.ones(3, 1, 1)).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """

    binary = False

    def __init__(self, beta: Number, gain: Number, offset: Number = 0.0, **options: Any) -> None:
        super().__init__(beta, gain, offset, **options)

    def initial(self, current: Tensor) -> State:
        """Return v = 0."""
        return (torch.zeros_like(current, requires_grad=False),)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the membrane of one step, as output and as state."""
        del constants
        v = self.charge(current, state[0])
        return v, (v,)


class Cells(_Cells):
    """Return the spikes of leaky integrators whose constants may differ from neuron to neuron.

        h = β v + g x + c;   s = 1 where h > θ;   v = reset of h

    NIR's `LIF` and `IF` by Euler steps where one number for all neurons does not say it; where it
    does, `from_nir` builds `spike_ops.neuron.LIF`. θ itself does not fire.

    Args:
        beta: β, one number or a tensor of the shape of a sample.
        gain: g, likewise.
        offset: c, likewise.
        threshold: θ, likewise.
        v_reset: The membrane after a hard reset, and where it begins.
        reset: `"hard"`, `"soft"` (h - θ) or `"none"`.
        reset_delay: With a soft reset: subtract in the step after the spike, after the leak.
        options: Those of `Neuron`.

    Raises:
        ValueError: `reset` is none of these.

    Example:
        >>> cells = Cells(0.5, 1.0, 0.0, torch.tensor([1.0, 1.9]))
        >>> cells(torch.ones(4, 1, 2)).squeeze(1).T.tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """

    threshold: Number
    v_reset: Number

    def __init__(
        self,
        beta: Number,
        gain: Number,
        offset: Number,
        threshold: Number,
        *,
        v_reset: Number = 0.0,
        reset: Reset = "hard",
        reset_delay: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(beta, gain, offset, **options)
        if reset not in {"hard", "soft", "none"}:
            raise ValueError(f"reset must be hard, soft or none, got {reset!r}")
        put(self, threshold=threshold, v_reset=v_reset)
        self.reset_mode, self.reset_delay = reset, reset_delay

    def initial(self, current: Tensor) -> State:
        """Return v = v_reset (hard reset) or 0, and with a delayed reset s = 0."""
        zeros = torch.zeros_like(current, requires_grad=False)
        start = zeros + self.v_reset if self.reset_mode == "hard" else zeros
        return (start, zeros) if self.reset_delay else (start,)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) or, with a delayed reset, (v, s) after it."""
        del constants
        h = self.charge(current, state[0])
        if self.reset_delay:
            h = h - self.threshold * state[1]
        s = self.surrogate.dense(h - self.threshold, strict=True)
        if self.reset_mode == "none" or self.reset_delay:
            return s, (h, s)[: len(state)]
        if self.reset_mode == "soft":
            return s, (h - self.threshold * s,)
        return s, (h * (1 - s) + self.v_reset * s,)


class Chain(Neuron):
    """Return what neurons make of each other's output, step by step: the second hears the first.

    NIR's `CubaLIF` is an `Integrator`, the synapse, before a LIF neuron, both in the same step.

    Args:
        neurons: The neurons, the first first.
        options: `steps`, `stateful`, `backend` of `Neuron`.

    Example:
        >>> Chain(Integrator(0.5, 1.0), Integrator(0.0, 2.0))(torch.ones(2, 1, 1)).flatten()
        tensor([2., 3.])
    """

    def __init__(self, *neurons: Neuron, **options: Any) -> None:
        super().__init__(surrogate=neurons[-1].surrogate, **options)
        self.neurons = nn.ModuleList(neurons)
        self.elementwise = False  # each runs over time by its own means
        self.binary = neurons[-1].binary

    def initial(self, current: Tensor) -> State:
        """Return the initial states of all, one after the other."""
        return tuple(each for neuron in self._all() for each in neuron.initial(current))

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the output of the last and the states of all after one step."""
        del constants
        after: State = ()
        for neuron, held in self._states(current, state):
            current, new = neuron.step(current, held)
            after += new
        return current, after

    def _over_time(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        after: State = ()
        for neuron, held in self._states(currents[0], state):
            currents, new = neuron.run(currents, held)
            after += new
        return currents, after

    def _all(self) -> list[Neuron]:
        return list(self.neurons)  # type: ignore[arg-type]

    def _states(self, current: Tensor, state: State) -> list[tuple[Neuron, State]]:
        pairs = []
        for neuron in self._all():
            count = len(neuron.initial(current))
            pairs.append((neuron, state[:count]))
            state = state[count:]
        return pairs


def _is(value: Number, number: float) -> bool:
    return not isinstance(value, Tensor) and value == number
