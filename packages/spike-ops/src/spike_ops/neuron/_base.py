"""What a spiking neuron is: a pure step, and a module that runs it over time."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spike_ops._checked import counted, flag
from spike_ops.neuron._backends import BACKENDS, Backend, Choice, chosen, hindrance, kernels_of
from spike_ops.neuron._fused import fused
from spike_ops.neuron._inputs import check_finite, checked_currents, first_state
from spike_ops.neuron._kernel import Kernels
from spike_ops.neuron._outputs import as_asked
from spike_ops.neuron._told import differing
from spike_ops.surrogate import ATan, Surrogate
from spike_ops.surrogate._base import check_spike_out, check_surrogate

State = tuple[Tensor, ...]
Reset = Literal["hard", "soft", "none"]
# what makes a step; `settle` is that of neurons with a membrane
STEP = ("initial", "transition", "step", "fire", "constants", "settle")
# settings that a step does not depend on
AROUND = {"training", "steps", "stateful", "spike_out", "backend"}
_times = itertools.count()


class Neuron(nn.Module):
    """Return the spikes of a layer of neurons: currents [T, B, ...] in, spikes [T, B, ...] out.

    A subclass gives `initial`, the state before the first step, and `transition`, one step as a
    pure function of current, state and the tensors of `constants`. Both are the definition of the
    neuron; faster ways of running it over time answer to them.

    Without more, a call begins from the initial state and keeps nothing. With `stateful=True`
    the next call goes on where this one ended (its gradients do not reach back); the state begins
    anew when the size of the batch changes, and at `reset()`; a step of another shape is refused
    before that. State is never in `state_dict`.

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
        ValueError: An argument is outside its range, or `spike_out` is asked of a surrogate that
            returns its primitive.
        TypeError: `surrogate` is no `spike_ops.surrogate.Surrogate`.
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
        if steps is not None:
            steps = counted("steps", steps)
        flag(stateful=stateful, spike_out=spike_out)
        self.surrogate = ATan() if surrogate is None else surrogate
        check_spike_out(self.surrogate, spike_out)
        self.steps, self.stateful, self.spike_out = steps, stateful, spike_out
        self.backend: Backend = backend
        self._state: State | None = None
        # states that calls begin from, in their order, and those that they ended in
        self._carried: tuple[Sequence[State | None], list[State]] | None = None
        self._kernels: dict[torch.dtype, tuple[int, Kernels]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "surrogate":
            check_surrogate(value)
        if name == "reset" and not callable(value):  # which would hide the method
            kind = type(self).__name__
            told = f"LIF(reset={value!r}) is made so, and {kind}.reset() forgets the state"
            raise ValueError(f"reset is settled when a neuron is made: {told}")
        super().__setattr__(name, value)
        if name[0] != "_" and name not in AROUND:
            self.__dict__["_changed"] = next(_times)

    def _settled(self) -> int:
        """Return when a setting of it, or of neurons within it, was last changed."""
        inner = [each._settled() for each in self._modules.values() if isinstance(each, Neuron)]
        return max(self._changed, *inner) if inner else self._changed

    def initial(self, current: Tensor) -> State:
        """Return the state before the first step; `current` is one step of input [B, ...]."""
        raise self._lacking("initial, the state before the first step")

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the dense spikes of one step [B, ...] and the state after it."""
        raise self._lacking("transition, one step")

    def _lacking(self, what: str) -> NotImplementedError:
        kind = type(self).__name__
        return NotImplementedError(f"{kind} must define {what}; LIF is a kind of neuron that does")

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

    @property
    def _fires(self) -> bool:
        """Whether what it returns is sure to be zeros and ones."""
        return self.binary and getattr(self.surrogate, "spiking", True)

    @property
    def _has_own_step(self) -> bool:
        """Whether `step` is more than its transition, which may then not run without it."""
        return type(self).step is not Neuron.step

    def _is_a(self, kind: type["Neuron"]) -> bool:
        """Return whether its step is that of a kind: a subclass may have another."""
        own = type(self)
        return all(getattr(own, name, None) is getattr(kind, name, None) for name in STEP)

    def explain(self, currents: Tensor) -> Choice:
        """Return which backend runs these currents, and why.

        Raises:
            ValueError: The backend asked for cannot run them.
        """
        return chosen(self, currents)

    def _hindrance(self, currents: Tensor) -> str:
        """Return why no kernel can run these currents; nothing if one can."""
        return hindrance(self, currents)

    def _is_built(self, dtype: torch.dtype) -> bool:
        held = self._kernels.get(dtype)
        return held is not None and held[0] == self._settled()

    def _build(self, dtype: torch.dtype) -> Kernels:
        """Return the kernels of a type, built once for the same settings."""
        return kernels_of(self, dtype)

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
        told = as_asked(spikes, binary=self._fires, spike_out=self.spike_out)
        if self._carried is not None:
            self._carried[1].append(after)
        elif self.stateful:
            self._state = tuple(each.detach() for each in after)
        return told, after

    def _checked(self, currents: Tensor) -> Tensor:
        return checked_currents(currents, self.steps)

    def _begin(self, currents: Tensor, state: State | None) -> State:
        kept = self._state if self.stateful else None
        return first_state(state, kept, self.initial(currents[0]), currents.shape[1:])

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
        packed = self.spike_out and self._fires
        return fused(built, currents, state, self.constants(), spike_out=packed)

    def _step_by_step(self, currents: Tensor, state: State) -> tuple[Tensor, State]:
        """Return spikes and state by `step`, the specification of every other way."""
        fired = []
        for current in currents.unbind(0):
            spikes, state = self.step(current, state)
            fired.append(spikes)
        return torch.stack(fired), state

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return ", ".join([*differing(self), f"surrogate={self.surrogate}"])

    def __getstate__(self) -> dict[str, Any]:
        # a state may hang on a graph and a kernel on this process: a copy begins anew
        return {**self.__dict__, "_state": None, "_carried": None, "_kernels": {}}
