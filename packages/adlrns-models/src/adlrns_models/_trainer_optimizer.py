"""Optimizers by name, learning rates over time, and decay that spares what was not used."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from adlrns_models._trainer_config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of all parameters that train.

    Vectors (biases, norms) are not decayed; nested factors are, by :func:`decay_used`.
    """
    factors = {id(p) for pair in nested_factors(model) for p in pair}
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model must have a parameter that requires a gradient, got none")
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in factors]
    kept = [p for p in parameters if p.ndim <= 1 or id(p) in factors]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)


def nested_factors(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields ``down [R, ...]`` and ``up [out, R]`` of every layer of nested factors."""
    for layer in model.modules():
        down, up = getattr(layer, "down", None), getattr(layer, "up", None)
        if isinstance(down, nn.Parameter) and isinstance(up, nn.Parameter):
            yield down, up


@torch.no_grad()
def decay_used(model: nn.Module, rate: float) -> None:
    """Shrinks directions of nested factors by ``1 - rate``, those alone that have a gradient.

    A direction beyond the rank in force has none; decay at every step would wear it away, and with
    it the higher ranks. Call it before the optimizer's step, as decoupled decay is applied
    (Loshchilov & Hutter 2019, algorithm 2).
    """
    if rate == 0.0:
        return
    for down, up in nested_factors(model):
        for factor, axis in ((down, 0), (up, 1)):
            if factor.grad is not None:
                used = factor.grad.movedim(axis, 0).flatten(1).ne(0).any(1)
                shape = [-1 if i == axis else 1 for i in range(factor.ndim)]
                factor.mul_((1.0 - rate * used.to(factor.dtype)).reshape(shape))


@dataclass
class Extent:
    """How long a run is; it may grow between two calls of ``train``."""

    steps: int = 1
    steps_per_epoch: int = 1


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, extent: Extent
) -> LambdaLR | ReduceLROnPlateau:
    """Returns the schedule that ``config`` names."""
    if config.schedule == "plateau":
        if config.warmup_steps:
            raise ValueError(
                f"warmup_steps must be 0 with schedule 'plateau', got {config.warmup_steps}"
            )
        return ReduceLROnPlateau(optimizer, factor=config.gamma, patience=config.step_epochs)
    return LambdaLR(optimizer, lambda step: factor_at(step, config, extent))


def factor_at(step: int, config: TrainConfig, extent: Extent) -> float:
    """Returns the factor of the learning rate in optimizer step ``step``, counted from 0.

    Example:
        >>> from adlrns_models import TrainConfig
        >>> config = TrainConfig(schedule="cosine", warmup_steps=2)
        >>> [round(factor_at(step, config, Extent(10, 5)), 2) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        length = max(1, extent.steps - config.warmup_steps)
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - config.warmup_steps) / length))
    if config.schedule == "step":
        return config.gamma ** (step // extent.steps_per_epoch // config.step_epochs)
    return 1.0
