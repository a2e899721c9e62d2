"""What autocast would do to an operator of torch's own."""

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype a product of `x` is computed in: autocast's, where that is on."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` in `dtype`, and leave no trace in a graph where it is so already."""
    return x if x.dtype == dtype else x.to(dtype)
