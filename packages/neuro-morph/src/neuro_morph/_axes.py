"""What an axis of a tensor is made of: atoms that grow, in sums (concatenated) and products.

The channels of a layer are one atom. After ``flatten`` the axis is a product, ``C x 4 x 4``; after
``cat`` it is a sum, ``C1 + C2``; where a projection is viewed as heads its atom turns out to be a
product itself, ``heads x head_dim``. Two axes that meet in an operation are made equal, piece by
piece, by :func:`~neuro_morph._unify.unify`. What cannot be made equal is fixed, with the reason.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod


@dataclass(frozen=True)
class Const:
    """An axis, or a part of one, that does not grow: a batch, positions, a constant."""

    size: int


@dataclass(eq=False)
class Atom:
    """The smallest part of an axis that can grow.

    Attributes:
        size: how many units.
        name: where it was first seen.
        fixed: why it cannot grow, None if it can.
        bound: what it turned out to be, None while it is itself.
    """

    size: int
    name: str
    fixed: str | None = None
    bound: "Axis | None" = field(default=None, repr=False)


@dataclass(frozen=True)
class Product:
    """An axis with an index of several digits, the last changing fastest."""

    factors: tuple["Axis", ...]


@dataclass(frozen=True)
class Sum:
    """An axis of segments, one after another."""

    terms: tuple["Axis", ...]


Axis = Const | Atom | Product | Sum


def size_of(axis: Axis) -> int:
    """Returns the length of an axis."""
    if isinstance(axis, Product):
        return prod(size_of(each) for each in axis.factors)
    if isinstance(axis, Sum):
        return sum(size_of(each) for each in axis.terms)
    return axis.size


def growth_of(axis: Axis) -> dict[tuple[int, ...], int]:
    """Returns the length of an axis as a polynomial in the sizes of its atoms.

    Keys are the atoms that are multiplied, values how often. Two axes with one polynomial keep one
    length, whatever grows.
    """
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return {(id(axis),): 1}
    if isinstance(axis, Const):
        return {(): axis.size}
    found: dict[tuple[int, ...], int] = {} if isinstance(axis, Sum) else {(): 1}
    for part in axis.terms if isinstance(axis, Sum) else axis.factors:
        other = growth_of(part)
        if isinstance(axis, Sum):
            found = {k: found.get(k, 0) + other.get(k, 0) for k in {**found, **other}}
        else:
            found = _multiplied(found, other)
    return {k: n for k, n in found.items() if n}


def _multiplied(
    first: dict[tuple[int, ...], int], second: dict[tuple[int, ...], int]
) -> dict[tuple[int, ...], int]:
    found: dict[tuple[int, ...], int] = {}
    for a, m in first.items():
        for b, n in second.items():
            key = tuple(sorted((*a, *b)))
            found[key] = found.get(key, 0) + m * n
    return found


def product_of(factors: Iterable[Axis]) -> Axis:
    """Returns the product of axes in its plainest form."""
    flat: list[Axis] = []
    for factor in (resolve(each) for each in factors):
        for part in factor.factors if isinstance(factor, Product) else (factor,):
            if flat and isinstance(part, Const) and isinstance(flat[-1], Const):
                flat[-1] = Const(flat[-1].size * part.size)
            elif size_of(part) != 1:
                flat.append(part)
    return flat[0] if len(flat) == 1 else Product(tuple(flat)) if flat else Const(1)


def sum_of(terms: Iterable[Axis]) -> Axis:
    """Returns the concatenation of axes in its plainest form."""
    flat: list[Axis] = []
    for term in (resolve(each) for each in terms):
        for part in term.terms if isinstance(term, Sum) else (term,):
            if flat and isinstance(part, Const) and isinstance(flat[-1], Const):
                flat[-1] = Const(flat[-1].size + part.size)
            elif size_of(part):
                flat.append(part)
    return flat[0] if len(flat) == 1 else Sum(tuple(flat)) if flat else Const(0)


def resolve(axis: Axis) -> Axis:
    """Returns ``axis`` with every atom replaced by what it turned out to be."""
    if isinstance(axis, Atom):
        return axis if axis.bound is None else resolve(axis.bound)
    if isinstance(axis, Product):
        return product_of(axis.factors)
    if isinstance(axis, Sum):
        return sum_of(axis.terms)
    return axis


def atoms_of(axis: Axis) -> Iterator[Atom]:
    """Yields the atoms in an axis, in order."""
    axis = resolve(axis)
    if isinstance(axis, Atom):
        yield axis
    parts = axis.factors if isinstance(axis, Product) else ()
    for part in axis.terms if isinstance(axis, Sum) else parts:
        yield from atoms_of(part)


def fix(axis: Axis, reason: str) -> None:
    """Makes every atom in an axis one that does not grow; the first reason is kept."""
    for atom in atoms_of(axis):
        atom.fixed = atom.fixed or reason


def settle(axis: Axis) -> None:
    """Makes every atom in an axis a constant: no unit at all, like the positions of a kernel."""
    for atom in atoms_of(axis):
        atom.bound = Const(atom.size)
