"""Edits that several processes do together: all of them, or none."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def working_together() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_agree(agreed: bool) -> bool:
    """Returns whether every process agrees; each must call it."""
    if not working_together():
        return agreed
    flag = torch.tensor([1 if agreed else 0])
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Gives every process the tensors of the first."""
    if working_together():
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)
