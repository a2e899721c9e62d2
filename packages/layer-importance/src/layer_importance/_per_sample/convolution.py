"""Convolutions of one, two and three dimensions, with groups."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance._per_sample._formula import Aside, Formula, Norms, of_vector, summed


class ConvolutionFormula(Formula):
    """All samples' kernel gradients at once: those of one convolution with a group a sample.

    With the samples side by side as groups of channels, the gradient of the kernels of all groups
    holds each sample's own, at the cost of the batch's.

    Source: Rochette et al., Efficient per-example gradient computations in convolutional neural
    networks, arXiv 1912.06015.
    """

    def fits(self, module: Any) -> bool:
        """Zeros around the borders."""
        return getattr(module, "padding_mode", "zeros") == "zeros"

    def rows(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> tuple[Tensor, ...]:
        """Sums over places already: ``[n, 1, ...]`` of the kernel's and the offset's gradient."""
        x, grad = (t if t.dtype.itemsize > 2 else t.float() for t in (x, grad))
        kernels = kernel_gradients(module, x, grad, samples)
        offsets = grad.reshape(samples, -1, grad.shape[1], grad[0, 0].numel()).sum((1, 3))
        return kernels[:, None], offsets[:, None]

    def norms(
        self,
        module: Any,
        names: Sequence[str],
        x: Tensor,
        grad: Tensor,
        y: Tensor | None,
        aside: Aside,
    ) -> Norms:
        """Of kernel and offset."""
        parts = []
        for name in names:
            grads = (grad if name == "bias" else x).sum(1)
            aside.add(name, grads)
            parts.append(of_vector(grads, getattr(module, name)))
        return summed(parts)

    def size(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> int:
        """The kernel's gradient, and the one that convolution takes for the shape."""
        return 2 * int(module.weight.numel())


def kernel_gradients(module: Any, x: Tensor, grad: Tensor, samples: int) -> Tensor:
    """Returns the gradient of the kernel for each sample, ``[n, *shape]``."""
    weight = module.weight
    found = torch.ops.aten.convolution_backward(
        _side_by_side(grad, samples),
        _side_by_side(F.pad(x, _borders(module)), samples),
        x.new_empty(samples * len(weight), *weight.shape[1:]),
        None,
        module.stride,
        [0] * len(module.stride),
        module.dilation,
        False,
        [0] * len(module.stride),
        samples * module.groups,
        [False, True, False],
    )[1]
    return found.reshape(samples, *weight.shape)


def _side_by_side(values: Tensor, samples: int) -> Tensor:
    """``[n * m, C, ...]`` as ``[m, n * C, ...]``."""
    split = values.reshape(samples, -1, *values.shape[1:])
    return split.transpose(0, 1).flatten(1, 2)


def _borders(module: Any) -> list[int]:
    """What is added around, as ``F.pad`` reads it: last dimension first."""
    if not isinstance(module.padding, str):
        return [p for size in reversed(module.padding) for p in (size, size)]
    if module.padding == "valid":
        return [0] * (2 * len(module.kernel_size))
    totals = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    return [p for t in reversed(totals) for p in (t // 2, t - t // 2)]
