"""`Conv1D` of the transformers library: a linear layer whose weight lies the other way round."""

import math
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


class Conv1D(nn.Module):
    """What a ``Conv1D`` looks like, for type checkers; transformers itself is not needed.

    ``y = x @ weight + bias`` with ``weight [in, out]`` and ``bias [out]``.
    """

    weight: nn.Parameter
    bias: nn.Parameter


def named_conv1d(module: nn.Module) -> bool:
    """Returns whether ``module`` calls itself ``Conv1D``."""
    return type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d)


def is_conv1d(module: nn.Module) -> TypeGuard[Conv1D]:
    """Returns whether ``module`` calls itself ``Conv1D`` and computes ``x @ weight + bias``.

    It has to do so on some rows, so that another class of that name is not taken for it.
    """
    if not named_conv1d(module) or module._parameters.keys() != {"weight", "bias"}:
        return False
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[1:]:
        return False
    if weight.is_meta or weight.numel() == 0 or not weight.is_floating_point():
        return True  # other reasons speak against these
    return _agrees(module, weight.detach(), bias.detach())


@torch.no_grad()
def _agrees(module: nn.Module, weight: Tensor, bias: Tensor) -> bool:
    steps = torch.arange(2.0 * weight.shape[0], device=weight.device)
    rows = torch.sin(1.0 + steps).reshape(2, -1).to(weight.dtype)
    # both signs, beyond what the bias can hide: half of a line is no line
    reach, held = float((rows @ weight).abs().max()), float(bias.abs().max())
    rows = torch.cat([rows, -rows]) * (1.0 + 2.0 * held / reach if 0.0 < reach < math.inf else 1.0)
    with torch.autocast(weight.device.type, enabled=False):
        try:
            y = type(module).forward(module, rows)
        except Exception:
            return False
        wanted = rows @ weight + bias
    if not isinstance(y, Tensor) or y.shape != wanted.shape:
        return False
    if not bool(wanted.isfinite().all()):
        return True  # the factorisation says which value is not finite
    size = float(wanted.abs().max()) + float((rows.abs() @ weight.abs()).max())
    return float((y - wanted).abs().max()) <= 8 * torch.finfo(weight.dtype).eps * size


def as_linear(layer: Conv1D) -> nn.Linear:
    """Returns an ``nn.Linear`` that computes the same; its weight is a view of the other's."""
    weight, bias = layer.weight, layer.bias
    linear = skip_init(nn.Linear, *weight.shape, device="meta")
    linear.weight = nn.Parameter(weight.detach().T, requires_grad=weight.requires_grad)
    linear.bias = bias
    return linear.train(layer.training)
