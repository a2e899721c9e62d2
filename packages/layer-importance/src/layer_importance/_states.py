"""What the methods of a sweep have seen, as bytes: tensors and JSON, nothing that runs code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from layer_importance._halves import Halved
from layer_importance._method import SweepMethod
from layer_importance._sweep import Sweep

_KEY = "layer-importance"


@dataclass(frozen=True, slots=True)
class Seen:
    """States of methods, and what else a sweep counts.

    Attributes:
        tensors: by place of the method, its half and the name in its state.
        facts: plain data.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Returns a safetensors file."""
        kept = {name: tensor.contiguous().clone() for name, tensor in self.tensors.items()}
        return safetensors.torch.save(kept, {_KEY: json.dumps(dict(self.facts))})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Seen":
        """Returns what was made bytes.

        Raises:
            ValueError: if it is something else.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])
            facts = json.loads(header["__metadata__"][_KEY])
            return cls(safetensors.torch.load(data), facts)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"is no state of an analysis: {error}") from error


def seen(sweep: Sweep, methods: Sequence[SweepMethod], **facts: Any) -> Seen:
    """Returns all that ``methods`` have seen in a sweep."""
    tensors = {
        f"{place}/{half}/{name}": tensor
        for place, method in enumerate(methods)
        for half, part in enumerate(parts(method))
        for name, tensor in part.state().items()
    }
    counts = {"samples": sweep.samples, "backwards": sweep.passes[1]}
    return Seen(tensors, counts | facts)


def add(found: Seen, methods: Sequence[SweepMethod]) -> None:
    """Gives ``methods`` what others like them have seen."""
    split: dict[tuple[int, int], dict[str, Tensor]] = {}
    for key, tensor in found.tensors.items():
        place, half, name = key.split("/", 2)
        split.setdefault((int(place), int(half)), {})[name] = tensor
    for (number, which), state in sorted(split.items()):
        parts(methods[number])[which].merge(state)


def parts(method: SweepMethod) -> tuple[SweepMethod, ...]:
    """Returns a method's halves; itself if it has none."""
    return method.both if isinstance(method, Halved) else (method,)
