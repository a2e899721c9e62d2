"""A linear layer for slowly changing streams: computed anew only where the input has moved."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adlrns_models import _kept
from adlrns_models._checks import check_input, check_int, check_kind, check_number


class _Memory(NamedTuple):
    """Inputs and outputs of the last event of each row, and the weights they belong to."""

    key: tuple[object, ...]
    held: tuple[Tensor, ...]  # the weights: nothing else can come to lie at their addresses
    inputs: Tensor  # [N, n]
    outputs: Tensor  # [N, m]


class _Parts(NamedTuple):
    key: tuple[object, ...]
    held: tuple[Tensor, ...]
    down: Tensor  # [r, n]
    up: Tensor  # [m, r]
    norm: float


class EventLinear(nn.Module):
    """Runs an ``nn.Linear`` on a stream, each row anew only when it has moved further than theta.

    For every row (place in the batch) the layer keeps the input ``x_0`` and output ``y_0`` of its
    last event. While ``|x - x_0| <= theta`` the row costs no product with the weight:

        y = y_0 + up_r down_r (x - x_0)         |y - (W x + b)| <= sigma_(r+1) theta

    with the leading r singular directions of W; at ``rank=0`` that is ``y_0``, within
    ``|W|_2 theta``. A row that has moved further, or holds nan, is an event: ``y = W x + b``, kept.
    The bound holds at all times, however far the stream drifts, up to the rounding of the products:
    in half precision and under autocast that of half precision, which may be more than the bound.

    Outside of ``torch.no_grad`` and ``torch.inference_mode``, and in training mode, nothing is
    kept and the layer is the plain one. A batch of another shape or precision, another precision of
    autocast, and new weights begin anew; weights written through ``.data`` are not noticed.

    Args:
        linear: the layer; it is kept and shared, not copied.
        theta: the distance, 0 or more; at 0 only rows that are equal to the last bit are kept.
        rank: r, 0 to the weight's smaller side.

    Shapes: ``[..., n]`` to ``[..., m]``; the leading axes say which row is which.

    Raises:
        ValueError, TypeError: for a theta that is negative or a rank that the weight has not.

    Example:
        >>> import torch
        >>> from adlrns_models import EventLinear
        >>> layer = EventLinear(torch.nn.Linear(8, 4), theta=0.1).eval()
        >>> x = torch.randn(3, 8)
        >>> with torch.no_grad():
        ...     first, again = layer(x), layer(x + 0.001)
        >>> torch.equal(first, again), layer.last_events.tolist()
        (True, [False, False, False])

    Source: thresholds on changes of activations are those of delta networks (Neil et al., ICML
    2017, arXiv 1612.05571); the bound is the operator norm's.
    """

    def __init__(self, linear: nn.Linear, theta: float, *, rank: int = 0):
        super().__init__()
        self.linear = check_kind("linear", linear, nn.Linear)
        self.theta = check_number("theta", theta)
        if not 0.0 <= self.theta < math.inf:
            raise ValueError(f"theta must be 0 or more and finite, got {theta}")
        self.rank = check_int("rank", rank, 0, min(linear.weight.shape))
        self._memory: _Memory | None = None
        self._parts: _Parts | None = None
        self._events: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output, computed anew where the input has moved."""
        check_input("x", x, self.linear.weight)
        if x.ndim == 0 or x.shape[-1] != self.linear.in_features:
            raise ValueError(f"x must be [..., {self.linear.in_features}], got {list(x.shape)}")
        if self.training or (torch.is_grad_enabled() and self._has_graph(x)):
            self.reset()
            return self.linear(x)
        y = self._stream(x.reshape(-1, x.shape[-1]), self._key(x))
        assert self._events is not None
        self._events = self._events.reshape(x.shape[:-1])
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @property
    def bound(self) -> float:
        """The most by which a row's output is off, ``sigma_(r+1) theta``."""
        return self._singular_parts().norm * self.theta

    @property
    def last_events(self) -> Tensor:
        """Which rows the last call computed anew, booleans of the leading axes.

        Raises:
            RuntimeError: before the first call that kept anything.
        """
        if self._events is None:
            raise RuntimeError("the layer keeps no stream yet: call it in eval mode under no_grad")
        return self._events

    def reset(self) -> None:
        """Forgets the stream: every row of the next call is an event."""
        self._memory = self._events = None

    def extra_repr(self) -> str:
        """Returns the settings for ``print(layer)``."""
        return f"theta={self.theta:g}, rank={self.rank}"

    def _stream(self, rows: Tensor, key: tuple[object, ...]) -> Tensor:
        memory = self._memory
        if memory is None or memory.key != key:
            outputs = self.linear(rows)
            # the caller may write to either
            self._memory = _Memory(key, self._weights(), rows.clone(), outputs.clone())
            self._events = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
            return outputs
        change = rows - memory.inputs
        moved = self._events = ~(change.norm(dim=1) <= self.theta)  # nan has moved
        if bool(moved.any()):
            memory.inputs[moved] = rows[moved]
            memory.outputs[moved] = self.linear(rows[moved])
        if self.rank == 0:
            return memory.outputs.clone()
        parts = self._singular_parts()
        # not by a mask of zeros: nan times zero is nan
        still = torch.where(moved[:, None], 0.0, change)
        return memory.outputs + ((still @ parts.down.T) @ parts.up.T).to(memory.outputs.dtype)

    def _has_graph(self, x: Tensor) -> bool:
        return x.requires_grad or any(p.requires_grad for p in self.linear.parameters())

    def _key(self, x: Tensor) -> tuple[object, ...]:
        place = x.device.type
        lowered = torch.amp.is_autocast_available(place) and torch.is_autocast_enabled(place)
        kind = torch.get_autocast_dtype(place) if lowered else None
        return (x.shape, x.dtype, x.device, kind, *self._weights_key())

    def _weights_key(self) -> tuple[object, ...]:
        tensors = self._weights()
        if tensors[0].is_inference():  # such tensors have no version
            return (object(),)
        versions = [(t.data_ptr(), t._version) for t in tensors]
        return (_kept._last_optimizer_step, *versions)

    def _weights(self) -> tuple[Tensor, ...]:
        both = (self.linear.weight, self.linear.bias)
        return tuple(p.detach() for p in both if p is not None)

    @torch.no_grad()
    def _singular_parts(self) -> _Parts:
        key = self._weights_key()
        if self._parts is None or self._parts.key != key:
            weight, r = self.linear.weight, self.rank
            U, S, Vt = torch.linalg.svd(weight.double(), full_matrices=False)
            down = (S[:r, None] * Vt[:r]).to(weight.dtype)
            norm = float(S[r]) if r < len(S) else 0.0
            self._parts = _Parts(key, self._weights(), down, U[:, :r].to(weight.dtype), norm)
        return self._parts

    def _apply(self, fn: Any, recurse: bool = True) -> "EventLinear":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.reset()
        self._parts = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": None, "_parts": None, "_events": None}
