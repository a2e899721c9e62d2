"""What the sweep tells the methods: one unit, one layer or one batch at a time."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layer_importance._units import Unit

Phase = Literal["data", "sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitEvent:
    """What went through one unit for one batch; samples come first in every tensor.

    Attributes:
        unit: which one.
        x: the stream going in, ``[N, ...]``.
        y: the stream coming out.
        x_grad: gradient of the summed loss with respect to ``x``; ``None`` in the forward pass.
        y_grad: with respect to ``y``.
        mask: which tokens are real, ``[N, T]`` for this unit's tokens; ``None`` if all.
        channels: dimension of ``x`` that holds the features of one token.
        phase: whose labels the gradients are for: the data's, or drawn from the model.
    """

    unit: Unit
    x: Tensor
    y: Tensor
    x_grad: Tensor | None = None
    y_grad: Tensor | None = None
    mask: Tensor | None = None
    channels: int = -1
    phase: Phase = "data"

    def tokens(self, tensor: Tensor) -> Tensor:
        """Returns a stream as ``[N, T, D]``: samples, tokens or places, features."""
        if tensor.ndim == 1:
            return tensor[:, None, None]
        moved = tensor.movedim(self.channels, -1)
        return moved.reshape(len(moved), -1, moved.shape[-1])

    def over_tokens(self, values: Tensor) -> Tensor:
        """Returns the mean of ``[N, T]`` over the real tokens of each sample, ``[N]``."""
        if self.mask is None or self.mask.shape != values.shape:
            return values.mean(1)
        weight = self.mask.to(values.dtype)
        # where, not a product: padding may hold NaN
        total = torch.where(self.mask.bool(), values, torch.zeros_like(values)).sum(1)
        return total / weight.sum(1).clamp_min(1)

    def pooled(self, tensor: Tensor) -> Tensor:
        """Returns the mean feature vector of each sample over its real tokens, ``[N, D]``."""
        tokens = self.tokens(tensor)
        if self.mask is None or self.mask.shape != tokens.shape[:2]:
            return tokens.mean(1)
        real = self.mask.bool()[..., None]
        total = torch.where(real, tokens, torch.zeros_like(tokens)).sum(1)
        return total / self.mask.to(tokens.dtype).sum(1, keepdim=True).clamp_min(1)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns the inner product per sample over real tokens, ``[N]``, in float64."""
        products = (self.tokens(a).double() * self.tokens(b).double()).sum(2)
        if self.mask is not None and self.mask.shape == products.shape:
            products = torch.where(self.mask.bool(), products, torch.zeros_like(products))
        return products.sum(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafEvent:
    """One call of one module that owns parameters, with its gradient.

    Attributes:
        path: where the module is.
        module: the module.
        args: what it was called with.
        kwargs: the same, by name.
        output: what came out, the stream.
        grad: gradient of the summed loss with respect to ``output``.
        x_axis: dimension of its first floating input that holds samples; -1 if unknown.
        y_axis: dimension of ``output`` that holds samples; -1 if unknown.
        calls: how often the module runs in one forward pass.
        samples: number of samples in the batch.
        phase: whose labels the gradients are for.
    """

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    grad: Tensor
    x_axis: int
    y_axis: int
    calls: int
    samples: int
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEvent:
    """A batch that has gone through: its losses, and gradients where they were asked for.

    Attributes:
        index: number of the batch, from 0.
        batch: as the loader gave it, on the model's device.
        output: the model's answer.
        losses: of each sample, ``[N]``.
        phase: whose labels the losses are for. In the forward-only sweep ``losses`` is empty.
    """

    index: int
    batch: Any
    output: Any
    losses: Tensor
    phase: Phase
