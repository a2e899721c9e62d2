"""Whether a run of growth can be made of what it is given."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from neuro_morph._arguments import check_kind, several
from neuro_morph._inputs import ExampleInputs

_KNOWN = {"capture": ("auto", "export", "dispatch"), "dynamics": ("plain", "exact")}


def check_arguments(model: Any, **settings: str) -> None:
    """Raises TypeError for what is no model, ValueError for a setting that is not known."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, given in settings.items():
        if given not in _KNOWN[name]:
            raise ValueError(f"{name} must be one of {', '.join(_KNOWN[name])}, got {given!r}")


def check_file(path: Any, model: Any, optimizers: Sequence[Any]) -> None:
    """Raises TypeError if what a file is read into or written from is not what it is to be."""
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path must be the path of a file, got {type(path).__name__}")
    check_arguments(model)
    for optimizer in optimizers:
        check_kind(Optimizer, optimizer=optimizer)


def optimizers_of(given: Any) -> list[Optimizer]:
    """Returns the optimizers of an argument that is one, several or None.

    Raises:
        TypeError: if it is something else.
    """
    if given is None or isinstance(given, Optimizer):
        return [] if given is None else [given]
    what = "an Optimizer or a list of them"
    return several("optimizer", given, lambda one: isinstance(one, Optimizer), what)


def others_of(given: Any) -> list[Any]:
    """Returns what belongs to a run beside model and optimizers.

    Raises:
        TypeError: if its state can be neither taken nor put back.
    """

    def has_state(one: Any) -> bool:
        return all(callable(getattr(one, n, None)) for n in ("state_dict", "load_state_dict"))

    what = "a list of objects with state_dict and load_state_dict"
    return several("others", given, has_state, what)


def averages_of(given: Any) -> list[nn.Module]:
    """Returns the averages of a run's model.

    Raises:
        TypeError: if one is no module.
    """
    return several("averages", given, lambda one: isinstance(one, nn.Module), "a list of modules")


def names_of(name: str, given: Any) -> list[str]:
    """Returns names as a list.

    Raises:
        TypeError: for one string, or what is no string.
    """
    return several(name, given, lambda one: isinstance(one, str), "a list of names")


def check_numbers(inputs: ExampleInputs) -> None:
    """Raises ValueError if example inputs hold a NaN; infinities are masks."""
    for leaf in tree_leaves((inputs.args, inputs.kwargs)):
        if not isinstance(leaf, Tensor) or leaf.is_meta or not leaf.is_floating_point():
            continue
        if leaf.layout == torch.strided and bool(leaf.isnan().any()):
            raise ValueError("example_inputs must hold numbers, got a NaN")


def check_optimizers_of(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Raises ValueError if optimizers are given and none holds a parameter of the model."""
    mine = {id(parameter) for parameter in model.parameters()}
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    if optimizers and mine and not mine & held:
        raise ValueError(
            "optimizer must hold parameters of the model, got one that holds none of them"
        )
