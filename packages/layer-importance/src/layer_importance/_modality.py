"""What kind of data goes in: which of it is padding, what can be cut, how it is spoiled."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from layer_importance._batch import input_keys
from layer_importance._units import Unit, Units

MASKS = ("attention_mask", "node_mask", "mask")
"""Keys of a batch under which 1 stands for a real token and 0 for padding."""
LENGTHS = ("lengths", "input_lengths", "length")
"""Keys of a batch that say how much of each sample is real."""


class Modality(abc.ABC):
    """What a batch does not say by its shapes alone.

    Attributes:
        name: by which it is asked for.
        reason: why it was taken: it was asked for, or what in the batch looks like it.
        axes: dimensions of inputs that may hold tokens, the likeliest first.
    """

    name: ClassVar[str]
    axes: ClassVar[tuple[int, ...]] = (1, -1)

    def __init__(self) -> None:
        self.reason = "asked for"

    @abc.abstractmethod
    def recognises(self, batch: Any) -> str:
        """Returns what in a batch looks like this modality; empty if nothing does."""

    @abc.abstractmethod
    def corrupt(self, batch: Any, generator: torch.Generator) -> Any:
        """Returns the batch spoiled for causal methods; labels and padding are left alone."""

    def divisible(self, batch: Any) -> bool:
        """Returns whether some samples of a batch are a batch: not so for the nodes of a graph."""
        del batch
        return True

    def mask(self, batch: Any, tokens: int, tower: str = "") -> Tensor | None:
        """Returns which tokens are real, ``[N, tokens]``, in streams with so many tokens.

        Args:
            batch: as the loader gave it.
            tokens: how many tokens a sample has in the stream that is asked about.
            tower: the unit's tower, in a model that has several.

        Returns:
            ``None`` if all are real, or nothing is known of streams of this length.
        """
        del tower
        known = padding_mask(batch)
        return known if known is not None and known.shape[1] == tokens else None

    def towers(self, units: Units) -> dict[str, list[Unit]]:
        """Returns the units by the part of the model that they belong to, in order."""
        return units.towers


def padding_mask(batch: Any, axis: int = 1) -> Tensor | None:
    """Returns the mask ``[N, T]`` that a batch holds, or the one that its lengths make.

    ``axis`` is the dimension of the inputs that lengths are counted in.
    """
    if not isinstance(batch, Mapping):
        return None
    for key in MASKS:
        if isinstance(mask := batch.get(key), Tensor) and mask.ndim == 2:
            return mask.bool()
    inputs = [batch[key] for key in input_keys(batch)]
    longest = max((v.shape[axis] for v in inputs if _is_signal(v)), default=0)
    for key in LENGTHS:
        if longest and isinstance(lengths := batch.get(key), Tensor) and lengths.ndim == 1:
            return torch.arange(longest, device=lengths.device) < lengths[:, None]
    return None


def _is_signal(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1


def first_input(batch: Any, *names: str) -> Tensor | None:
    """Returns the first of the named entries of a mapping, or the first tensor of another batch."""
    if isinstance(batch, Mapping):
        return next((batch[n] for n in names if isinstance(batch.get(n), Tensor)), None)
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    return first if isinstance(first, Tensor) else None


def shape_words(tensor: Tensor) -> str:
    """Returns dtype and shape in words, for reasons: ``float32 [8, 3, 32, 32]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
