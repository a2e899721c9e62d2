"""How large a difference is beside the numbers it is found among."""

from collections.abc import Iterator

import torch
from torch import Tensor

_ROOM = 30.0  # between numbers of one output that rounding may couple
_HUGE = 100.0  # times the next largest number: what is filled in where a model masks
_FILLS = 4  # that are looked for
_NOISE = 64.0  # roundings of the largest number, up to which a part may be nothing else


def differences(old: Tensor, new: Tensor) -> tuple[float, float]:
    """Returns the largest difference of two tensors, and the largest over its scale.

    The scale is the largest number of the tensor, but at most thirty times the largest one in its
    part: where scores stand beside coordinates, each kind counts for itself. Parts are what has one
    index of the second or the last axis; the smallest quarter of them may be small by chance and
    goes by the next one. Numbers that are the same everywhere, before and after, and far larger
    than all others do not count: a model fills them in.
    """
    eps = torch.finfo(old.dtype if old.is_floating_point() else torch.float64).eps
    mine, its = (t if t.dtype in (torch.float32, torch.float64) else t.double() for t in (old, new))
    gap, size = (mine - its).abs_(), mine.abs()
    worst, top = float(gap.max()), float(size.max()) or 1.0
    if not worst:
        return 0.0, 0.0
    own = _without_fills(size, gap, top)
    largest = top if own is size else float(own.max()) or top
    found = [worst / min(top, _ROOM * largest)]
    return worst, max([*found, *_by_part(own, gap, top, _NOISE * top * eps)])


def _by_part(size: Tensor, gap: Tensor, top: float, grain: float) -> Iterator[float]:
    """Yields the largest change along each axis that has parts of different kinds."""
    for dim in sorted({1, size.dim() - 1}) if size.dim() > 1 else ():
        rest = [d for d in range(size.dim()) if d != dim]
        largest = size.amax(rest)
        some = largest[largest > 0].sort().values
        if not len(some) or _ROOM * float(some[len(some) // 4]) >= top:
            continue  # all of them are judged by the largest number of the tensor
        gaps, least = gap.amax(rest), float(some[len(some) // 4])
        scale = (_ROOM * largest.clamp(min=least)).clamp(max=top)
        noise = (largest <= grain) & (gaps >= largest / 4)  # as of what cancels
        yield float((gaps / scale.masked_fill(noise, top)).max())


def _without_fills(size: Tensor, gap: Tensor, top: float) -> Tensor:
    """Returns sizes with zeros for those that are filled in: often, exactly, and huge."""
    for _ in range(_FILLS):
        at_top = size == top
        if int(at_top.sum()) < 2:
            break
        left = size.masked_fill(at_top & (gap == 0), 0.0)
        next_largest = float(left.max())
        if not 0 < _HUGE * next_largest < top:
            break
        size, top = left, next_largest
    return size
