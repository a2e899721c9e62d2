"""Named states of a module, each with the value that it begins at."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

Value = float | Tensor


class Memories(nn.Module):
    """Return attributes that `reset()` sets back: states that are no parameters and not saved.

    Example:
        >>> import torch
        >>> module = Memories()
        >>> module.register_memory("v", 0.0)
        >>> module.v = torch.ones(2)
        >>> module.reset()
        >>> module.v
        0.0
    """

    _memories: dict[str, Any]
    _memories_rv: dict[str, Any]

    def register_memory(self, name: str, value: Value) -> None:
        """Make `name` a state that begins at a value, now and after every `reset()`.

        Raises:
            ValueError: There is an attribute of that name.
        """
        if hasattr(self, name):
            raise ValueError(f"name must not be an attribute already, got {name!r}")
        self.__dict__.setdefault("_memories", {})[name] = copy.deepcopy(value)
        self.__dict__.setdefault("_memories_rv", {})[name] = copy.deepcopy(value)

    def set_reset_value(self, name: str, value: Value) -> None:
        """Change the value that `reset()` sets a state to.

        Raises:
            ValueError: There is no such state.
        """
        if name not in self._memories_rv:
            known = ", ".join(self._memories_rv)
            raise ValueError(f"name must be one of {known}, got {name!r}")
        self._memories_rv[name] = copy.deepcopy(value)

    def reset(self) -> None:
        """Set every state to the value that it begins at."""
        for name, value in self._memories_rv.items():
            self._memories[name] = copy.deepcopy(value)

    def memories(self) -> Iterator[Any]:
        """Return the states."""
        yield from self._memories.values()

    def named_memories(self) -> Iterator[tuple[str, Any]]:
        """Return the states with their names."""
        yield from self._memories.items()

    def detach(self) -> None:
        """Cut the states from their graph: gradients do not reach behind this moment."""
        for name, value in self._memories.items():
            if isinstance(value, Tensor):
                self._memories[name] = value.detach()

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__.get("_memories", {})
        return held[name] if name in held else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get("_memories", {})
        if name in held:
            held[name] = value
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_memories", {}):
            del self._memories[name], self._memories_rv[name]
        else:
            super().__delattr__(name)


def spread(value: Value, current: Tensor) -> Tensor:
    """Return a state of a step's shape, type and device from the value that it begins at."""
    held = torch.as_tensor(value, dtype=current.dtype, device=current.device)
    return held.detach().expand(current.shape).clone()
