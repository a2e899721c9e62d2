"""What may follow the product."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

Activation: TypeAlias = Literal["relu", "gelu", "silu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


def activate(y: Tensor, activation: str | None) -> Tensor:
    """Return the activation of y; None is y itself."""
    return y if activation is None else ACTIVATIONS[activation](y)


def check_activation(activation: object) -> None:
    """Raise ValueError unless it is None or the name of an activation."""
    if activation is not None and not (isinstance(activation, str) and activation in ACTIVATIONS):
        names = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation must be {names} or None, got {activation!r}")
