"""New contents for a parameter or buffer that keeps its identity."""

import torch
from torch import Tensor


def set_contents(tensor: Tensor, data: Tensor) -> None:
    """Gives a tensor new contents, of another shape if need be.

    While a graph that the tensor was used in is alive, through a loss that is still held, say,
    autograd goes on expecting gradients of the old shape. It forgets them only when the dtype
    changes; so that is done in between.
    """
    if tensor.shape != data.shape and tensor.is_leaf and tensor.is_floating_point():
        other = torch.float32 if tensor.dtype == torch.float16 else torch.float16
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data
