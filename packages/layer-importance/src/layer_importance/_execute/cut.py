"""What is to be taken out of a model, and what one run of the model shows about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from layer_importance._batch import Call
from layer_importance._execute.stand_in import Recipe, Refused, learn
from layer_importance._preserve import preserved
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
    """Returns the cut with what one run of ``model`` shows of it; the model stays as it is."""
    recipes: dict[str, Recipe] = {}
    reasons: dict[str, str] = {}
    calls: dict[str, int] = {}
    named: dict[str, list[Unit]] = {}
    for unit in units:
        named.setdefault(unit.path, []).append(unit)

    def watch(path: str) -> None:
        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            number = calls.get(path, 0)
            calls[path] = number + 1
            for unit in named[path]:
                if unit.call in (None, number):
                    try:
                        recipes[unit.name] = learn(args, kwargs, output)
                    except Refused as error:
                        reasons[unit.name] = str(error)

        model.get_submodule(path).register_forward_hook(after, with_kwargs=True)

    with preserved(model, gradients=False):
        for path in named:
            watch(path)
        call.of(model)
    return Cut(units=tuple(units), bridges=bridges, recipes=recipes, reasons=reasons, calls=calls)
