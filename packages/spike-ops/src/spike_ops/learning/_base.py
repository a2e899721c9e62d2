"""What a learning rule is: activity on both sides of a weight in, its change out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spike_ops._checked import tensor
from spike_ops.learning._apply import Bounds, apply_, check_rate
from spike_ops.learning._geometry import Geometry, LinearGeometry, geometry_of
from spike_ops.learning._spikes import checked
from spike_ops.learning._traces import exactly

State = tuple[Tensor, ...]


class Update(NamedTuple):
    """What a rule returns: the change to be added to the weight, and what the next call needs."""

    dw: Tensor
    state: State


@dataclass(frozen=True)
class SynapticRule(ABC):
    """Return the change of a weight from the activity before and after it.

    A rule is a value, and a call a pure function: nothing is kept and nothing is written. The
    weight stands still within a call, so that a window [T, B, ...] is a few matrix products;
    windows in sequence, each with the state of the one before, are one window. Changes are summed
    over steps and batch. `step` also applies them.

    Subclasses give `initial`, `_update` and the definition step by step, `_update_reference`.
    """

    #: whether pre and post must be spikes; otherwise they may be rates
    binary = True

    def __call__(
        self,
        pre: Tensor,
        post: Tensor,
        weight: Tensor,
        state: State | None = None,
        *,
        geometry: Geometry | None = None,
    ) -> Update:
        """Return the change of a weight over a window, and the state after it.

        Args:
            pre: Spikes before the weight [T, B, N_in], `SpikeTensor` or dense.
            post: Spikes after it [T, B, N_out].
            weight: The weight [N_out, N_in].
            state: That of the window before; None begins anew.
            geometry: How pre and post meet in the weight; by rows and columns if None.

        Raises:
            ValueError: Shapes do not fit, spikes are not 0 or 1, or the state is of another batch.
        """
        met, pre, post = self._checked(pre, post, weight, geometry)
        with torch.no_grad(), exactly(weight):
            w = weight.detach()
            return self._update(pre, post, w, self._begin(pre, post, w, state), met)

    def reference(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State | None = None
    ) -> Update:
        """Return the same step by step, as the rule is defined: slow, the specification."""
        _, pre, post = self._checked(pre, post, weight, None)
        with torch.no_grad(), exactly(weight):
            w = weight.detach()
            before = self._begin(pre, post, w, state)
            return self._update_reference(dense(pre, w), dense(post, w), w, before)

    def step(
        self,
        connection: nn.Module,
        pre: Tensor,
        post: Tensor,
        state: State | None = None,
        *,
        lr: float = 1.0,
        bounds: Bounds = (None, None),
    ) -> State:
        """Change a layer's weight in place by `lr` times the rule, clipped; return the state.

        Args:
            connection: A layer with a weight [out, in], or a convolution.
            pre: Spikes into the layer [T, B, ...].
            post: Spikes of the neurons behind it [T, B, ...].
            state: That of the window before; None begins anew.
            lr: Learning rate.
            bounds: The least and the greatest weight; None leaves a side open.

        Raises:
            ValueError: `lr` is negative or not finite, or what the rule or `apply_` refuse.
        """
        check_rate(lr)
        met = geometry_of(connection)
        update = self(pre, post, connection.weight, state, geometry=met)  # type: ignore[arg-type]
        apply_(connection, lr * update.dw, bounds=bounds)
        return update.state

    @abstractmethod
    def initial(self, pre: Tensor, post: Tensor, weight: Tensor) -> State:
        """Return the state before the first step."""

    @abstractmethod
    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update: ...

    @abstractmethod
    def _update_reference(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State
    ) -> Update: ...

    def _checked(
        self, pre: Tensor, post: Tensor, weight: Tensor, geometry: Geometry | None
    ) -> tuple[Geometry, Tensor, Tensor]:
        met = LinearGeometry() if geometry is None else geometry
        check_weight(weight)
        pre = checked(pre, "pre", binary=self.binary)
        post = checked(post, "post", binary=self.binary)
        met.check(pre, post, weight)
        return met, pre, post

    def _begin(self, pre: Tensor, post: Tensor, weight: Tensor, state: State | None) -> State:
        return fitting(state, self.initial(pre, post, weight))


def dense(activity: Tensor, weight: Tensor) -> Tensor:
    """Return dense values in the weight's type."""
    plain = activity.to_dense() if hasattr(activity, "packed") else activity
    return plain.to(weight.dtype)


def slow_dtype(weight: Tensor) -> torch.dtype:
    """Return the type of averages over many steps: their changes are below what halves resolve."""
    return torch.promote_types(weight.dtype, torch.float32)


def check_weight(weight: Tensor) -> None:
    """Raise unless a weight can be learned by a rule."""
    if tensor("weight", weight).ndim < 2 or not weight.is_floating_point():
        got = f"{weight.dtype} of {tuple(weight.shape)}"
        raise ValueError(f"weight must be a float [N_out, N_in, ...], got {got}")


def fitting(state: State | None, fresh: State) -> State:
    """Return the state to begin with: a fresh one, or the given one if it fits.

    Raises:
        ValueError: The given state is of another batch, size or type.
    """
    if state is None:
        return fresh
    shapes = [(tuple(each.shape), each.dtype) for each in state]
    needed = [(tuple(each.shape), each.dtype) for each in fresh]
    if shapes != needed:
        raise ValueError(f"state must be tensors {needed}, got {shapes}; pass None to begin anew")
    return state
