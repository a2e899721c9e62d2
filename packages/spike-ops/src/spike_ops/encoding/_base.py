"""What encoders share: checks, packing, and the time that never comes."""

from numbers import Integral

import torch
from torch import Tensor

from spike_ops._checked import tensor
from spike_ops._spike_tensor import SpikeTensor, check_binary


def check_steps(steps: int) -> None:
    """Raise unless it is a whole number of steps, and there is one."""
    check_whole(steps=steps)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def check_whole(**values: int) -> None:
    """Raise unless all settings are whole numbers."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, got {value!r}")


def check_unit(x: Tensor, name: str = "x") -> None:
    """Raise unless all values are floats in 0..1."""
    if not tensor(name, x).is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    wrong = ~((x >= 0) & (x <= 1))
    if bool(wrong.any()):
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(f"{name} must be in 0..1, got {x[where].item():g} at {where}")


def check_finite(x: Tensor, name: str = "x") -> None:
    """Raise unless all values are finite floats."""
    if not tensor(name, x).is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}")
    if bool((wrong := ~x.isfinite()).any()):
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(f"{name} must be finite, got {x[where].item():g} at {where}")


def as_spikes(fired: Tensor, dtype: torch.dtype, spike_out: bool) -> Tensor:
    """Return booleans as dense zeros and ones, or packed."""
    return SpikeTensor.from_dense(fired, dtype) if spike_out else fired.to(dtype)


def wide(x: Tensor) -> Tensor:
    """Return x in float32 at least: chances, times and sums are lost in half precision."""
    return x.float() if x.is_floating_point() and x.itemsize < 4 else x


def summed(spikes: Tensor, dim: int = 0) -> Tensor:
    """Return sums in float32 at least: in half precision no count beyond 256 (2048) is exact."""
    halves = spikes.is_floating_point() and spikes.itemsize < 4
    return spikes.sum(dim, dtype=torch.float32) if halves else spikes.sum(dim)


def steps_like(steps: int, x: Tensor) -> Tensor:
    """Return 0..steps - 1 as int64, with an axis of one for each of x's: [T, 1, ...]."""
    return torch.arange(steps, device=x.device).reshape(steps, *[1] * x.ndim)


def at_times(times: Tensor, steps: int, dtype: torch.dtype, spike_out: bool) -> Tensor:
    """Return one spike at each time in 0..steps - 1; none for other times: [T, ...]."""
    return as_spikes(steps_like(steps, times) == times, dtype, spike_out)


def first_times(spikes: Tensor) -> Tensor:
    """Return the step of each first spike, T where there is none: [...] of int64."""
    dense = dense_spikes(spikes)
    # of what is graded too, the first is no matter how large
    found = (dense if dense.dtype == torch.bool else dense != 0).view(torch.uint8).max(0)
    return torch.where(found.values > 0, found.indices, dense.shape[0])


def binary(spikes: Tensor) -> Tensor:
    """Return spikes [T, ...] dense, of which all are 0 or 1.

    Raises:
        ValueError: There is no axis of time, it has no step, or a value is another.
    """
    dense = dense_spikes(spikes)
    if not isinstance(spikes, SpikeTensor):
        check_binary(dense)
    return dense


def as_float(name: str, values: Tensor) -> Tensor:
    """Return values in floating point: as they are, or whole numbers in the default type."""
    if tensor(name, values).is_floating_point() or values.is_complex():
        return values
    return values.to(torch.get_default_dtype())


def dense_spikes(spikes: Tensor) -> Tensor:
    """Return spikes [T, ...] dense.

    Raises:
        ValueError: There is no axis of time, or it has no step.
    """
    if tensor("spikes", spikes).ndim < 1 or spikes.shape[0] == 0:
        raise ValueError(f"spikes must be [T, ...] with T at least 1, got {tuple(spikes.shape)}")
    return spikes.to_dense() if isinstance(spikes, SpikeTensor) else spikes
