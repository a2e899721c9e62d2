"""One backward pass a sample: always right, and what everything else is checked against."""

from collections.abc import Sequence

import torch
from torch import Tensor

from layer_importance._per_sample._formula import Norms


def loop_norms(losses: Tensor, parameters: Sequence[Tensor]) -> list[Norms]:
    """Returns ``|g_i|^2`` and ``<g_i, theta>`` of each parameter for every sample, ``[N]``.

    ``g_i`` is the gradient of ``losses[i]``; the graph stays.
    """
    rows = [_one(loss, parameters) for loss in losses]
    if not rows:
        return [(losses.new_zeros(0).double(),) * 2 for _ in parameters]
    return [
        (torch.stack([row[i][0] for row in rows]), torch.stack([row[i][1] for row in rows]))
        for i in range(len(parameters))
    ]


def _one(loss: Tensor, parameters: Sequence[Tensor]) -> list[Norms]:
    grads: Sequence[Tensor | None] = [None] * len(parameters)
    if loss.requires_grad and parameters:
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [_norms(grad, p) for grad, p in zip(grads, parameters, strict=True)]


def _norms(grad: Tensor | None, parameter: Tensor) -> Norms:
    if grad is None:
        zero = torch.zeros((), dtype=torch.float64, device=parameter.device)
        return zero, zero
    if grad.is_sparse:
        grad = grad.to_dense()
    wide = grad.detach().double()
    return wide.square().sum(), (wide * parameter.detach()).sum()
