"""The tensors in what a model returns, whatever it returns them in."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import keystr, tree_flatten_with_path

from neuro_morph._errors import GrowthRefusedError

_DEPTH = 4  # of objects in objects


def tensors_in(result: Any) -> dict[str, Tensor]:
    """Returns the tensors in what a model returns, by where they stand in it.

    Besides tuples, lists, dictionaries and what else PyTorch knows as a tree, dataclasses and
    distributions are looked into; other objects only if there is no number to check but in them:
    they may be caches.

    Raises:
        GrowthRefusedError: if there are no floating point numbers: nothing could be checked.
    """
    found = dict(_inside(result, "", _DEPTH, whole=False))
    if not _any_numbers(found):
        found = dict(_inside(result, "", _DEPTH, whole=True))
    if not _any_numbers(found):
        raise GrowthRefusedError(
            f"the model gives no tensors that can be checked: it returns {type(result).__name__} "
            "without floating point numbers"
        )
    return found


def _any_numbers(found: dict[str, Tensor]) -> bool:
    return any(t.is_floating_point() or t.is_complex() for t in found.values())


def _inside(result: Any, lead: str, depth: int, *, whole: bool) -> Iterator[tuple[str, Tensor]]:
    for path, value in tree_flatten_with_path(result)[0]:
        key = lead + keystr(path)
        if isinstance(value, Tensor):
            yield key, value
        elif depth:
            for name, part in _parts_of(value, whole=whole):
                yield from _inside(part, f"{key}.{name}", depth - 1, whole=whole)


def _parts_of(value: Any, *, whole: bool) -> list[tuple[str, Any]]:
    """Returns what an object holds, by name."""
    if isinstance(value, type | nn.Module | torch.Generator):
        return []
    if dataclasses.is_dataclass(value):
        return [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    if isinstance(value, Distribution) or whole:
        return list(getattr(value, "__dict__", {}).items())
    return []
