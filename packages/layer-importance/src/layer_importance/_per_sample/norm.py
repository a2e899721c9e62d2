"""Normalisation layers: one factor and one offset a channel."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance._per_sample._formula import Aside, Formula, Norms, of_vector, summed


class NormFormula(Formula):
    """``g_i = sum_t G_it * xhat_it``, with the normalised input ``xhat``; the offset: ``sum_t G``.

    Batch normalisation counts with its running statistics, as in evaluation mode.
    """

    def fits(self, module: Any) -> bool:
        """Batch normalisation only with running statistics: else samples depend on each other."""
        batch = isinstance(module, nn.modules.batchnorm._BatchNorm)
        return not batch or module.running_mean is not None

    def rows(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> tuple[Tensor, ...]:
        """Sums over places already: ``[n, 1, ...]`` of the factor's and the offset's gradient."""
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        grad = grad.to(kind)
        products = grad * normalised(module, x.to(kind))
        return tuple(_sums(module, values, samples)[:, None] for values in (products, grad))

    def norms(
        self,
        module: Any,
        names: Sequence[str],
        x: Tensor,
        grad: Tensor,
        y: Tensor | None,
        aside: Aside,
    ) -> Norms:
        """Of factor and offset, where they are."""
        parts = []
        for name in names:
            grads = (grad if name == "bias" else x).sum(1)
            aside.add(name, grads)
            parts.append(of_vector(grads, getattr(module, name)))
        return summed(parts)

    def size(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> int:
        """The normalised input and its product."""
        return 3 * x.numel() // max(samples, 1)


def normalised(module: Any, x: Tensor) -> Tensor:
    """Returns the input as it is before factor and offset."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, None, None, module.eps)
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(x, module.normalized_shape, None, module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, None, None, module.eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = (
        s.to(x.dtype).reshape(shape) for s in (module.running_mean, module.running_var)
    )
    return (x - mean) * (variance + module.eps).rsqrt()


def _sums(module: Any, values: Tensor, samples: int) -> Tensor:
    """Per sample, over all places: ``[n, *shape of the factor]``."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        shape = tuple(module.normalized_shape)
        return values.reshape(samples, -1, *shape).sum(1)
    channels = values.reshape(samples, -1, values.shape[1], values[0, 0].numel())
    return channels.sum((1, 3))
