"""What goes into a module and comes out: tensors in tuples, lists, mappings and dataclasses."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(value: object) -> Iterator[Tensor]:
    """Yields every tensor in ``value``, outermost first."""
    if isinstance(value, Tensor):
        yield value
        return
    for part in _parts(value):
        yield from tensors(part)


def stream(value: object, like: Tensor | None = None) -> Tensor | None:
    """Returns the tensor that carries the activations in ``value``.

    The first floating one with the shape and dtype of ``like``, else the first floating one.
    """
    floating = [t for t in tensors(value) if t.is_floating_point()]
    if like is not None:
        for tensor in floating:
            if tensor.shape == like.shape and tensor.dtype == like.dtype:
                return tensor
    return floating[0] if floating else None


def with_stream(value: Any, old: Tensor, new: Tensor) -> Any:
    """Returns ``value`` with ``new`` in the place of ``old``; the structure is the same."""
    return mapped(value, lambda tensor: new if tensor is old else tensor)


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Returns ``value`` with ``function`` applied to every tensor; the rest is shared.

    Tuples, named tuples, lists, mappings and dataclasses keep their type; anything else is handed
    on as it is.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        items = [mapped(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return type(value)([mapped(item, function) for item in value])
    if isinstance(value, Mapping):
        return _mapped_mapping(value, function)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for name in _tensor_fields(value):
            object.__setattr__(twin, name, mapped(getattr(value, name), function))
        return twin
    return value


def _mapped_mapping(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    changed = {key: mapped(item, function) for key, item in value.items()}
    if type(value) is dict:
        return changed
    twin = copy.copy(value)  # a ModelOutput keeps its attributes in step with its items
    for key, item in changed.items():
        if item is not value[key]:
            twin[key] = item
    return twin


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, tuple | list):
        yield from value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name in _tensor_fields(value):
            yield getattr(value, name)


def _tensor_fields(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]


def outline(value: object) -> str:
    """Returns the shape of ``value`` in words, for messages: ``(Tensor[2, 8], None)``."""
    if isinstance(value, Tensor):
        return f"Tensor{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {outline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        inner = ", ".join(outline(item) for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return "None" if value is None else type(value).__name__
