"""What an axis of a tensor is made of: atoms that grow, in sums (concatenated) and products.

The channels of a layer are one atom. After ``flatten`` the axis is a product, ``C x 4 x 4``; after
``cat`` it is a sum, ``C1 + C2``; where a projection is viewed as heads its atom turns out to be a
product itself, ``heads x head_dim``. Two axes that meet in an operation are made equal, piece by
piece, by :func:`unify`. What cannot be made equal is fixed, with the reason.
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


def unify(first: Axis, second: Axis, reason: str) -> None:
    """Makes two axes of one length the same; what cannot be is fixed for ``reason``."""
    first, second = resolve(first), resolve(second)
    if first == second:
        return
    if isinstance(first, Const) or isinstance(second, Const):
        fix(first, reason)
        fix(second, reason)
    elif isinstance(first, Atom):
        _bind(first, second, reason)
    elif isinstance(second, Atom):
        _bind(second, first, reason)
    elif not _align(first, second, reason):
        fix(first, reason)
        fix(second, reason)


def split_product(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """Returns two axes whose product ``axis`` is, the first of a size; None if there are none."""
    axis = resolve(axis)
    rest, inside = divmod(size_of(axis), size)
    if inside:
        return None
    if size == 1 or rest == 1:
        return (Const(1), axis) if size == 1 else (axis, Const(1))
    if isinstance(axis, Const):
        return Const(size), Const(rest)
    if isinstance(axis, Atom):
        return _refine(axis, Product, (size, rest))
    if isinstance(axis, Product):
        return _split_factors(axis.factors, size)
    return _split_equal_terms(axis, size)


def split_sum(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """Returns two axes whose concatenation ``axis`` is, the first of a size; None if none are."""
    axis = resolve(axis)
    rest = size_of(axis) - size
    if size == 0 or rest == 0:
        return (Const(0), axis) if size == 0 else (axis, Const(0))
    if isinstance(axis, Const):
        return Const(size), Const(rest)
    if isinstance(axis, Atom):
        return _refine(axis, Sum, (size, rest))
    if isinstance(axis, Sum):
        return _split_terms(axis.terms, size)
    return _split_leading(axis, size)


def _bind(atom: Atom, other: Axis, reason: str) -> None:
    if any(each is atom for each in atoms_of(other)):
        fix(other, reason)
        return
    if atom.fixed:
        fix(other, atom.fixed)
    atom.bound = other


def _refine(atom: Atom, kind: type, sizes: tuple[int, int]) -> tuple[Axis, Axis]:
    first, second = (Atom(size, f"{atom.name}.{k}", atom.fixed) for k, size in enumerate(sizes))
    atom.bound = kind((first, second))
    return first, second


def _split_factors(factors: tuple[Axis, ...], size: int) -> tuple[Axis, Axis] | None:
    head: list[Axis] = []
    for k, factor in enumerate(factors):
        have = size_of(factor)
        if size % have:  # this factor lies across the border
            parts = split_product(factor, size) if have % size == 0 else None
            return parts and (
                product_of([*head, parts[0]]),
                product_of([parts[1], *factors[k + 1 :]]),
            )
        head.append(factor)
        size //= have
        if size == 1:
            return product_of(head), product_of(factors[k + 1 :])
    return None


def _split_equal_terms(axis: Sum, size: int) -> tuple[Axis, Axis] | None:
    """Reads ``A + A`` as ``2 x A``."""
    width = size_of(axis) // size
    parts = _cut(axis, [width] * size)
    if parts is None:
        return None
    for part in parts[1:]:
        unify(parts[0], part, "segments of an axis are viewed as one")
    return Const(size), parts[0]


def _split_terms(terms: tuple[Axis, ...], size: int) -> tuple[Axis, Axis] | None:
    head: list[Axis] = []
    for k, term in enumerate(terms):
        have = size_of(term)
        if size < have:
            parts = split_sum(term, size)
            return parts and (sum_of([*head, parts[0]]), sum_of([parts[1], *terms[k + 1 :]]))
        head.append(term)
        size -= have
        if size == 0:
            return sum_of(head), sum_of(terms[k + 1 :])
    return None


def _split_leading(axis: Product, size: int) -> tuple[Axis, Axis] | None:
    """Cuts ``A x B`` at a whole number of ``B``."""
    lead, rest = axis.factors[0], product_of(axis.factors[1:])
    count, inside = divmod(size, size_of(rest))
    if inside:
        return None
    parts = split_sum(lead, count)
    return parts and (product_of([parts[0], rest]), product_of([parts[1], rest]))


def _cut(axis: Axis, sizes: list[int]) -> list[Axis] | None:
    """Returns the segments of an axis of these sizes."""
    parts: list[Axis] = []
    for size in sizes:
        pair = split_sum(axis, size)
        if pair is None:
            return None
        parts.append(pair[0])
        axis = pair[1]
    return parts


def _align(first: Axis, second: Axis, reason: str) -> bool:
    if isinstance(first, Sum) and isinstance(second, Sum):
        return _align_terms(first, second, reason)
    if isinstance(first, Product) and isinstance(second, Product):
        return _align_factors(first, second, reason)
    product, total = (first, second) if isinstance(first, Product) else (second, first)
    assert isinstance(product, Product)
    parts = split_product(total, size_of(product.factors[0]))
    if parts is None:
        return False
    unify(product.factors[0], parts[0], reason)
    unify(product_of(product.factors[1:]), parts[1], reason)
    return True


def _align_terms(first: Sum, second: Sum, reason: str) -> bool:
    size = min(size_of(first.terms[0]), size_of(second.terms[0]))
    return _align_parts(split_sum(first, size), split_sum(second, size), reason)


def _align_factors(first: Product, second: Product, reason: str) -> bool:
    size = min(size_of(first.factors[0]), size_of(second.factors[0]))
    return _align_parts(split_product(first, size), split_product(second, size), reason)


def _align_parts(
    first: tuple[Axis, Axis] | None, second: tuple[Axis, Axis] | None, reason: str
) -> bool:
    if first is None or second is None:
        return False
    unify(first[0], second[0], reason)
    unify(first[1], second[1], reason)
    return True
