"""The choices of one layer worth making: first undominated, then on the lower convex hull."""

import numpy as np

from rank_sched._layers import Floats, Ints

# what the rounding of both ends may do to a difference, relative to the larger one
_ROUNDING = 4 * float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)


def undominated(costs: Floats, losses: Floats) -> Ints:
    """Return the choices no other choice beats, by rising cost (and so by falling loss).

    A choice is dominated if another one costs no more and loses no more; of two equal ones the
    earlier stays.

    >>> undominated(np.array([0.0, 1.0, 2.0, 3.0]), np.array([9.0, 4.0, 5.0, 1.0]))
    array([0, 1, 3])
    """
    order = np.lexsort((losses, costs))
    ahead = np.minimum.accumulate(losses[order])[:-1]
    return order[np.append(True, losses[order][1:] < ahead)]


def lower_hull(costs: Floats, losses: Floats) -> Ints:
    """Return the vertices of the lower convex hull of undominated choices.

    Choices on an edge of the hull stay, with a few units of rounding to spare: they make the steps
    finer and give nothing away.

    Args:
        costs: Rising, `[K]`.
        losses: Falling, `[K]`.

    >>> lower_hull(np.array([0.0, 1.0, 2.0, 3.0]), np.array([9.0, 8.0, 3.0, 2.0]))
    array([0, 2, 3])
    """
    if _is_convex(costs, losses):
        return np.arange(len(costs))
    return np.array(_scan(costs.tolist(), losses.tolist()))


def _is_convex(costs: Floats, losses: Floats) -> bool:
    drops, rises = -np.diff(losses), np.diff(costs)
    with np.errstate(over="ignore"):
        early = (drops + _ROUNDING * np.abs(losses[:-1])) / np.maximum(
            rises - _ROUNDING * costs[1:], _TINY
        )
        late = drops / (rises + _ROUNDING * costs[1:])
        return bool((late[1:] <= early[:-1]).all())


def _scan(costs: list[float], losses: list[float]) -> list[int]:
    # Andrew's monotone chain
    hull: list[int] = []
    for new in range(len(costs)):
        while len(hull) > 1 and _is_above(costs, losses, hull[-2], hull[-1], new):
            hull.pop()
        hull.append(new)
    return hull


def _is_above(costs: list[float], losses: list[float], left: int, mid: int, right: int) -> bool:
    """Return whether `mid` lies above the line from `left` to `right` by more than rounding."""
    drop = losses[left] - losses[mid] + _ROUNDING * abs(losses[left])
    rise = costs[mid] - costs[left] - _ROUNDING * costs[mid]
    late = costs[right] - costs[mid] + _ROUNDING * costs[right]
    return (losses[mid] - losses[right]) / late > drop / max(rise, _TINY)
