"""What a spiking neuron is: a pure step, and a module that runs it over time."""

import itertools
from collections.abc import Callable, Sequence
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
# what makes a step; `settle` is that of neurons with a membrane
STEP = ("initial", "transition", "step", "fire", "constants", "settle")
# settings that a step does not depend on
AROUND = {"training", "steps", "stateful", "spike_out", "backend"}
_times = itertools.count()


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
    # whether a current that is not finite can leave no trace in the state
    forgets = False
    # when a setting was last changed, as a number that grows
    _changed = 0

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
        # states that calls begin from, in their order, and those that they ended in
        self._carried: tuple[Sequence[State | None], list[State]] | None = None
        self._kernels: dict[torch.dtype, tuple[int, Kernels]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name[0] != "_" and name not in AROUND:
            self.__dict__["_changed"] = next(_times)

    def _settled(self) -> int:
        """Return when a setting of it, or of neurons within it, was last changed."""
        inner = [each._settled() for each in self._modules.values() if isinstance(each, Neuron)]
        return max(self._changed, *inner) if inner else self._changed

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
        constants = self.constants()
        if current.is_floating_point():  # a parameter of another type would make the state its own
            constants = tuple(each.to(current.dtype) for each in constants)
        return self.transition(current, state, *constants)

    def membrane(self, state: State) -> Tensor:
        """Return what of a state is the membrane [B, ...], for those who watch it."""
        return state[0]

    def fire(self, u: Tensor) -> Tensor:
        """Return the dense spikes of u = h - θ."""
        return self.surrogate.dense(u)

    def _is_a(self, kind: type["Neuron"]) -> bool:
        """Return whether its step is that of a kind: a subclass may have another."""
        own = type(self)
        return all(getattr(own, name, None) is getattr(kind, name, None) for name in STEP)

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
        if type(self).step is not Neuron.step:
            return f"{type(self).__name__} has a step that is not its transition"
        if torch.compiler.is_compiling():
            return "torch.compile fuses the steps itself"
        if currents.device.type != "cpu":
            return f"no kernel for {currents.device.type}"
        if currents.dtype not in {torch.float32, torch.float64}:
            return f"no kernel for {currents.dtype}"
        return ""

    def _is_built(self, dtype: torch.dtype) -> bool:
        held = self._kernels.get(dtype)
        return held is not None and held[0] == self._settled()

    def _build(self, dtype: torch.dtype) -> Kernels:
        """Return the kernels of a type, built once for the same settings."""
        if not Neuron._is_built(self, dtype):
            example = torch.zeros(1, 1, dtype=dtype)
            counts = len(self.initial(example)), len(self.constants())
            made = kernels(self.transition, *counts, dtype)
            self._kernels[dtype] = (self._settled(), made)
        return self._kernels[dtype][1]

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
            given, ended = self._carried
            state = given[len(ended)] if len(ended) < len(given) else None
        before = self._begin(currents, state)
        spikes, after = over_time(currents, before)
        check_finite((currents, *after) if self.forgets else after, currents)
        if self._carried is not None:
            self._carried[1].append(after)
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
        pairs = list(zip(kept, fresh, strict=False))
        fits = len(kept) == len(fresh) and all(held.shape == new.shape for held, new in pairs)
        alike = all(held.dtype == new.dtype and held.device == new.device for held, new in pairs)
        if fits and alike:
            return kept
        if state is None:  # another batch size: begin anew; another type: go on in it
            return tuple(held.to(new) for held, new in pairs) if fits else fresh
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


def check_finite(after: State, currents: Tensor) -> None:
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
