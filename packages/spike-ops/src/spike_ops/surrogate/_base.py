"""What a surrogate is: the step of a spike forward, a smooth derivative backward."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from spike_ops._checked import number


@dataclass(frozen=True)
class Surrogate(ABC):
    """Return spikes Θ(u) whose gradient is that of a smooth primitive instead.

    A surrogate is a value: two with the same settings are equal. `derivative` and `primitive`
    belong together: the first is the derivative of the second. Every surrogate takes `spike_out`
    (return a `SpikeTensor` instead of dense zeros and ones) and `spiking` (if not, return the
    primitive itself, for gradient checks).

    Raises:
        ValueError: A setting is not finite, or outside its range.
    """

    _positive: ClassVar[tuple[str, ...]] = ()  # settings that must be above 0
    _not_negative: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name in (*self._positive, *self._not_negative):
            value, positive = getattr(self, name), name in self._positive
            number(**{name: value})
            if not (value > 0 if positive else value >= 0) or not math.isfinite(value):
                rule = "positive" if positive else "at least 0"
                raise ValueError(f"{name} must be {rule} and finite, got {value}")

    @property
    def support(self) -> float | None:
        """Half the width of the window outside which the derivative is zero; None without one."""
        return None

    @cached_property
    def peak(self) -> float:
        """The largest derivative, that at u = 0."""
        return float(self.derivative(torch.zeros((), dtype=torch.float64, device="cpu")))

    @property
    def signed(self) -> bool:
        """Whether the derivative is negative somewhere."""
        return False

    @abstractmethod
    def derivative(self, u: Tensor) -> Tensor:
        """Return σ'(u), the gradient used in place of the step's."""

    @abstractmethod
    def primitive(self, u: Tensor) -> Tensor:
        """Return σ(u), whose derivative is used."""

    def __call__(self, u: Tensor, *, strict: bool = False) -> Tensor:
        """Return the spikes of u = h - θ: u >= 0, or u > 0 if strict."""
        if not getattr(self, "spiking", True):
            return self.primitive(u)
        spikes: Tensor = _Fire.apply(u, self, strict, getattr(self, "spike_out", False))  # type: ignore[no-untyped-call,unused-ignore]
        return spikes

    def dense(self, u: Tensor, *, strict: bool = False) -> Tensor:
        """Return the spikes of u as numbers, whatever `spike_out` says."""
        if not getattr(self, "spiking", True):
            return self.primitive(u)
        spikes: Tensor = _Fire.apply(u, self, strict, False)  # type: ignore[no-untyped-call,unused-ignore]
        return spikes


def heaviside(u: Tensor, *, strict: bool = False) -> Tensor:
    """Return Θ(u) as booleans: u >= 0, or u > 0 if strict."""
    return u > 0 if strict else u >= 0


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, surrogate: Surrogate, strict: bool, packed: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        fired = heaviside(u, strict=strict)
        if packed:
            from spike_ops._ops import packed_bits
            from spike_ops._spike_tensor import SpikeTensor

            return SpikeTensor(packed_bits(fired), fired.shape, u.dtype)
        return fired.to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (u,) = ctx.saved_tensors
        return gradients[0] * ctx.surrogate.derivative(u), None, None, None


def check_surrogate(surrogate: Any, name: str = "surrogate") -> None:
    """Raise TypeError unless it is a surrogate."""
    if isinstance(surrogate, Surrogate):
        return
    if isinstance(surrogate, type) and issubclass(surrogate, Surrogate):
        got = f"the class {surrogate.__name__}; {surrogate.__name__}() is one"
    else:
        kind = repr(surrogate) if isinstance(surrogate, str) else type(surrogate).__name__
        got = f"{kind}; spike_ops.surrogate.ATan() is one"
    raise TypeError(f"{name} must be a spike_ops.surrogate.Surrogate, got {got}")


def check_spike_out(surrogate: Surrogate, spike_out: bool) -> None:
    """Raise ValueError if bits are asked of a surrogate that returns its primitive."""
    if spike_out and not getattr(surrogate, "spiking", True):
        told = f"spike_out needs spikes, and {surrogate} returns its primitive"
        raise ValueError(f"{told}: spiking must be True")
