"""Whether a run of growth can be made of what it is given."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from neuro_morph._inputs import ExampleInputs

_KNOWN = {"capture": ("auto", "export", "dispatch"), "dynamics": ("plain", "exact")}


def check_arguments(model: Any, **settings: str) -> None:
    """Raises TypeError for what is no model, ValueError for a setting that is not known."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, given in settings.items():
        if given not in _KNOWN[name]:
            raise ValueError(f"{name} must be one of {', '.join(_KNOWN[name])}, got {given!r}")


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
