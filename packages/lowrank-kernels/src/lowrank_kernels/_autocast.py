"""What autocast would do to an operator of torch's own."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype a product of `x` is computed in: autocast's, where that is on."""
    if x.dtype == torch.float64 or not autocast_on(x):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def autocast_on(x: Tensor) -> bool:
    """Tell whether autocast is on where `x` is; tensors without values have none."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which products on the device keep their dtype."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` in `dtype`, and leave no trace in a graph where it is so already."""
    return x if x.dtype == dtype else x.to(dtype)
