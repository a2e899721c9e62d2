"""What goes into neurons: currents that fit, the state they begin from, values that are finite."""

from collections.abc import Sequence

from torch import Tensor

from spike_ops._bits import in_numpy
from spike_ops._checked import tensor
from spike_ops._spike_tensor import SpikeTensor

State = tuple[Tensor, ...]


def checked_currents(currents: Tensor, steps: int | None) -> Tensor:
    """Return dense currents [T, B, ...] of `steps` steps, or of any number.

    Raises:
        TypeError: They are no tensor of floating-point numbers.
        ValueError: They have no time axis, or not that many steps.
    """
    if isinstance(currents, SpikeTensor):
        currents = currents.to_dense()
    if not tensor("currents", currents).is_floating_point():
        raise TypeError(f"currents must be floating point, got {currents.dtype}")
    if currents.ndim < 2 or currents.shape[0] == 0:
        shape = tuple(currents.shape)
        raise ValueError(f"currents must be [T, B, ...] with T at least 1, got {shape}")
    if steps is not None and currents.shape[0] != steps:
        got = f"{currents.shape[0]} of {tuple(currents.shape)}"
        raise ValueError(f"the first axis of currents must be {steps} steps, got {got}")
    return currents


def first_state(
    given: State | None, kept: State | None, fresh: State, step: Sequence[int]
) -> State:
    """Return the state to begin from: a given one, else a kept one that fits, else a fresh one.

    Raises:
        ValueError: The given state does not fit, or the kept one is of other neurons than a `step`
            [B, ...] has.
    """
    state = given if given is not None else kept
    if state is None:
        return fresh
    pairs = list(zip(state, fresh, strict=False))
    fits = len(state) == len(fresh) and all(held.shape == new.shape for held, new in pairs)
    if fits and all(held.dtype == new.dtype and held.device == new.device for held, new in pairs):
        return state
    if given is None and len(fresh) and fresh[0].ndim and not fits:
        _check_neurons(state[0], fresh[0], step)
    if given is None:  # another batch size: begin anew; another type: go on in it
        return tuple(held.to(new) for held, new in pairs) if fits else fresh
    shapes = f"{[tuple(each.shape) for each in given]}"
    needs = f"{[tuple(each.shape) for each in fresh]} of {fresh[0].dtype}"
    raise ValueError(f"state must have shapes {needs}, got {shapes}")


def _check_neurons(held: Tensor, new: Tensor, step: Sequence[int]) -> None:
    """Raise unless a state [B, ...] that is kept differs by its batch alone."""
    if new.shape == step and held.shape[1:] != new.shape[1:]:
        got = f"a step of {tuple(step)} after one of {tuple(held.shape)}"
        raise ValueError(f"stateful neurons must stay as many, got {got}; reset() begins anew")


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
