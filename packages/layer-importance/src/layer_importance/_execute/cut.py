"""What is to be taken out of a model, and what some runs of the model show about it."""

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import Call
from layer_importance._execute.stand_in import Recipe, Refused, holds, learn
from layer_importance._preserve import preserved
from layer_importance._structure import mapped, tensors
from layer_importance._units import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Units to take out of a model.

    Attributes:
        units: which ones.
        bridges: what stands in for some of them, by name.
        recipes: how the answer of each is put together without it, by name.
        reasons: why there is none for the others.
        calls: how often each of their modules runs in one forward pass, by path.
    """

    units: tuple[Unit, ...]
    bridges: Mapping[str, nn.Module]
    recipes: Mapping[str, Recipe]
    reasons: Mapping[str, str]
    calls: Mapping[str, int]


def cut(
    model: nn.Module, call: Call, units: Sequence[Unit], bridges: Mapping[str, nn.Module]
) -> Cut:
    """Returns the cut with what runs of ``model`` show of it; the model stays as it is.

    One run says how each answer is put together. Others, with one sample more and with one step
    less along other dimensions, where the model takes that, say whether it always is.
    """
    seen = _Seen(units)
    with preserved(model, gradients=False), warnings.catch_warnings():
        for path in seen.named:
            module = model.get_submodule(path)
            module.register_forward_hook(seen.watch(path), with_kwargs=True)
        call.of(model)
        calls, seen.first = dict(seen.calls), False
        warnings.simplefilter("ignore")
        for axis, length in _lengths(call):
            seen.calls.clear()
            with contextlib.suppress(Exception):  # whatever a model of fixed sizes raises
                _with_other_length(call, axis, length).of(model)
    return Cut(
        units=tuple(units),
        bridges=bridges,
        recipes=seen.recipes,
        reasons=seen.reasons,
        calls=calls,
    )


class _Seen:
    """What hooks on the units' modules see: recipes from the first run, then whether they hold."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.named: dict[str, list[Unit]] = {}
        for unit in units:
            self.named.setdefault(unit.path, []).append(unit)
        self.recipes: dict[str, Recipe] = {}
        self.reasons: dict[str, str] = {}
        self.calls: dict[str, int] = {}
        self.first = True

    def watch(self, path: str) -> Callable[..., None]:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            number = self.calls.get(path, 0)
            self.calls[path] = number + 1
            for unit in self.named[path]:
                if unit.call in (None, number):
                    self._see(unit.name, args, kwargs, output)

        return after

    def _see(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        if self.first:
            try:
                self.recipes[name] = learn(args, kwargs, output)
            except Refused as error:
                self.reasons[name] = str(error)
        elif name in self.recipes and not holds(self.recipes[name], args, kwargs, output):
            del self.recipes[name]
            self.reasons[name] = "answers with a plain value that changes with its input"


def _lengths(call: Call) -> list[tuple[int, int]]:
    """The dimensions of what a model is called with, and the lengths that tensors have there."""
    shapes = [tensor.shape for tensor in tensors((call.args, dict(call.kwargs)))]
    return sorted({(axis, length) for shape in shapes for axis, length in enumerate(shape)})


def _with_other_length(call: Call, axis: int, length: int) -> Call:
    """The call with one sample more, or one step less along another dimension."""

    def change(tensor: Tensor) -> Tensor:
        if tensor.ndim <= axis or tensor.shape[axis] != length:
            return tensor
        return tensor.narrow(axis, 0, length - 1) if axis else torch.cat([tensor, tensor[:1]])

    return Call(mapped(call.args, change), mapped(dict(call.kwargs), change))
