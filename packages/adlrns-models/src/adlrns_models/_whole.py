"""Weights that change as a whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def restored_on_error(module: nn.Module) -> Iterator[None]:
    """Puts parameters and buffers back, bit for bit, if the ``with`` block raises."""
    state = [*module.parameters(), *module.buffers()]
    before = [tensor.detach().clone() for tensor in state]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
        raise
