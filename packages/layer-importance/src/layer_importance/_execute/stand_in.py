"""What stands where a unit was: hands its input on in the structure the unit answered with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._structure import stream

Recipe = dict[str, Any]
"""How an answer is put together from the arguments; plain JSON."""


class Refused(Exception):  # noqa: N818 - an outcome that is handled, not an error that is shown
    """An executor cannot carry out a removal; the text says why."""


class StandIn(nn.Module):
    """Answers as a unit that was taken out would, without running it.

    The stream is the input, or zeros for a branch, or what ``bridge`` makes of the input; whatever
    else the unit handed on from its arguments is handed on.

    Args:
        recipe: how the answer is put together, from :func:`learn`.
        zero: whether the stream is zeros.
        bridge: makes the stream of the input, if given.
        facts: plain attributes of the unit that its parent may read.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        zero: bool = False,
        bridge: nn.Module | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.zero = recipe, zero
        self.bridge = bridge
        for name, value in (facts or {}).items():
            if not hasattr(self, name):
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the unit's answer without the unit."""
        x = stream((args, kwargs))
        assert x is not None
        if self.bridge is not None:
            y = self.bridge(x)
        else:
            y = torch.zeros_like(x) if self.zero else x
        return _built(self.recipe, y, args, kwargs)


def facts(module: nn.Module) -> dict[str, Any]:
    """Returns the plain public attributes of a module: numbers, flags and texts."""
    plain = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) and not name.startswith("_") and name != "training"
    }


def learn(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Recipe:
    """Returns how a unit's answer follows from its arguments, with its stream left open.

    Tensors and objects that were passed in are handed on, plain values that were passed in too,
    others are kept as they were. For a tensor that the unit makes itself, such as attention
    weights, stands ``None``.

    Raises:
        Refused: if the answer is of a kind that plain JSON cannot describe.
    """
    x = stream((args, kwargs))
    y = stream(output, like=x)
    if x is None or y is None:
        raise Refused("has no floating tensor going in or out")
    return _learned(output, y, _Passed(args, kwargs))


def holds(recipe: Recipe, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> bool:
    """Whether a recipe, learned from one run, says the plain values of another."""
    ((kind, what),) = recipe.items()
    match kind:
        case "stream" | "made":
            return True
        case "passed":
            where, key = what
            value = args[key] if where == "args" else kwargs[key]
            return value is output or (isinstance(output, int | float | str) and value == output)
        case "tuple" | "list":
            same = isinstance(output, tuple | list) and len(what) == len(output)
            return same and all(
                holds(a, args, kwargs, b) for a, b in zip(what, output, strict=True)
            )
        case "dict":
            same = isinstance(output, dict) and set(what) == set(output)
            return same and all(holds(what[key], args, kwargs, output[key]) for key in what)
        case _:
            return bool(what == output)


class _Passed:
    """Finds where a value was passed in; equal plain values are told apart by their order."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._places: list[tuple[tuple[str, int | str], Any]] = [
            *((("args", index), value) for index, value in enumerate(args)),
            *((("kwargs", name), value) for name, value in kwargs.items()),
        ]
        self._used: set[tuple[str, int | str]] = set()

    def width(self, y: Tensor) -> bool | int:
        """``True`` if the stream keeps its shape, else its new last dimension."""
        x = stream([value for _, value in self._places])
        same = x is None or x.shape == y.shape or x.shape[:-1] != y.shape[:-1]
        return True if same else y.shape[-1]

    def find(self, value: Any) -> tuple[str, int | str] | None:
        if value is None or isinstance(value, bool):  # too common to mean anything
            return None
        plain = isinstance(value, int | float | str)
        for place, other in self._places:
            same = other is value or (plain and type(other) is type(value) and other == value)
            if same and not (plain and place in self._used):
                self._used.add(place)
                return place
        return None


def _learned(value: Any, y: Tensor, passed: _Passed) -> Recipe:
    if value is y:
        return {"stream": passed.width(y)}
    if (place := passed.find(value)) is not None:
        return {"passed": list(place)}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, Tensor):
        return {"made": list(value.shape)}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_learned(item, y, passed) for item in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _learned(item, y, passed) for key, item in value.items()}}
    raise Refused(f"answers with a {type(value).__name__}, which cannot be described in a file")


def _built(recipe: Recipe, y: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    ((kind, what),) = recipe.items()
    match kind:
        case "stream":
            fits = what is True or y.shape[-1] == what
            return y if fits else y.new_zeros((*y.shape[:-1], what))
        case "passed":
            where, key = what
            return args[key] if where == "args" else kwargs[key]
        case "tuple" | "list":
            items = [_built(item, y, args, kwargs) for item in what]
            return tuple(items) if kind == "tuple" else items
        case "dict":
            return {key: _built(item, y, args, kwargs) for key, item in what.items()}
        case "made":
            return None
        case _:
            return what


def makes_more(recipe: Recipe) -> bool:
    """Whether a unit answers with tensors of its own beside its stream."""
    ((kind, what),) = recipe.items()
    if kind in ("tuple", "list"):
        return any(map(makes_more, what))
    return any(map(makes_more, what.values())) if kind == "dict" else kind == "made"
