"""Layers that begin as the identity."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._grafts import without_grafts

CONVS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, Any] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class BlockShape:
    """What a block is made for.

    Attributes:
        features: how many features come in and go out.
        dims: dimensions of the maps it convolves; 0 for linear layers on the last axis.
        hidden: features inside a residual block.
        norm: ``"batch"``, ``"layer"`` or None.
        kernel: the width of the kernels, odd.
        activation: of a residual block.
    """

    features: int
    dims: int
    hidden: int
    norm: str | None = None
    kernel: int = 3
    activation: str = "relu"


class ResidualBlock(nn.Module):
    """What comes in, and a branch of it added: ``x + f(x)``.

    Args:
        branch: ``f``; with a last projection of zeros the block begins as the identity.
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x + f(x)``."""
        out: Tensor = x + self.branch(x)
        return out


def identity_layer(shape: BlockShape) -> nn.Sequential:
    """Returns a layer and a ReLU that give what is not negative unchanged (Net2DeeperNet)."""
    layer = _projection(shape, shape.features, shape.features)
    with torch.no_grad():
        torch.nn.init.dirac_(layer.weight) if shape.dims else torch.nn.init.eye_(layer.weight)
        layer.bias.zero_()
    norm = [NORMS[shape.dims](shape.features)] if shape.norm == "batch" else []
    return nn.Sequential(layer, *norm, nn.ReLU())


def residual_block(shape: BlockShape, generator: torch.Generator | None = None) -> ResidualBlock:
    """Returns a residual block whose branch is random but for its last projection, zero."""
    first = _projection(shape, shape.features, shape.hidden)
    last = _projection(shape, shape.hidden, shape.features)
    with torch.no_grad():
        fan_in = first.weight[0].numel()
        noise = torch.randn(first.weight.shape, generator=generator, dtype=torch.float64)
        first.weight.copy_(noise * (2 / fan_in) ** 0.5)
        for zero in (first.bias, last.weight, last.bias):
            zero.zero_()
    before = [nn.LayerNorm(shape.features)] if shape.norm == "layer" else []
    between = [NORMS[shape.dims](shape.hidden)] if shape.norm == "batch" else []
    return ResidualBlock(
        nn.Sequential(*before, first, *between, ACTIVATIONS[shape.activation](), last)
    )


def copy_of(module: nn.Module) -> nn.Module:
    """Returns a copy of a module whose parameters all learn, without what was grown at it."""
    block = without_grafts(copy.deepcopy(module))
    for parameter in block.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return block


def like_of(module: nn.Module, model: nn.Module, other: Tensor | None = None) -> Tensor:
    """Returns a tensor of whose dtype and on whose device parts beside a module are made."""
    held = [*module.parameters(), *model.parameters()]
    found = next((p for p in held if p.is_floating_point()), other)
    return torch.zeros(()) if found is None else found


def measure_norms(block: nn.Module, x: Tensor, *, keep: bool) -> None:
    """Gives the batch normalisations of a block the statistics of what they get from ``x``.

    With ``keep`` their scale is the root of the variance and their shift the mean, so that in
    evaluation mode they give what they get.
    """
    chain = block.branch if isinstance(block, ResidualBlock) else block
    with torch.no_grad():
        for layer in chain.children():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                _measure(layer, x, keep)
            x = layer.eval()(x)


def _measure(norm: Any, x: Tensor, keep: bool) -> None:
    over = [d for d in range(x.dim()) if d != 1]
    count = x.numel() // x.shape[1]
    mean, var = x.mean(over), x.var(over, correction=min(1, count - 1))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    if keep:
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)


def _projection(shape: BlockShape, into: int, out: int) -> Any:
    if shape.dims == 0:
        return nn.Linear(into, out)
    return CONVS[shape.dims](into, out, shape.kernel, padding=shape.kernel // 2)
