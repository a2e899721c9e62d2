"""Runs in float32 of models whose numbers are coarser: what rounding hides in their own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from neuro_morph._inputs import ExampleInputs

FINER = ", in float32"  # how names of such runs end
_ROUNDED, _EXACT = 0.4, 5e-4  # of a tolerance: with parameters rounded by 2 ** -8; with none
_COARSE = (torch.float16, torch.bfloat16)


def part_of_tolerance(key: str, *, rounded: bool) -> float:
    """Returns what part of a tolerance an output has to stay within, by its name.

    Args:
        key: its name.
        rounded: whether parameters had to be rounded to coarser numbers.
    """
    if not key.endswith(FINER):
        return 1.0
    return _ROUNDED if rounded else _EXACT


class StaysCoarseError(RuntimeError):
    """A model makes coarse numbers whatever it is given."""


class _NothingCoarse(TorchDispatchMode):
    """Raises StaysCoarseError where a tensor comes out that is coarser than float32."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) and leaf.dtype in _COARSE for leaf in tree_leaves(result)):
            raise StaysCoarseError(func._schema.name)
        return result


def is_coarse(model: nn.Module) -> bool:
    """Whether a model has parameters that are coarser than float32."""
    return any(p.dtype in _COARSE for p in model.parameters())


def called(model: nn.Module, inputs: ExampleInputs) -> Any:
    """Returns what a model gives."""
    return model(*inputs.args, **inputs.kwargs)


def called_in_float32(model: nn.Module, inputs: ExampleInputs) -> Any:
    """Returns what a model gives with float32 for every coarser number in it and its inputs.

    Raises:
        StaysCoarseError: if it makes coarse numbers nonetheless.
    """
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: _refined(tensor) for name, tensor in held.items()}
    args, kwargs = tree_map(_refined, (inputs.args, inputs.kwargs))
    with _NothingCoarse():
        return functional_call(model, state, args, kwargs)


def _refined(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in _COARSE else leaf
