"""What a spiking neuron is: a pure step, and a module that runs it over time."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from spike_ops._bits import in_numpy
from spike_ops._ops import packed_bits
from spike_ops._produced import note
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron._fused import fused
from spike_ops.neuron._kernel import Kernels, kernels
from spike_ops.surrogate import ATan, Surrogate

State = tuple[Tensor, ...]
Backend = Literal["auto", "reference", "eager", "compiled", "triton"]
Reset = Literal["hard", "soft", "none"]
BACKENDS = ("auto", "reference", "eager", "compiled", "triton")


class Choice(NamedTuple):
    """Which backend runs a neuron on an input, and why."""

    backend: str
    reason: str


class Neuron(nn.Module):
    """Return the spikes of a layer of neurons: currents [T, B, ...] in, spikes [T, B, ...] out.

    A subclass gives `initial`, the state before the first step, and `transition`, one step as a
    pure function of current, state and the tensors of `constants`. Both are the definition of the
    neuron; faster ways of running it over time answer to them.

    Without more, a call begins from the initial state and keeps nothing. With `stateful=True`
    the next call goes on where this one ended (its gradients do not reach back); the state begins
    anew when the shape of a step changes, and at `reset()`. State is never in `state_dict`.

    Args:
        surrogate: Gradient in place of the step's.
        steps: Refuse inputs whose first axis is not that long; None takes any length.
        stateful: Keep the state from call to call.
        spike_out: Return a `SpikeTensor` instead of dense zeros and ones.
        backend: `"reference"` steps through time by `step`; `"compiled"` runs all steps in C built
            from it; `"eager"` and `"triton"` are functions of their own that some neurons have.
            `"auto"` takes the fastest that is there: it never builds, `build` does. `explain`
            tells which and why.

    Raises:
        ValueError: An argument is outside its range.
    """

    # whether a neuron's step depends on nothing of another neuron
    elementwise = True
    # whether what it returns is zeros and ones
    binary = True

    def __init__(
        self,
        *,
        surrogate: Surrogate | None = None,
        steps: int | None = None,
        stateful: bool = False,
        spike_out: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.surrogate = ATan() if surrogate is None else surrogate
        self.steps, self.stateful, self.spike_out = steps, stateful, spike_out
        self.backend: Backend = backend
        self._state: State | None = None
        self._carried: list[State | None] | None = None
        self._kernels: dict[torch.dtype, Kernels] = {}

    def initial(self, current: Tensor) -> State:
        """Return the state before the first step; `current` is one step of input [B, ...]."""
        raise NotImplementedError

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the dense spikes of one step [B, ...] and the state after it."""
        raise NotImplementedError

    def constants(self) -> tuple[Tensor, ...]:
        """Return the tensors that `transition` takes beside current and state: parameters."""
        return ()

    def step(self, current: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the dense spikes of one step [B, ...] and the state after it."""
        return self.transition(current, state, *self.constants())

    def fire(self, u: Tensor) -> Tensor:
        """Return the dense spikes of u = h - θ."""
        return self.surrogate.dense(u)

    def explain(self, currents: Tensor) -> Choice:
        """Return which backend runs these currents, and why.

        Raises:
            ValueError: The backend asked for cannot run them.
        """
        hindrance = self._hindrance(currents)
        if self.backend == "reference":
            return Choice("reference", "as asked")
        if self.backend == "compiled":
            if hindrance:
                raise ValueError(f"backend 'compiled' cannot run here: {hindrance}")
            return Choice("compiled", "as asked")
        if self.backend != "auto":
            raise ValueError(f"{type(self).__name__} has no backend {self.backend!r}")
        if hindrance:
            return Choice("reference", hindrance)
        if self._is_built(currents.dtype):
            return Choice("compiled", "built for this type")
        return Choice("reference", "needs no compiler; build(neuron, currents) makes a faster one")

    def _hindrance(self, currents: Tensor) -> str:
        """Return why no kernel can run these currents; nothing if one can."""
        if not self.elementwise:
            return f"{type(self).__name__} mixes neurons within a step"
        if torch.compiler.is_compiling():
            return "torch.compile fuses the steps itself"
        if currents.device.type != "cpu":
            return f"no kernel for {currents.device.type}"
        if currents.dtype not in {torch.float32, torch.float64}:
            return f"no kernel for {currents.dtype}"
        return ""

    def _is_built(self, dtype: torch.dtype) -> bool:
        return dtype in self._kernels

    def _build(self, dtype: torch.dtype) -> Kernels:
        """Return the kernels of a type, built once."""
        if dtype not in self._kernels:
            example = torch.zeros(1, 1, dtype=dtype)
            counts = len(self.initial(example)), len(self.constants())
            self._kernels[dtype] = kernels(self.transition, *counts, dtype)
        return self._kernels[dtype]

    def forward(self, currents: Tensor, state: State | None = None) -> Tensor:
        """Return the spikes [T, B, ...] of currents [T, B, ...], from a state if one is given.

        Raises:
            ValueError: The currents have no time axis, not `steps` steps, or are not finite.
        """
        return self.run(currents, state)[0]

    def run(self, currents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the spikes of currents [T, B, ...] and the state after the last step."""
        return self._run(currents, state, self._over_time)

    def _run(
        self,
        currents: Tensor,
        state: State | None,
        over_time: Callable[[Tensor, State], tuple[Tensor, State]],
    ) -> tuple[Tensor, State]:
        """Return what `run` does, by a function that makes spikes of currents and a first state."""
        currents = self._checked(currents)
        if self._carried is not None:
            state = self._carried[0]
        before = self._begin(currents, state)
        spikes, after = over_time(currents, before)
        _check_finite(after, currents)
        if self._carried is not None:
            self._carried[0] = after
        elif self.stateful:
            self._state = tuple(each.detach() for each in after)
        return self._as_asked(spikes), after

    def reset(self) -> None:
        """Forget the state kept by `stateful=True`."""
        self._state = None

    @property
    def state(self) -> State | None:
        """The state kept from the last call; None before the first and after `reset()`."""
        return self._state

    def _over_time(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        if self.explain(currents).backend == "reference":
            return self._step_by_step(currents, state)
        built = self._build(currents.dtype)
        return fused(built, currents, state, self.constants(), spike_out=self.spike_out)

    def _step_by_step(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        """Return spikes and state by `step`, the specification of every other way."""
        fired = []
        for current in currents.unbind(0):
            spikes, state = self.step(current, state)
            fired.append(spikes)
        return torch.stack(fired), state

    def _checked(self, currents: Tensor) -> Tensor:
        if isinstance(currents, SpikeTensor):
            currents = currents.to_dense()
        if not currents.is_floating_point():
            raise TypeError(f"currents must be floating point, got {currents.dtype}")
        if currents.ndim < 2 or currents.shape[0] == 0:
            shape = tuple(currents.shape)
            raise ValueError(f"currents must be [T, B, ...] with T at least 1, got {shape}")
        if self.steps is not None and currents.shape[0] != self.steps:
            got = f"{currents.shape[0]} of {tuple(currents.shape)}"
            raise ValueError(f"the first axis of currents must be {self.steps} steps, got {got}")
        return currents

    def _begin(self, currents: Tensor, state: State | None) -> State:
        fresh = self.initial(currents[0])
        kept = state if state is not None else self._state if self.stateful else None
        if kept is None:
            return fresh
        fits = len(kept) == len(fresh) and all(
            held.shape == new.shape and held.dtype == new.dtype and held.device == new.device
            for held, new in zip(kept, fresh, strict=False)
        )
        if fits:
            return kept
        if state is None:
            return fresh  # another batch size: begin anew
        shapes = f"{[tuple(each.shape) for each in state]}"
        needs = f"{[tuple(each.shape) for each in fresh]} of {fresh[0].dtype}"
        raise ValueError(f"state must have shapes {needs}, got {shapes}")

    def _as_asked(self, spikes: Tensor) -> Tensor:
        if self.binary and getattr(self.surrogate, "spiking", True):
            note(spikes)
        if self.spike_out == isinstance(spikes, SpikeTensor):
            return spikes
        if not self.spike_out:
            return spikes.to_dense()
        packed: Tensor = _Pack.apply(spikes)  # type: ignore[no-untyped-call,unused-ignore]
        return packed

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        told = [f"surrogate={self.surrogate}"]
        told += [f"{name}=True" for name in ("stateful", "spike_out") if getattr(self, name)]
        told += [f"steps={self.steps}"] if self.steps is not None else []
        return ", ".join(told)

    def __getstate__(self) -> dict[str, Any]:
        # a state may hang on a graph and a kernel on this process: a copy begins anew
        return {**self.__dict__, "_state": None, "_carried": None, "_kernels": {}}


class _Pack(torch.autograd.Function):
    """Dense spikes known to be zeros and ones, packed."""

    @staticmethod
    def forward(ctx: Any, spikes: Tensor) -> SpikeTensor:
        del ctx
        return SpikeTensor(packed_bits(spikes), spikes.shape, spikes.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0]


def _check_finite(after: State, currents: Tensor) -> None:
    """Raise if a state is not finite: what enters a membrane stays in it."""
    if all(_is_finite(each.detach()) for each in after):
        return
    wrong = ~currents.isfinite()
    if bool(wrong.any()):
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(f"currents must be finite, got {currents[where].item()} at {where}")
    raise ValueError("the state of the neuron is not finite any more: its dynamics diverge")


def _is_finite(state: Tensor) -> bool:
    if not in_numpy(state):
        return True  # looking would wait for the device
    # a sum is finite only if all is; it may overflow where all is
    return bool(state.sum().isfinite()) or bool(state.isfinite().all())
