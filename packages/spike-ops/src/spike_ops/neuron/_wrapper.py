"""Neurons around other neurons, whose step they use: settings they share, and checks of them."""

from typing import Any

from torch import Tensor

from spike_ops.neuron._base import Neuron, State
from spike_ops.neuron._told import differing


class Wrapper(Neuron):
    """Return the spikes of neurons whose step a subclass changes.

    Args:
        neuron: The neurons. They fire by their own surrogate, and by their own `step` if they
            have one.
        options: `steps`, `stateful`, `spike_out`, `backend` of `Neuron`; those of the neurons where
            they are not given.

    Raises:
        TypeError: `neuron` is no neuron, or an option is the neuron's own.
    """

    neuron: Neuron
    # those of the neurons that it can take over: it has no others
    _backends = frozenset({"reference", "compiled"})

    def __init__(self, neuron: Neuron, **options: Any) -> None:
        kind = type(self).__name__
        if not isinstance(neuron, Neuron):
            got = f"{type(neuron).__name__}: {kind}(LIF(), ...) has one"
            raise TypeError(f"neuron must be a spike_ops.neuron.Neuron, got {got}")
        if "surrogate" in options:
            told = f"{kind} takes no surrogate: {type(neuron).__name__} fires by its own"
            raise TypeError(told)
        given = {name: getattr(neuron, name) for name in ("steps", "stateful", "spike_out")}
        given["backend"] = neuron.backend if neuron.backend in self._backends else "auto"
        super().__init__(surrogate=neuron.surrogate, **{**given, **options})
        self.neuron = neuron
        self.elementwise, self.binary = neuron.elementwise, neuron.binary

    @property
    def _fires(self) -> bool:
        return self.neuron._fires

    def _hindrance(self, currents: Tensor) -> str:
        return super()._hindrance(currents) or self.neuron._hindrance(currents)

    def _inner(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return one step of the neurons, by their `step` where that is more than a transition."""
        if self.neuron._has_own_step:
            return self.neuron.step(current, state)
        return self.neuron.transition(current, state, *constants)

    def initial(self, current: Tensor) -> State:
        """Return the initial state of the neurons."""
        return self.neuron.initial(current)

    def membrane(self, state: State) -> Tensor:
        """Return the membrane of the neurons."""
        return self.neuron.membrane(state)

    def constants(self) -> tuple[Tensor, ...]:
        """Return those of the neurons."""
        return self.neuron.constants()

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return ", ".join(differing(self))
