"""Neurons that are called step by step and remember: [N, ...] in, spikes [N, ...] out."""

import math
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from spike_ops._checked import number, tensor
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron._base import Neuron, State
from spike_ops.neuron._memories import Memories, spread
from spike_ops.neuron._told import differing
from spike_ops.surrogate import Sigmoid, Surrogate
from spike_ops.surrogate._base import check_surrogate


class BaseNode(Memories, Neuron):
    """Return the spikes of neurons that remember their membrane from call to call.

    A subclass gives `neuronal_dynamics`, which charges `self.v`; firing and reset are here. With
    `T=1` a call is one step, [N, ...]; otherwise T steps one after the other, [T N, ...]. Gradients
    reach through all calls since `utils.reset(net)`. Once a backward pass has gone through a call,
    the next one begins from the same values without their graph.

    It is a `Neuron`: `forward` takes [T, B, ...] and forgets, and everything that watches or counts
    neurons sees those.

    Args:
        v_threshold: θ > 0.
        v_reset: The membrane after a spike, and where it begins; None subtracts θ instead, and
            begins at 0.
        surrogate_function: Gradient in place of the step's.
        detach_reset: Take the spike in the reset as a constant in the backward pass.
        parallel_optim: Run the steps of a call as one function over time where the neuron has one;
            otherwise one by one.
        T: Steps of a call.
        spike_out: Return a `SpikeTensor` instead of dense zeros and ones.

    Raises:
        ValueError: An argument is outside its range.
        TypeError: `surrogate_function` is no `spike_ops.surrogate.Surrogate`.

    Example:
        >>> import torch
        >>> class Doubling(BaseNode):
        ...     def neuronal_dynamics(self, x):
        ...         self.v = 2 * self.v + x
        >>> node = Doubling(v_threshold=3.0)
        >>> [node(torch.ones(1)).item() for _ in range(3)]  # v is 1, 3 and 1 again
        [0.0, 1.0, 0.0]
    """

    v: Any

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Surrogate = Sigmoid(),  # noqa: B008 - a value, never changed
        detach_reset: bool = False,
        parallel_optim: bool = False,
        T: int = 1,
        spike_out: bool = False,
    ) -> None:
        check_node(v_threshold, v_reset, surrogate_function, T)
        Neuron.__init__(
            self,
            surrogate=surrogate_function,
            spike_out=spike_out,
            backend=backend_of(parallel_optim),
        )
        self._remember(v_threshold, v_reset, detach_reset, parallel_optim, T)

    def _remember(
        self,
        v_threshold: float,
        v_reset: float | None,
        detach_reset: bool,
        parallel_optim: bool,
        T: int,
    ) -> None:
        self.v_threshold, self.v_reset = v_threshold, v_reset
        self.detach_reset, self.parallel_optim, self.T = detach_reset, parallel_optim, T
        self._used = False
        self.register_memory("v", 0.0 if v_reset is None else v_reset)

    @property
    def surrogate_function(self) -> Surrogate:
        """The surrogate."""
        return self.surrogate

    @surrogate_function.setter
    def surrogate_function(self, surrogate: Surrogate) -> None:
        check_surrogate(surrogate, "surrogate_function")
        self.surrogate = surrogate

    @property
    def parallel_optim(self) -> bool:
        """Whether the steps of a call run as one function over time where there is one."""
        return self.backend != "reference"

    @parallel_optim.setter
    def parallel_optim(self, parallel_optim: bool) -> None:
        self.backend = backend_of(parallel_optim)

    def neuronal_dynamics(self, x: Tensor) -> None:
        """Charge `self.v` with the currents of one step."""
        raise NotImplementedError(f"{type(self).__name__} must define neuronal_dynamics")

    def neuronal_fire(self) -> Tensor:
        """Return the dense spikes of `self.v`: Θ(v - θ), fired at θ itself too."""
        return self.fire(self.v - self.v_threshold)

    def neuronal_reset(self, spike: Tensor) -> None:
        """Reset `self.v` where it fired."""
        spike = spike.detach() if self.detach_reset else spike
        if self.v_reset is None:
            self.v = self.soft_reset(self.v, spike, self.v_threshold)
        else:
            self.v = self.hard_reset(self.v, spike, self.v_reset)

    @staticmethod
    def hard_reset(v: Tensor, spike: Tensor, v_reset: float) -> Tensor:
        """Return (1 - s) v + s v_reset."""
        return v * (1 - spike) + v_reset * spike

    @staticmethod
    def soft_reset(v: Tensor, spike: Tensor, v_threshold: float) -> Tensor:
        """Return v - θ s."""
        return v - v_threshold * spike

    def initial(self, current: Tensor) -> State:
        """Return every memory as it begins."""
        return tuple(spread(value, current) for value in self._memories_rv.values())

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and the memories after it, by the `neuronal_` methods."""
        before = dict(self._memories)
        try:
            self._memories.update(zip(before, state, strict=True))
            self.neuronal_dynamics(current)
            spikes = self.neuronal_fire()
            self.neuronal_reset(spikes)
            return spikes, tuple(self._memories[name] for name in before)
        finally:
            self._memories.update(before)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the spikes of currents [N, ...], or of [T N, ...] if T is above 1."""
        return self._called(x, self.T, super().__call__)

    def simple_forward(self, x: Tensor) -> Tensor:
        """Return the spikes of one step [N, ...], whatever T is."""
        return self._called(x, 1, self.forward)

    def parallel_optim_forward(self, x: Tensor) -> Tensor:
        """Return the spikes of T steps [T N, ...], whatever `parallel_optim` is."""
        return self._called(x, self.T, self.forward)

    @property
    def state(self) -> State | None:
        """The memories; None before the first call and after `reset()`."""
        held = tuple(self._memories.values())
        return held if all(isinstance(each, Tensor) for each in held) else None

    def reset(self) -> None:
        """Set every memory to the value that it begins at."""
        super().reset()
        self._used = False

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        told = [f"v_threshold={self.v_threshold}", f"v_reset={self.v_reset}", f"T={self.T}"]
        return ", ".join(told + differing(self, but=frozenset({"v_threshold", "v_reset", "T"})))

    def _called(self, x: Tensor, steps: int, run: Callable[..., Tensor]) -> Tensor:
        currents = _over_steps(x, steps)
        if self._carried is not None:  # someone else keeps the state
            return run(currents).flatten(0, 1)
        before = self._from_last(currents[0])
        ended: list[State] = []
        self._carried = ([before], ended)
        try:
            spikes = run(currents)
        finally:
            self._carried = None
        (after,) = ended
        self._memories.update(zip(self._memories, after, strict=True))
        self._used = False
        if spikes.requires_grad:
            spikes.register_hook(_Used(self))
        return spikes.flatten(0, 1)

    def _from_last(self, current: Tensor) -> State:
        """Return the memories as tensors; as they begin if the batch is of another shape."""
        if self._used:
            self.detach()
        fresh = self.initial(current)
        if not all(_fits(held, current) for held in self._memories.values()):
            return fresh
        return tuple(
            held.to(current) if isinstance(held, Tensor) and held.shape == current.shape
            else spread(held, current)
            for held in self._memories.values()
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        kept = super().__getstate__()
        return {**kept, "_memories": dict(self._memories_rv), "_used": False}


class _Used:
    """Tells a node that the graph of its last call has been gone through, and is free."""

    def __init__(self, node: BaseNode) -> None:
        self._node = weakref.ref(node)

    def __call__(self, gradient: Tensor) -> None:
        if (node := self._node()) is not None:
            node._used = True


def _over_steps(x: Tensor, steps: int) -> Tensor:
    """Return [T, N, ...] of [T N, ...]."""
    x = x.to_dense() if isinstance(x, SpikeTensor) else tensor("x", x)
    if x.ndim == 0 or x.shape[0] == 0 or x.shape[0] % steps:
        shape = tuple(x.shape)
        raise ValueError(f"x must be [T N, ...] of T = {steps} steps, got {shape}")
    return x.unflatten(0, (steps, -1))


def _fits(held: float | Tensor, current: Tensor) -> bool:
    return not isinstance(held, Tensor) or held.ndim == 0 or held.shape == current.shape


def backend_of(parallel_optim: bool) -> Any:
    """Return the backend that `parallel_optim` stands for."""
    return "auto" if parallel_optim else "reference"


def check_node(v_threshold: float, v_reset: float | None, surrogate: Surrogate, steps: int) -> None:
    """Raise unless the arguments of a node are in their ranges."""
    number(v_threshold=v_threshold, v_reset=0.0 if v_reset is None else v_reset)
    if not (v_threshold > 0 and math.isfinite(v_threshold)):
        raise ValueError(f"v_threshold must be positive and finite, got {v_threshold}")
    if v_reset is not None and not -math.inf < v_reset < v_threshold:
        raise ValueError(f"v_reset must be None or below v_threshold {v_threshold}, got {v_reset}")
    check_surrogate(surrogate, "surrogate_function")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"T must be a whole number of at least 1, got {steps!r}")
