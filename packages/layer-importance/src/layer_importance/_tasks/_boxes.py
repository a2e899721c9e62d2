"""Boxes ``(centre x, centre y, width, height)``: overlaps, and who is whose."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def corners(boxes: Tensor) -> Tensor:
    """Returns ``(left, top, right, bottom)`` of boxes ``[..., 4]``."""
    centre, extent = boxes[..., :2], boxes[..., 2:].clamp_min(0)
    return torch.cat([centre - extent / 2, centre + extent / 2], -1)


def overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Returns intersection over union and its generalisation for pairs of boxes ``[..., 4]``.

    The second is the first less the share of the smallest box around both that neither covers
    (Rezatofighi et al., arXiv 1902.09630, algorithm 1), so that it has a gradient also where boxes
    do not meet. Two empty boxes overlap by 0.
    """
    a, b = corners(a), corners(b)
    inner = (
        torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    ).clamp_min(0)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    union = _area(a) + _area(b) - inner.prod(-1)
    hull = outer.prod(-1)
    tiny = torch.finfo(union.dtype).tiny
    iou = inner.prod(-1) / union.clamp_min(tiny)
    return iou, iou - (hull - union) / hull.clamp_min(tiny)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def assigned(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the rows and columns of the cheapest one-to-one assignment of ``[Q, K]``."""
    rows, columns = linear_sum_assignment(cost.detach().double().cpu().numpy())
    return tuple(torch.as_tensor(one, device=cost.device) for one in (rows, columns))  # type: ignore[return-value]
