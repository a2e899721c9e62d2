"""Axes made equal, or read as products and sums of others, piece by piece."""

from neuro_morph._axes import (
    Atom,
    Axis,
    Const,
    Product,
    Sum,
    atoms_of,
    fix,
    product_of,
    resolve,
    size_of,
    sum_of,
)


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
