"""Sizes that a model reads off its tensors and gives to operations, remembered as such.

``n, t, c = x.shape`` and later ``y.view(n, t, c)`` make two axes one: where one grows, so must the
other. The numbers a model gets from ``shape`` while it is recorded know where they come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from neuro_morph._program import Ref


@dataclass(frozen=True)
class Read:
    """The size of an axis of a tensor."""

    ref: Ref
    dim: int


@dataclass(frozen=True)
class Times:
    """The product of two sizes."""

    first: Any
    second: Any


@dataclass(frozen=True)
class Over:
    """A size divided by a number."""

    whole: Any
    by: int


class Size(int):
    """A number that knows what it is the size of."""

    origin: Any

    @classmethod
    def of(cls, value: int, origin: Any) -> "Size":
        """Returns ``value`` with where it comes from."""
        made = cls(value)
        made.origin = origin
        return made

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return int(self) * other
        return Size.of(int(self) * int(other), Times(self.origin, _origin(other)))

    def __rmul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return other * int(self)
        return Size.of(int(self) * int(other), Times(_origin(other), self.origin))

    def __floordiv__(self, other: Any) -> Any:
        value = int(self) // other
        exact = isinstance(other, int) and value * other == int(self)
        return Size.of(value, Over(self.origin, int(other))) if exact else value

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _origin(value: Any) -> Any:
    return value.origin if isinstance(value, Size) else int(value)


_SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]
_GIVEN = {Tensor.view, Tensor.reshape, Tensor.new_zeros, Tensor.new_ones, torch.reshape}
_MADE = {torch.zeros, torch.ones}
_VIEWS = {Tensor.view, Tensor.reshape, torch.reshape, Tensor.unflatten, torch.unflatten}


def _numbers(given: Any) -> tuple[int, ...]:
    return tuple(n for n in tree_leaves(given) if isinstance(n, int) and not isinstance(n, Size))


class SizesMode(TorchFunctionMode):
    """Makes the sizes a model reads tell where they come from, and notes where they are given.

    Args:
        ref: gives a tensor's number in the program that is recorded.

    Attributes:
        ties: axes whose sizes were given so: tensor, axis, origin.
        given: the sizes that the operation under way was given as numbers; None where it is a
            function of its own.
    """

    def __init__(self, ref: Callable[[Tensor], Ref]) -> None:
        super().__init__()
        self.ref = ref
        self.ties: list[tuple[Ref, int, Any]] = []
        self.given: tuple[int, ...] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._called(func, args, kwargs)
        if func == _SHAPE or (func is Tensor.size and isinstance(result, torch.Size)):
            ref = self.ref(args[0])
            return torch.Size([Size.of(n, Read(ref, d)) for d, n in enumerate(result)])
        if func is Tensor.size and isinstance(result, int):
            dim = kwargs.get("dim", args[-1])
            return Size.of(result, Read(self.ref(args[0]), dim % args[0].dim()))
        if func in _GIVEN:
            self._note(result, args[1:])
        elif func in _MADE:
            self._note(result, args)
        return result

    def _called(self, func: Any, args: Any, kwargs: Any) -> Any:
        before = self.given
        if isinstance(func, FunctionType):  # written in Python: it may view with what it is given
            self.given = None
        else:
            self.given = _numbers((args[1:], kwargs)) if func in _VIEWS else ()
        try:
            return func(*args, **kwargs)
        finally:
            self.given = before

    def _note(self, result: Tensor, given: Any) -> None:
        sizes = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
        if len(sizes) == result.dim():
            ref = self.ref(result)
            self.ties += [
                (ref, d, size.origin) for d, size in enumerate(sizes) if isinstance(size, Size)
            ]
