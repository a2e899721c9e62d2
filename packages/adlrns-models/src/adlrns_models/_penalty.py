"""What recorded calls of dynamic layers took, for the objective and for reports."""

import torch
from torch import Tensor

from adlrns_models._checks import check_not_negative
from adlrns_models._dynamic import DynamicLayer
from adlrns_models._gate import Decision
from adlrns_models._recording import Recording


@torch.compiler.disable  # what ran is known when graphs have ended
def rank_penalty(ran: Recording, *, alpha: float = 1.0, beta: float = 0.1) -> Tensor:
    """Returns ``alpha FLOPs(r) / FLOPs_full + beta Mem(r) / Mem_full`` of recorded calls.

    Sums over all calls that :func:`record` lists: ``FLOPs(r) = 2 r (m + n)`` for each row that went
    through a layer, ``Mem(r) = r (m + n)`` weights for a layer, however often it was called, and
    full is the dense layer's ``2 m n`` and ``m n``. ``r`` is the mean rank of a call, expected over
    the probabilities of gates that learn: the gradient reaches their parameters, through them
    alone. Gates without parameters give a constant, as does a model without dynamic layers: 0.

    Args:
        ran: what ``with record(model) as ran`` lists, inside the block or after it.
        alpha: weight of arithmetic.
        beta: weight of memory.

    Raises:
        RuntimeError: if the model has dynamic layers and none of them has run in the block (where a
            pass may leave them all out, ask ``if ran`` first), or a gate in training has run
            without gradients in a block that has them, as under checkpointing with
            ``use_reentrant=True``.
        TypeError, ValueError: for what is no recording, and for a weight that is no number,
            negative or not finite.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, rank_penalty, record
        >>> layer = DynamicLinear(16, 16, r_max=8, r_min=8)
        >>> with record(layer) as ran:
        ...     y = layer(torch.randn(4, 16))
        >>> round(float(rank_penalty(ran, alpha=1.0, beta=0.0)), 3)  # 8 (16 + 16) / 16^2
        1.0
    """
    alpha, beta = check_not_negative("alpha", alpha), check_not_negative("beta", beta)
    _check(ran)
    if not ran:
        return torch.zeros(())
    if torch.is_grad_enabled():
        ran.check_gradients()
    like = ran[0][0].up
    ranks = [_expected(decision, like) for _, decision in ran]
    full, spent = 0, torch.zeros_like(ranks[0])
    for (layer, decision), rank in zip(ran, ranks, strict=True):
        m, n = layer.sizes
        full, spent = full + decision.rows * m * n, spent + rank * (decision.rows * (m + n))
    return alpha * spent / max(1, full) + beta * _share_held(ran, ranks)


@torch.compiler.disable
def mean_flops(ran: Recording) -> float:
    """Returns the share of the dense FLOPs that recorded calls really took.

    Over all calls that :func:`record` lists, weighed by their dense FLOPs, and with what their
    gates computed. In training mode that is more than the ranks say: what a gate leaves out may
    have been computed for it to decide. 1 for a model without dynamic layers.

    Raises:
        RuntimeError, TypeError: as for :func:`rank_penalty`.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, mean_flops, record
        >>> layer = DynamicLinear(64, 64, r_max=4, r_min=4).eval()
        >>> with record(layer) as ran:
        ...     y = layer(torch.randn(4, 64))
        >>> mean_flops(ran)  # 4 (64 + 64) / 64^2
        0.125
    """
    _check(ran)
    dense = [decision.rows * layer.sizes[0] * layer.sizes[1] for layer, decision in ran]
    if sum(dense) == 0:
        return 1.0
    shares = [float(decision.share) for _, decision in ran]
    return sum(s * d for s, d in zip(shares, dense, strict=True)) / sum(dense)


def _check(ran: object) -> None:
    if not isinstance(ran, Recording):
        raise TypeError(
            "ran must be what record gives (with record(model) as ran: model(x)), got "
            f"{type(ran).__name__}"
        )
    if ran.has_layers and not ran:
        raise RuntimeError(
            "no dynamic layer of the model has run while it was recorded: call the model inside "
            "the block of record(model), or ask `if ran` where a pass may leave them all out"
        )


def _share_held(ran: Recording, ranks: list[Tensor]) -> Tensor:
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


def _expected(decision: Decision, like: Tensor) -> Tensor:
    # sums of half numbers lose the small terms
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.as_tensor(decision.expected, device=like.device).to(dtype)
