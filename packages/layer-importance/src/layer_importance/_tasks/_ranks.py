"""How high the right ones come in a list sorted by score."""

import torch
from torch import Tensor


def ranks(scores: Tensor) -> Tensor:
    """Returns the place of every entry in its row ``[N, M]``, from 1, the highest score first.

    Equal scores share the mean of their places, so that a model that tells nothing apart gains
    nothing by the order it is asked in.

    >>> import torch
    >>> ranks(torch.tensor([[0.5, 2.0, 0.5, -1.0]])).tolist()
    [[2.5, 1.0, 2.5, 4.0]]
    """
    rising = scores.detach().double().sort(-1).values
    asked = scores.detach().double().contiguous()
    above = scores.shape[-1] - torch.searchsorted(rising, asked, right=True)
    equal = scores.shape[-1] - above - torch.searchsorted(rising, asked)
    return above + (equal.double() + 1) / 2


def ndcg(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Returns the normalised discounted cumulative gain of the first ``k``, ``[N]``.

    ``sum 1 / log2(1 + rank)`` over the relevant ones in the first ``k``, over the most it can be:
    Järvelin and Kekäläinen 2002. NaN for a row without a relevant one.
    """
    places = ranks(scores)
    gains = torch.where(relevant & (places <= k), 1 / torch.log2(1 + places), 0.0).sum(-1)
    positions = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=torch.float64)
    ideal = torch.where(positions <= k, 1 / torch.log2(1 + positions), 0.0).cumsum(0)
    count = relevant.sum(-1)
    return torch.where(count > 0, gains / ideal[(count - 1).clamp_min(0)], torch.nan)


def recall(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Returns the share of the relevant ones that are in the first ``k``, ``[N]``; NaN if none."""
    return (relevant & (ranks(scores) <= k)).sum(-1).double() / relevant.sum(-1).double()


def reciprocal_rank(scores: Tensor, relevant: Tensor) -> Tensor:
    """Returns one over the rank of the first relevant one, ``[N]``; NaN without any."""
    places = torch.where(relevant, ranks(scores), torch.inf)
    return torch.where(relevant.any(-1), 1 / places.min(-1).values, torch.nan)
