"""What the last forward pass of dynamic layers took, for the objective and for reports."""

import torch
from torch import Tensor, nn

from adlrns_models._checks import check_not_negative
from adlrns_models._dynamic import DynamicLayer
from adlrns_models._dynamic_scope import iter_dynamic_layers
from adlrns_models._gate import Decision


def rank_penalty(model: nn.Module, *, alpha: float = 1.0, beta: float = 0.1) -> Tensor:
    """Returns ``alpha FLOPs(r) / FLOPs_full + beta Mem(r) / Mem_full`` of the last forward pass.

    Sums over all dynamic layers that ran: ``FLOPs(r) = 2 r (m + n)`` for each row that went
    through a layer, ``Mem(r) = r (m + n)`` weights for a layer, and full is the dense layer's
    ``2 m n`` and ``m n``. ``r`` is the mean rank of the pass, expected over the probabilities of
    gates that learn: the gradient reaches their parameters, through them alone. Gates without
    parameters give a constant, as does a model without dynamic layers: 0.

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
    parts = [(_expected(decision, like), decision.rows, *layer.sizes) for layer, decision in ran]
    spent = torch.stack([r * (rows * (m + n)) for r, rows, m, n in parts]).sum()
    full = sum(rows * m * n for _, rows, m, n in parts)
    held = torch.stack([r * (m + n) for r, _, m, n in parts]).sum()
    weights = sum(m * n for _, _, m, n in parts)
    return alpha * spent / max(1, full) + beta * held / weights


def mean_flops(model: nn.Module) -> float:
    """Returns the share of the dense FLOPs that the last forward pass really took.

    Over all dynamic layers that ran, weighed by their dense FLOPs, and with what their gates
    computed. In training mode that is more than the ranks say: what a gate leaves out may have
    been computed for it to decide. 1 for a model without dynamic layers.

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


def _ran(model: nn.Module) -> list[tuple[DynamicLayer, Decision]]:
    layers = list(iter_dynamic_layers(model))
    ran = [(layer, layer._last) for layer in layers if layer._last is not None]
    if layers and not ran:
        raise RuntimeError("no dynamic layer has run yet: call the model first")
    return ran


def _expected(decision: Decision, like: Tensor) -> Tensor:
    # sums of half numbers lose the small terms
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.as_tensor(decision.expected, device=like.device).to(dtype)
