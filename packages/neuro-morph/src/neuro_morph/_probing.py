"""Runs that show what one run on example inputs in evaluation mode does not."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from neuro_morph._inputs import ExampleInputs
from neuro_morph._program import op_name
from neuro_morph._untouched import RandomStates, in_modes

_EXAMPLES = 8
_TABLES = {"embedding", "_embedding_bag", "_embedding_bag_forward_only"}
OTHER, TRAINING = " on other inputs", " in training"  # how names of further runs end
SCORES = "scores of attention to a single key, "  # how their names begin
_DROPPED = {"bernoulli", "native_dropout"}
_DRAWN = {"rand", "rand_like", "randn", "randn_like", "normal", "normal_functional", "uniform"}


def some_of(inputs: ExampleInputs) -> ExampleInputs:
    """Returns the first few examples, the inputs themselves if it is not plain which these are."""
    leaves = tree_leaves((inputs.args, inputs.kwargs))
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    if len(sizes) != 1 or max(sizes) <= _EXAMPLES:
        return inputs

    def first(leaf: Any) -> Any:
        return leaf[:_EXAMPLES] if isinstance(leaf, Tensor) and leaf.dim() else leaf

    return ExampleInputs(*tree_map(first, (inputs.args, inputs.kwargs)))


def perturbed(inputs: ExampleInputs) -> ExampleInputs:
    """Returns inputs with other floating point numbers, from between the smallest and the largest.

    Where all are the same, something between 0 and 1 is added. What is not finite, and integers,
    stay: they may be masks or indices.
    """
    args, kwargs = tree_map(_perturbed, (inputs.args, inputs.kwargs))
    return ExampleInputs(args, kwargs)


def _perturbed(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
        return leaf
    noise = torch.rand(leaf.shape, generator=_seeded(), dtype=torch.float64).to(leaf)
    finite = leaf.isfinite()
    known = leaf.detach()[finite]
    if not known.numel():
        return leaf
    low, high = known.min(), known.max()
    other = low + noise * (high - low if bool(high > low) else 1.0)
    return torch.where(finite, other, leaf)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Mode(TorchDispatchMode):
    """Sees every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]


class OtherTokens(Mode):
    """Looks up other entries of embeddings than those asked for: any, so that no two are alike.

    Those chosen depend on the shape of the indices alone.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op_name(func._schema.name) in _TABLES and args[0].shape[0]:
            table, indices, *rest = args
            other = torch.randint(table.shape[0], indices.shape, generator=_seeded())
            args = (table, other.to(indices), *rest)
        return func(*args, **(kwargs or {}))


class SteadyNoise(Mode):
    """Lets dropout drop nothing, and noise be one number, whatever its shape.

    So a network with either can be compared with one whose tensors have other sizes.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op_name(func._schema.name)
        if name not in _DROPPED | _DRAWN:
            return func(*args, **(kwargs or {}))
        states = RandomStates()
        result = func(*args, **(kwargs or {}))
        states.restore()
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(result[1])
        return result.fill_(1.0 if name in _DROPPED else 0.5)


class LoneScores(Mode):
    """Keeps the scores of attention to a single key, which is attended to whatever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = op_name(func._schema.name), kwargs or {}
        if name in ("_softmax", "_safe_softmax") and args[0].dim() and args[0].shape[args[1]] == 1:
            self.scores.append(args[0].clone())
        elif "scaled_dot_product" in name and args[1].shape[-2] == 1:
            self.scores.append(_scored(args[0], args[1], kwargs.get("scale")))
        return func(*args, **kwargs)


def _scored(q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    """Returns what queries and keys give, scaled."""
    if q.dim() == 4 and q.shape[1] != k.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    return q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)


def training(model: nn.Module) -> AbstractContextManager[None]:
    """Puts modules of own classes in training mode, and each back into its own.

    Layers of PyTorch stay in evaluation mode: what they do otherwise in training is known.
    """
    return in_modes(model, is_own)


def is_own(module: nn.Module) -> bool:
    """Whether a module is of a class that PyTorch does not define."""
    return not type(module).__module__.startswith("torch.nn.modules.")
