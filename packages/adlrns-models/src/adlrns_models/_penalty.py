"""What the last forward pass of dynamic layers took, for the objective and for reports."""

import torch
from torch import Tensor, nn

from adlrns_models._checks import check_not_negative
from adlrns_models._dynamic import DynamicLayer
from adlrns_models._dynamic_scope import iter_dynamic_layers
from adlrns_models._gate import Decision
from adlrns_models._passes import last_pass

Calls = list[tuple[DynamicLayer, Decision]]


def rank_penalty(model: nn.Module, *, alpha: float = 1.0, beta: float = 0.1) -> Tensor:
    """Returns ``alpha FLOPs(r) / FLOPs_full + beta Mem(r) / Mem_full`` of the last forward pass.

    Sums over all calls of dynamic layers in the last call of ``model``: ``FLOPs(r) = 2 r (m + n)``
    for each row that went through a layer, ``Mem(r) = r (m + n)`` weights for a layer, and full is
    the dense layer's ``2 m n`` and ``m n``. ``r`` is the mean rank of the pass, expected over the
    probabilities of gates that learn: the gradient reaches their parameters, through them alone.
    Gates without parameters give a constant, as does a model without dynamic layers, or a pass that
    left them all out: 0.

    Of a model that is not called itself (a list, or a module that is used by its methods), or a
    layer of which was called by others since, the last calls of its parts count. Compiled graphs
    cannot tell passes apart: their layers count by their last call, whenever it was.

    Args:
        model: any module, after a forward pass.
        alpha: weight of arithmetic.
        beta: weight of memory.

    Raises:
        RuntimeError: if the model has dynamic layers and none has run.
        TypeError, ValueError: for a weight that is no number, negative or not finite.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, rank_penalty
        >>> layer = DynamicLinear(16, 16, r_max=8, r_min=8)
        >>> y = layer(torch.randn(4, 16))
        >>> round(float(rank_penalty(layer, alpha=1.0, beta=0.0)), 3)  # 8 (16 + 16) / 16^2
        1.0
    """
    alpha, beta = check_not_negative("alpha", alpha), check_not_negative("beta", beta)
    ran = _ran(model)
    if not ran:
        return torch.zeros(())
    like = ran[0][0].up
    ranks = [_expected(decision, like) for _, decision in ran]
    full, spent = 0, torch.zeros_like(ranks[0])
    for (layer, decision), rank in zip(ran, ranks, strict=True):
        m, n = layer.sizes
        full, spent = full + decision.rows * m * n, spent + rank * (decision.rows * (m + n))
    return alpha * spent / max(1, full) + beta * _share_held(ran, ranks)


def mean_flops(model: nn.Module) -> float:
    """Returns the share of the dense FLOPs that the last forward pass really took.

    Over all calls of dynamic layers in the last call of ``model`` (see :func:`rank_penalty`),
    weighed by their dense FLOPs, and with what their gates computed. In training mode that is more
    than the ranks say: what a gate leaves out may have been computed for it to decide. 1 for a
    model without dynamic layers, or a pass that left them all out.

    Raises:
        RuntimeError: if the model has dynamic layers and none has run.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, mean_flops
        >>> layer = DynamicLinear(64, 64, r_max=4, r_min=4).eval()
        >>> y = layer(torch.randn(4, 64))
        >>> mean_flops(layer)  # 4 (64 + 64) / 64^2
        0.125
    """
    ran = _ran(model)
    dense = [decision.rows * layer.sizes[0] * layer.sizes[1] for layer, decision in ran]
    if sum(dense) == 0:
        return 1.0
    shares = [float(decision.share) for _, decision in ran]
    return sum(s * d for s, d in zip(shares, dense, strict=True)) / sum(dense)


def _share_held(ran: Calls, ranks: list[Tensor]) -> Tensor:
    """Returns ``Mem(r) / Mem_full``, of a layer that ran more than once at its mean rank."""
    of_layer: dict[DynamicLayer, list[tuple[Tensor, int]]] = {}
    for (layer, decision), rank in zip(ran, ranks, strict=True):
        of_layer.setdefault(layer, []).append((rank, decision.rows))
    held, full = torch.zeros_like(ranks[0]), 0
    for layer, calls in of_layer.items():
        (m, n), rows = layer.sizes, sum(k for _, k in calls)
        # calls without rows count alike where there are no others
        parts = [r * (k / rows if rows else 1 / len(calls)) for r, k in calls]
        held, full = held + torch.stack(parts).sum() * (m + n), full + m * n
    return held / full


def _ran(model: nn.Module) -> Calls:
    """Returns the calls of dynamic layers in the last pass."""
    layers = list(iter_dynamic_layers(model))
    if layers and all(layer._last is None for layer in layers):
        raise RuntimeError("no dynamic layer has run yet: call the model first")
    return _calls(model)


def _calls(module: nn.Module) -> Calls:
    found = last_pass(module)
    if found is not None and found.newest >= _newest(module):
        plain = [call for call in found.known() if not call[0]._in_graph]
        return [call for call in plain if call[0]._last is not None] + _in_graphs(module)
    if isinstance(module, DynamicLayer):
        return [] if module._last is None else [(module, module._last)]
    every = (call for part in module.children() for call in _calls(part))
    # what two parts share comes twice
    return list({id(decision): (layer, decision) for layer, decision in every}.values())


def _newest(module: nn.Module) -> int:
    """Returns the number of the last call of a dynamic layer, whoever called it."""
    return max((layer._called_at for layer in iter_dynamic_layers(module)), default=0)


def _in_graphs(module: nn.Module) -> Calls:
    """Returns the last calls of layers that ran in compiled graphs."""
    layers = [layer for layer in iter_dynamic_layers(module) if layer._in_graph]
    return [(layer, layer._last) for layer in layers if layer._last is not None]


def _expected(decision: Decision, like: Tensor) -> Tensor:
    # sums of half numbers lose the small terms
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.as_tensor(decision.expected, device=like.device).to(dtype)
