"""The layers of a sparse network, and which of their weights are there."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._arguments import check_least, check_number

_LAYERS = ("Linear", "_ConvNd", "Conv1D")

Growth = Callable[[Tensor, torch.Generator], Tensor]
# the score by which absent weights come back, from the dense gradient
METHODS: dict[str, Growth] = {
    "rigl": lambda gradient, generator: gradient.abs(),
    "set": lambda gradient, generator: torch.rand(gradient.shape, generator=generator),
}


def largest(score: Tensor, count: int) -> Tensor:
    """Returns a mask of exactly ``count`` entries, those with the largest scores."""
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[score.flatten().topk(count).indices] = True
    return mask.reshape(score.shape)


def layers_of(model: nn.Module, dense: Iterable[str]) -> dict[str, Any]:
    """Returns the layers whose weights become sparse, each weight once."""
    if isinstance(dense, str):
        raise TypeError(f"dense must be several paths of modules, as [{dense!r}], got {dense!r}")
    dense = frozenset(dense)
    unknown = dense - {name for name, _ in model.named_modules()}
    if unknown:
        raise ValueError(f"dense must be paths of modules, got {min(unknown)!r}")
    found: dict[int, tuple[str, Any]] = {}
    for name, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & set(_LAYERS) and name not in dense:
            weight: Any = module.weight
            if weight.requires_grad:
                found.setdefault(id(weight), (name, module))
    return dict(found.values())


def check_names(model: nn.Module, optimizer: Optimizer, method: str, begin: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an Optimizer, got {type(optimizer).__name__}")
    if method not in METHODS:
        raise ValueError(f"method must be 'rigl' or 'set', got {method!r}")
    if begin not in ("random", "magnitude"):
        raise ValueError(f"begin must be 'random' or 'magnitude', got {begin!r}")


def check_ranges(shares: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    for name, value in shares.items():
        check_number(**{name: value})
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} must be above 0 and at most 1, got {value!r}")
    check_least(1, **counts)
