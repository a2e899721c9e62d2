"""What an optimizer sees of parameters while it makes a step, and what stays if the step fails."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuro_morph._ramp import Ramp
from neuro_morph._slot import Slot


class _Seen:
    """A parameter while a step is made, and as it was before."""

    def __init__(self, parameter: Tensor, slot: Slot) -> None:
        self.parameter, self.slot = parameter, slot
        self.data, self.gradient = parameter.detach().clone(), parameter.grad
        self.ramps: list[Ramp] = [ramp.copy() for ramp in slot.ramps]
        self.start = self.data
        self.given: Tensor | None = None

    def enter(self) -> None:
        for ramp in self.slot.ramps:
            ramp.lift(self.parameter)
        self.parameter.div_(self.slot.value.to(self.parameter))
        self.start = self.parameter.detach().clone()
        if self.gradient is not None:
            self.given = divided(self.gradient, self._divisor())
            self.parameter.grad = self.given

    def leave(self, *, counted: bool) -> None:
        if counted or not torch.equal(self.parameter, self.start):
            moved = self.parameter - self.start
            self.parameter.copy_(self.start + self.slot.rate.to(self.parameter) * moved)
            self.parameter.mul_(self.slot.value.to(self.parameter))
            for ramp in self.slot.ramps:
                ramp.lower(self.parameter, counted=counted)
        else:  # as it was, to the last bit
            self.parameter.copy_(self.data)
        if self.parameter.grad is self.given:  # a step may have dropped it
            self.parameter.grad = self.gradient

    def put_back(self) -> None:
        self.parameter.copy_(self.data)
        self.parameter.grad = self.gradient
        self.slot.ramps = self.ramps

    def _divisor(self) -> Tensor:
        """What the gradient is divided by; at the start of a ramp it would be zero otherwise."""
        divisor = self.slot.gradient.clone()
        for ramp in self.slot.ramps:
            part = divisor.index_select(ramp.dim, ramp.entries) / ramp.share
            divisor.index_copy_(ramp.dim, ramp.entries, part)
        return divisor


class SlotStep:
    """One step of an optimizer, from before it to after it.

    Args:
        held: the parameters that the optimizer sees otherwise than they are.

    Attributes:
        depth: how many steps, one in the other, are being made.
    """

    def __init__(self, held: Sequence[tuple[Tensor, Slot]]) -> None:
        self._held, self.depth = held, 1
        self._inside: list[_Seen] = []

    @torch.no_grad()
    def enter(self) -> None:
        """Turns parameters into what the optimizer sees."""
        for parameter, slot in self._held:
            seen = _Seen(parameter, slot)
            self._inside.append(seen)  # before it is touched: it may be put back from here on
            seen.enter()

    @torch.no_grad()
    def leave(self, *, counted: bool = True) -> None:
        """Turns what the optimizer sees into parameters; ``counted`` if the step is made."""
        for seen in self._inside:
            seen.leave(counted=counted)
        for seen in self._inside if counted else ():
            seen.slot.ramps = [ramp for ramp in seen.slot.ramps if not ramp.done]
        self._inside = []

    @torch.no_grad()
    def put_back(self) -> None:
        """Puts parameters back as they were before the step."""
        for seen in self._inside:
            seen.put_back()
        self._inside = []

    def outside(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a closure of the optimizer that runs on the parameters as they are."""

        @wraps(closure)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.leave(counted=False)
            found = closure(*args, **kwargs)
            self.enter()
            return found

        return run


def with_closure_outside(step: SlotStep, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Returns the arguments of a step of an optimizer, its closures wrapped."""
    first, *rest = args
    new = [step.outside(each) if callable(each) else each for each in rest]
    return (first, *new), {
        key: step.outside(each) if key == "closure" and callable(each) else each
        for key, each in kwargs.items()
    }


def divided(gradient: Tensor, divisor: Tensor) -> Tensor:
    """Returns a gradient, dense or of some rows only, over a number for each entry."""
    if not gradient.is_sparse:
        return gradient / divisor.to(gradient)
    found = gradient.coalesce()
    over = divisor.to(gradient.device)[tuple(found.indices())]
    values = found.values() / over.to(found.values())
    return torch.sparse_coo_tensor(
        found.indices(), values, found.shape, check_invariants=False, is_coalesced=True
    )


def guard_step(optimizer: Optimizer, drop: Callable[[Optimizer], None]) -> Callable[[], None]:
    """Has ``drop`` called before every step of an optimizer, and after one that raises.

    Hooks of optimizers hear of the end of steps that succeed only. Returns what ends it.
    """
    step: Any = optimizer.step
    held: Any = vars(optimizer)

    @wraps(step)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        drop(optimizer)
        try:
            return step(*args, **kwargs)
        except BaseException:
            drop(optimizer)
            raise

    def unbound(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        return guarded(*args, **kwargs)

    own = "step" in held
    guarded.__dict__["__func__"] = wraps(step)(unbound)  # schedulers bind it themselves
    held["step"] = guarded

    def end() -> None:
        if held.get("step") is guarded:
            held.update(step=step) if own else held.pop("step")

    return end
