"""What of a network cannot be converted, and why."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class ConversionError(ValueError):
    """A network with a part that spiking neurons cannot stand for.

    Attributes:
        node: The part, by the name it has in the network.
        rule: What can be converted, and what came.

    Example:
        >>> print(ConversionError("head", "Softmax cannot be converted"))
        head: Softmax cannot be converted
    """

    def __init__(self, node: str, rule: str) -> None:
        super().__init__(f"{node}: {rule}")
        self.node, self.rule = node, rule

    def __reduce__(self) -> tuple[type["ConversionError"], tuple[str, str]]:
        return type(self), (self.node, self.rule)


@contextmanager
def taken(name: str, inputs: Tensor) -> Iterator[None]:
    """Have a network that does not take its inputs say so by their shape and type.

    Raises:
        ValueError: It does not.
    """
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        rule = f"{name} must be [B, ...] of the shape and type that the network takes"
        told = next(iter(str(error).splitlines()), "")
        raise ValueError(f"{rule}, got {tuple(inputs.shape)} {inputs.dtype}: {told}") from error
