"""Tensors, containers and generators as they are now, written back into the same objects.

What holds views of a tensor, or a handle of a dictionary, goes on holding what it did: a tensor
gets its old storage with the old numbers in it, a list its old entries.
"""

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuro_morph._contents import set_contents

# by type: subclasses may do anything when they are written to
_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
_SEQUENCES = (list, deque)
_STATES: dict[type, tuple[str, str]] = {
    torch.Generator: ("get_state", "set_state"),
    random.Random: ("getstate", "setstate"),
    np.random.RandomState: ("get_state", "set_state"),
}


class Holdings:
    """What objects hold, whatever is reached through tuples, lists, dictionaries and sets.

    Of objects only those of data classes and namespaces are looked into.

    Args:
        roots: where to begin.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.tensors: dict[int, KeptTensor] = {}
        self._restore: list[Callable[[], None]] = []
        self._held: dict[int, Any] = {}  # keeps what is known alive: its id stays its own
        waiting = list(roots)
        while waiting:
            waiting += self._keep(waiting.pop())

    def restore(self) -> None:
        """Puts everything back, as often as wanted."""
        for put_back in self._restore:
            put_back()
        for kept in self.tensors.values():
            kept.restore()

    def _keep(self, value: Any) -> Iterable[Any]:
        """Notes how a value is; returns what it holds."""
        if value is None or isinstance(value, str | int | float) or id(value) in self._held:
            return ()
        self._held[id(value)] = value
        if isinstance(value, Tensor):
            self.tensors[id(value)] = KeptTensor(value)
            return ()
        put_back = _container(value) or _state(value)
        if put_back is not None:
            self._restore.append(put_back)
        if type(value) in _MAPPINGS:
            return list(value.values())
        if _is_record(value):
            return (vars(value),)
        known = type(value) in (*_SEQUENCES, set) or isinstance(value, tuple)
        return list(value) if known else ()


class KeptTensor:
    """A tensor as it is now: its storage, its numbers, its gradient."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.requires_grad = tensor, tensor.requires_grad
        self.storage, self.data = tensor.data, tensor.data.clone()
        self.grad = KeptTensor(tensor.grad) if tensor.is_leaf and tensor.grad is not None else None

    def restore(self) -> None:
        """Puts it back."""
        tensor = self.tensor
        if tensor.is_inference():  # made by an evaluation, and written to only as there
            with torch.inference_mode():
                tensor.set_(self.data.clone())  # type: ignore[call-overload]
            return
        if tensor.is_leaf:
            tensor.grad = None  # of another shape, perhaps
        set_contents(tensor, self._written())
        if tensor.is_leaf:
            tensor.requires_grad_(self.requires_grad)
        if self.grad is not None:
            self.grad.restore()
            tensor.grad = self.grad.tensor

    def _written(self) -> Tensor:
        """Returns the old storage with the old numbers; another where it cannot be written to."""
        storage = self.storage
        if not _writable(storage):
            return self.data.clone()
        return storage.copy_(self.data)


def _writable(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized:
        return False
    strides = zip(tensor.stride(), tensor.shape, strict=True)
    return all(stride != 0 or size < 2 for stride, size in strides)


def _is_record(value: Any) -> bool:
    """Whether a value is one of a class that only holds fields."""
    plain = isinstance(value, SimpleNamespace) or is_dataclass(value)
    return plain and not isinstance(value, type) and hasattr(value, "__dict__")


def _container(value: Any) -> Callable[[], None] | None:
    """Returns what gives a container its entries back; None if it is none."""
    if type(value) in _MAPPINGS:
        pairs = dict(value)
        return lambda: _refill(value, pairs, value.update)
    if type(value) in _SEQUENCES or type(value) is set:
        entries = list(value)
        return lambda: _refill(value, entries, value.update if _is_set(value) else value.extend)
    return None


def _refill(holder: Any, entries: Any, fill: Callable[[Any], Any]) -> None:
    """Gives a container its entries, if it has others."""
    if _objects(holder) != _objects(entries):
        holder.clear()
        fill(entries)


def _objects(container: Any) -> list[int]:
    """Returns which objects a container holds, in their order."""
    held = [*container, *container.values()] if isinstance(container, dict) else container
    return [id(each) for each in held]


def _is_set(value: Any) -> bool:
    return type(value) is set


def _state(value: Any) -> Callable[[], None] | None:
    """Returns what gives a generator or an array its state back; None for anything else."""
    if isinstance(value, np.ndarray) and value.flags.writeable:
        numbers = value.copy()
        return lambda: value.__setitem__(..., numbers)
    if isinstance(value, np.random.Generator):
        state = copy.deepcopy(value.bit_generator.state)
        return lambda: setattr(value.bit_generator, "state", copy.deepcopy(state))
    for kind, (read, write) in _STATES.items():
        if isinstance(value, kind) and not isinstance(value, random.SystemRandom):
            held = getattr(value, read)()
            return lambda: getattr(value, write)(held)
    return None
