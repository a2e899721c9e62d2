"""What the sweep tells the methods: one unit, one layer or one batch at a time."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layer_importance._units import Unit

Phase = Literal["data", "sampled", "exact"]
"""Whose labels: the data's, drawn from the model, or every possible one in turn."""


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
        phase: whose labels the gradients are for.
        shared: what one method worked out and another may read, by name.
    """

    unit: Unit
    x: Tensor
    y: Tensor
    x_grad: Tensor | None = None
    y_grad: Tensor | None = None
    mask: Tensor | None = None
    channels: int = -1
    phase: Phase = "data"
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

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
        a, b = (t if t.dtype.itemsize > 2 else t.float() for t in (a, b))
        products = a * b
        if self.mask is None or products.ndim < 3:
            # one row as it is, the sum of rows in float64: casting all of it would cost the most
            rows = products.sum(-1) if products.ndim > 1 else products
            return rows.reshape(len(rows), -1).sum(1, dtype=torch.float64)
        each = self.tokens(products).sum(2)
        if self.mask.shape == each.shape:
            each = torch.where(self.mask.bool(), each, torch.zeros_like(each))
        return each.sum(1, dtype=torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterEvent:
    """Gradients of the loss of each sample with respect to the parameters of one unit.

    Attributes:
        unit: which one.
        squares: ``|g_i|^2`` over all its parameters that require gradients, ``[N]``, float64.
        products: ``<g_i, theta>`` over the same parameters, ``[N]``, float64.
        probability: how likely the labels are under the model where all possible ones come in turn,
            ``[N]``; 1 else.
        phase: whose labels the gradients are for.
    """

    unit: Unit
    squares: Tensor
    products: Tensor
    probability: Tensor
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class InputEvent:
    """What one module that a method asked for was called with, and its gradient.

    Attributes:
        path: where the module is.
        module: the module.
        call: which of its calls in this batch, from 0.
        x: the stream going in, as it is.
        grad: gradient of the summed loss with respect to ``x``.
        samples: how many samples the batch holds.
        phase: whose labels the gradient is for.
    """

    path: str
    module: nn.Module
    call: int
    x: Tensor
    grad: Tensor
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
