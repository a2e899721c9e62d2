"""What a structure is: which neurons a layer connects, drawn from a seed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Wiring(NamedTuple):
    """What a structure says of a weight: which entries exist, their signs and their delays."""

    mask: Tensor  # [out, in] of bool
    signs: Tensor | None  # [in] of ±1: of the neurons before the weight
    delays: Tensor | None  # [out, in] of int64, steps


@dataclass(frozen=True)
class Structure(ABC):
    """Return which neurons are connected, as a mask [out, in]; the same seed gives the same.

    A structure is a value and holds no tensors: it draws them when asked for a size.
    """

    @abstractmethod
    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return which connections exist: [out, in] of bool, rows are the neurons that receive.

        Raises:
            ValueError: The structure has no such size.
        """

    def signs(self, in_features: int) -> Tensor | None:
        """Return the signs of the neurons before the weight [in], None if it says nothing."""
        del in_features
        return None

    def delays(self, out_features: int, in_features: int) -> Tensor | None:
        """Return delays in steps [out, in], None if it says nothing."""
        del out_features, in_features
        return None

    def wiring(self, out_features: int, in_features: int) -> Wiring:
        """Return mask, signs and delays together."""
        return Wiring(
            self.mask(out_features, in_features),
            self.signs(in_features),
            self.delays(out_features, in_features),
        )


def drawing(seed: int) -> torch.Generator:
    """Return a generator that begins at a seed."""
    return torch.Generator().manual_seed(seed)


def check_sizes(out_features: int, in_features: int, *, square: str = "") -> None:
    """Raise ValueError unless sizes are positive, and equal where a structure needs that."""
    if out_features < 1 or in_features < 1:
        got = f"{out_features} and {in_features}"
        raise ValueError(f"out_features and in_features must be at least 1, got {got}")
    if square and out_features != in_features:
        got = f"{out_features} and {in_features}"
        raise ValueError(f"{square} connects a population with itself: sizes must be equal, {got}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless a value is a share or a probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
