"""Neurons around neurons: recurrent connections and refractory periods; delays of spikes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import counted
from spike_ops.neuron._base import Neuron, State
from spike_ops.neuron._membrane import filled
from spike_ops.neuron._wrapper import Wrapper


class Recurrent(Wrapper):
    """Return the spikes of neurons that hear their own spikes of the step before.

        s[t], state = neuron.step(x[t] + connection(s[t - 1]), state),   s[-1] = 0

    Args:
        neuron: The neurons, of which the step is used.
        connection: From spikes [B, ...] to currents of the same shape: `torch.nn.Linear(n, n)` is
            all to all, `torch.nn.Conv2d` with padding is local, `Diagonal(n)` is to itself.
        options: `steps`, `stateful`, `spike_out` of `Neuron`; those of the neurons where they are
            not given.

    Raises:
        ValueError: The connection changes the shape of a step.
        TypeError: `neuron` is no neuron, `connection` no function, or a surrogate is given: the
            neurons fire by their own.

    Example:
        >>> from spike_ops.neuron import IF
        >>> neurons = Recurrent(IF(), Diagonal(1, weight=1.0))
        >>> neurons(torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)).flatten().tolist()
        [1.0, 1.0, 1.0]
    """

    _backends = frozenset({"reference"})  # no kernel knows a connection

    def __init__(
        self, neuron: Neuron, connection: Callable[[Tensor], Tensor], **options: Any
    ) -> None:
        super().__init__(neuron, **options)
        if not callable(connection):
            got = f"{connection!r}: torch.nn.Linear(n, n) is one"
            raise TypeError(f"connection must take spikes to currents, got {got}")
        self.connection = connection
        self.elementwise, self.forgets = False, neuron.forgets

    def initial(self, current: Tensor) -> State:
        """Return s = 0 and the initial state of the neurons."""
        return (filled(current, 0.0), *self.neuron.initial(current))

    def membrane(self, state: State) -> Tensor:
        """Return the membrane of the neurons."""
        return self.neuron.membrane(state[1:])

    def constants(self) -> tuple[Tensor, ...]:
        """Return nothing: the neurons take theirs by themselves."""
        return ()

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (s, *state) after it."""
        del constants
        heard = self.connection(state[0])
        if heard.shape != current.shape:
            shapes = f"{tuple(current.shape)} to {tuple(heard.shape)}"
            raise ValueError(f"connection must keep the shape of a step, got {shapes}")
        s, after = self.neuron.step(current + heard, state[1:])
        return s, (s, *after)


class Diagonal(nn.Module):
    """Return w ⊙ s: the connection of every neuron to itself alone.

    Args:
        features: Size of the last axis.
        weight: w to begin with.
    """

    def __init__(self, features: int, *, weight: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), weight))

    def forward(self, spikes: Tensor) -> Tensor:
        """Return w ⊙ s."""
        return self.weight * spikes


class Refractory(Wrapper):
    """Return the spikes of neurons that rest for some steps after each.

    While they rest neither current nor leak act: the neuron's state stays what it was after the
    spike, and no spike is sent.

    Args:
        neuron: The neurons, of which the step is used.
        period: Steps of rest after a spike.
        options: `steps`, `stateful`, `spike_out`, `backend` of `Neuron`; those of the neurons where
            they are not given.

    Raises:
        ValueError: `period` is negative or not whole.
        TypeError: `neuron` is no neuron, or a surrogate is given: the neurons fire by their own.

    Example:
        >>> from spike_ops.neuron import IF
        >>> Refractory(IF(), 2)(torch.ones(6, 1, 1)).flatten()
        tensor([1., 0., 0., 1., 0., 0.])
    """

    forgets = True  # what comes while they rest

    def __init__(self, neuron: Neuron, period: int, **options: Any) -> None:
        super().__init__(neuron, **options)
        self.period = counted("period", period, None, "steps")
        if self.period < 0:
            raise ValueError(f"period must not be negative, got {period}")

    def initial(self, current: Tensor) -> State:
        """Return no rest, and the initial state of the neurons."""
        return (filled(current, 0.0), *self.neuron.initial(current))

    def membrane(self, state: State) -> Tensor:
        """Return the membrane of the neurons."""
        return self.neuron.membrane(state[1:])

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (steps to rest, *state) after it."""
        rest, before = state[0], state[1:]
        resting = rest > 0
        s, after = self._inner(current, before, *constants)
        s = torch.where(resting, torch.zeros_like(s), s)
        held = tuple(torch.where(resting, old, new) for old, new in zip(before, after, strict=True))
        rest = torch.where(s.detach() != 0, self.period * torch.ones_like(rest), (rest - 1).relu())
        return s, (rest, *held)


class Delay(Neuron):
    """Return spikes [T, B, n] later: each of the n inputs by its own number of steps.

        out[t, b, i] = in[t - d_i, b, i],   zero before the first

    Streaming goes through a ring of the last max(d) steps. Gradients go back along the delays.

    Args:
        delays: d, whole numbers from 0: [n], or one for all.
        options: `steps`, `stateful`, `spike_out` of `Neuron`.

    Raises:
        ValueError: A delay is negative, or inputs do not have n features.
        TypeError: The delays are not whole numbers.

    Example:
        >>> Delay(torch.tensor([0, 2]))(torch.eye(3)[:, None, :2]).argmax(0).tolist()
        [[0, 0]]
    """

    delays: Tensor
    forgets = True  # what has come out

    def __init__(self, delays: Tensor | int, **options: Any) -> None:
        super().__init__(**options)
        delays = torch.as_tensor(delays)
        if delays.is_floating_point() or delays.dtype == torch.bool:
            raise TypeError(f"delays must be whole numbers, got {delays.dtype}")
        if delays.ndim > 1 or (delays.numel() and int(delays.min()) < 0):
            raise ValueError(f"delays must be [n] and not negative, got {delays.tolist()}")
        self.register_buffer("delays", delays)
        self._longest = (delays, _version(delays), int(delays.max()))
        self.elementwise, self.binary = False, False  # it passes on whatever comes in

    @property
    def longest(self) -> int:
        """The longest of the delays, max(d)."""
        held, version, longest = self._longest
        if torch.compiler.is_compiling():  # which would have to wait for the delays
            return longest
        if held is not self.delays or version != _version(self.delays):
            longest = int(self.delays.max())
            self._longest = (self.delays, _version(self.delays), longest)
        return longest

    def initial(self, current: Tensor) -> State:
        """Return the last max(d) steps, zeros: [max(d), B, n]."""
        return (current.new_zeros(self.longest, *current.shape),)

    def membrane(self, state: State) -> Tensor:
        """Return zeros: a delay has no membrane."""
        return state[0].new_zeros(state[0].shape[1:])

    def _over_time(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        features = currents.shape[-1]
        if self.delays.ndim and features != len(self.delays):
            raise ValueError(f"inputs must have {len(self.delays)} features, got {features}")
        known = torch.cat([state[0], currents])
        times = torch.arange(len(currents), device=known.device) + self.longest
        taken = times[:, None] - self.delays  # [T, n] or [T, 1]
        index = taken.reshape(len(currents), *[1] * (known.ndim - 2), -1).expand(currents.shape)
        return known.gather(0, index), (known[len(currents) :],)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return one step of output and the last max(d) steps after it."""
        del constants
        out, after = self._over_time(current[None], state)
        return out[0], after


def _version(held: Tensor) -> int:
    """Return how often a tensor was written to; those of inference mode do not know."""
    return -1 if held.is_inference() else held._version
