"""Where the entries of a grown axis come from."""

import numpy as np
from numpy.typing import NDArray

from neuro_morph._axes import Atom, Axis, Product, Sum, resolve, size_of

Indices = NDArray[np.int64]


def entries_of(axis: Axis, atom: Atom, size: int) -> tuple[Indices, Indices]:
    """Returns for each entry of a grown axis the old entry, and the unit of ``atom`` it belongs to.

    New units stand behind the old ones, wherever in the axis that is: inside each segment and
    beside each digit. An old entry is -1 for those of new units, a unit is -1 for what belongs to
    none.

    Args:
        axis: what the axis is made of.
        atom: what grows.
        size: how many units it will have.
    """
    axis = resolve(axis)
    if axis is atom:
        units = np.arange(size, dtype=np.int64)
        return np.where(units < atom.size, units, -1), units
    if isinstance(axis, Sum):
        return _joined(axis, atom, size)
    if isinstance(axis, Product):
        return _crossed(axis, atom, size)
    return np.arange(size_of(axis), dtype=np.int64), np.full(size_of(axis), -1, dtype=np.int64)


def _joined(axis: Sum, atom: Atom, size: int) -> tuple[Indices, Indices]:
    old, units, start = [], [], 0
    for term in axis.terms:
        inside, unit = entries_of(term, atom, size)
        old.append(np.where(inside < 0, -1, inside + start))
        units.append(unit)
        start += size_of(term)
    return np.concatenate(old), np.concatenate(units)


def _crossed(axis: Product, atom: Atom, size: int) -> tuple[Indices, Indices]:
    old, units = np.zeros(1, dtype=np.int64), np.full(1, -1, dtype=np.int64)
    for factor in axis.factors:
        inside, unit = entries_of(factor, atom, size)
        left, right = old[:, None], inside[None, :]
        cross = np.where((left < 0) | (right < 0), -1, left * size_of(factor) + right)
        old = cross.ravel()
        units = np.maximum(units[:, None], unit[None, :]).ravel()
    return old, units
