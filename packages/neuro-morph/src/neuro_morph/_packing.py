"""State of any kind as JSON beside named tensors, and back; nothing is pickled."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_MAPPINGS: dict[str, type] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_PLAIN = (bool, int, float, str, type(None))


def packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Returns a value as JSON can hold it; its tensors are added to ``tensors`` under ``name``.

    Raises:
        TypeError: if it holds anything but tensors, numbers, text, lists, tuples and dictionaries.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if type(value) in _PLAIN:
        return value
    if type(value) in (list, tuple):
        held = [packed(each, f"{name}.{k}", tensors) for k, each in enumerate(value)]
        return held if isinstance(value, list) else {"tuple": held}
    if isinstance(value, dict) and type(value) in (*_MAPPINGS.values(), defaultdict):
        kind = type(value).__name__ if type(value).__name__ in _MAPPINGS else "dict"
        pairs = [
            [packed(key, f"{name}.key{k}", tensors), packed(each, f"{name}.{k}", tensors)]
            for k, (key, each) in enumerate(value.items())
        ]
        return {kind: pairs}
    raise TypeError(
        f"{name} must hold tensors, numbers, text, lists, tuples and dictionaries only, got "
        f"{type(value).__name__}"
    )


def unpacked(held: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Returns the value that :func:`packed` was given.

    Raises:
        KeyError: if a tensor is missing.
    """
    if isinstance(held, list):
        return [unpacked(each, tensors) for each in held]
    if not isinstance(held, dict):
        return held
    ((kind, inside),) = held.items()
    if kind == "tensor":
        return tensors[inside].clone()
    if kind == "tuple":
        return tuple(unpacked(inside, tensors))
    pairs = [(unpacked(key, tensors), unpacked(each, tensors)) for key, each in inside]
    return _MAPPINGS[kind](dict(pairs))
