"""Nested states as JSON with the tensors beside it: nothing to unpickle."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def pack(state: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Returns ``state`` as JSON knows it, and the tensors it stands on, by name.

    Takes dicts with keys of any plain kind, lists, tuples, numbers, strings, booleans, ``None``
    and tensors.

    Raises:
        TypeError: naming the place, for anything else.

    Example:
        >>> import torch
        >>> pack({"a": [1, torch.zeros(2)]}, "x")
        ({'dict': [['a', {'list': [1, {'tensor': 'x/a/1'}]}]]}, {'x/a/1': tensor([0., 0.])})
    """
    tensors: dict[str, Tensor] = {}
    return _pack(state, name, tensors), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Returns what :func:`pack` was given.

    Raises:
        ValueError: if it is not what :func:`pack` made.
    """
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        ((kind, value),) = packed.items()
        if kind == "tensor" and isinstance(value, str) and value in tensors:
            return tensors[value]
        if kind in ("list", "tuple") and isinstance(value, list):
            items = (unpack(item, tensors) for item in value)
            return list(items) if kind == "list" else tuple(items)
        if kind == "dict" and isinstance(value, list):
            return {key: unpack(item, tensors) for key, item in _pairs(value)}
    raise ValueError(f"not a packed state: {str(packed)[:80]}")


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        # pairs, not a JSON object: an optimizer's keys are integers
        pairs = [[_key(key, name), _pack(v, f"{name}/{key}", tensors)] for key, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    return _plain(value, name)


def _plain(value: Any, name: str) -> Any:
    # subclasses of numbers, numpy's for instance, would come back as another type
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{name}: a checkpoint holds no {type(value).__name__}")


def _key(key: Any, name: str) -> Any:
    if type(key) not in (bool, int, str):
        raise TypeError(f"{name}: a key must be a string or an integer, got {key!r}")
    return key


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    for pair in items:
        if not (isinstance(pair, list) and len(pair) == 2 and not isinstance(pair[0], list | dict)):
            raise ValueError(f"not a key and a value: {str(pair)[:80]}")
        yield pair[0], pair[1]
