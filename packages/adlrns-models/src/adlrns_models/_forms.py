"""The forms of a settled layer: what each weighs, and how it is made."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models._groups import at_rank, parts
from adlrns_models._identity import grouped_order, identity_factors
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._parts import build, parts_of

# the simpler first
FORMS = ("dense", "factored", "identity")

# a form with more parts has to save this share of the weights to be worth its extra calls
WORTH = 0.05


def weight_count(form: str, m: int, n: int, rank: int) -> int:
    """Returns the number of weights (not biases) of a layer ``[m, n]`` at ``rank`` in a form."""
    form = effective_form(form, m, n, rank)
    return {"dense": m * n, "factored": rank * (m + n), "identity": rank * (m + n - rank)}[form]


def lightest_form(m: int, n: int, rank: int) -> str:
    """Returns the form with the fewest weights, the simpler one when the saving is small."""
    best = "dense"
    for form in ("factored", "identity"):
        if weight_count(form, m, n, rank) <= (1 - WORTH) * weight_count(best, m, n, rank):
            best = form
    return best


def effective_form(form: str, m: int, n: int, rank: int) -> str:
    """Returns the form a layer can take: no rank has no factors, and full rank needs none."""
    return "dense" if rank in (0, min(m, n)) else form


def settle(layer: AdaptiveLayer, form: str, rank: int) -> nn.Module:
    """Returns the plain module that computes what ``layer`` does at ``rank``."""
    m, n = layer.sizes
    form = effective_form(lightest_form(m, n, rank) if form == "auto" else form, m, n, rank)
    module = build(parts_of(layer), form, m, rank)
    exact = torch.autocast(layer.down.device.type, enabled=False)
    with torch.no_grad(), exact:
        _FILL[form](layer, module, rank)
    module.train(layer.training).requires_grad_(layer.down.requires_grad)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.requires_grad_(layer.outer_bias.requires_grad)
    return module


def _fill_dense(layer: AdaptiveLayer, module: Any, rank: int) -> None:
    weight, bias = layer.effective_weight(rank)
    _set(module, weight, bias)


def _fill_factored(layer: AdaptiveLayer, module: Any, rank: int) -> None:
    down, up, inner = zip(*(at_rank(part, rank) for part in parts(layer)), strict=True)
    _set(module[0], torch.cat(down), torch.cat(inner))
    _set(module[1], torch.cat(up), layer.outer_bias)


def _fill_identity(layer: AdaptiveLayer, module: Any, rank: int) -> None:
    blocks = [identity_factors(*at_rank(p, rank), p.outer_bias) for p in parts(layer)]
    head, head_bias, tail, tail_bias, orders = zip(*blocks, strict=True)
    _set(module.head, torch.cat(head), torch.cat(head_bias))
    _set(module.tail, torch.cat(tail), torch.cat(tail_bias))
    module.order.copy_(grouped_order(list(orders), rank))


def _set(module: Any, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight.reshape(module.weight.shape))
    module.bias.copy_(bias)


_FILL: dict[str, Callable[[AdaptiveLayer, Any, int], None]] = {
    "dense": _fill_dense,
    "factored": _fill_factored,
    "identity": _fill_identity,
}
