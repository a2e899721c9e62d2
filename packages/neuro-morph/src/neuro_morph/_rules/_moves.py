"""Operations that only move numbers: views, permutations, slices, concatenations."""

from collections.abc import Callable
from typing import Any

from torch.utils._pytree import tree_leaves

from neuro_morph._axes import Axis, Const, fix, product_of, resolve, size_of, sum_of
from neuro_morph._placing import Placing, Value, renamed
from neuro_morph._rules._rule import add_rule
from neuro_morph._unify import split_product, split_sum
from neuro_morph._valuing import New, Valuing, joined, seen_in


def moved(valuing: Valuing, *args: Any, **kwargs: Any) -> list[New | None]:
    """Returns the new units of what comes out: those that went in."""
    assert valuing.call is not None
    whole: New | None = None
    for seen in seen_in(args, kwargs):
        if seen.new is not None:
            whole = seen.new if whole is None else joined(valuing, whole, seen.new)
    assert whole is not None
    if whole.mode is None:
        return [whole] * len(valuing.call.outputs)
    count = len(valuing.call.outputs)
    return [whole if valuing.dims(valuing.out(k)) else None for k in range(count)]


def viewed(placing: Placing, x: Value, *shape: Any, **kwargs: Any) -> Value:
    """Places ``view``, ``reshape``, ``flatten``, ``unflatten`` by the shapes alone."""
    axes = reshaped(placing, x.axes, placing.shape())
    assert placing.call is not None
    given = set(tree_leaves(shape)) if placing.call.given is None else set(placing.call.given)
    for d, axis in enumerate(axes):
        if size_of(axis) in given:  # modules often hold the sizes they view tensors with
            placing.number(axis, place=d - len(axes))
    old, new = [size_of(a) for a in x.axes], list(placing.shape())
    if [n for n in old if n != 1] != [n for n in new if n != 1]:
        return Value(axes)
    kept = iter(d for d, n in enumerate(old) if n != 1)
    return renamed(x, axes, [next(kept) if n != 1 else None for n in new])


def reshaped(placing: Placing, axes: tuple[Axis, ...], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Returns the axes of a tensor that is read with another shape."""
    left = product_of(axes)
    found: list[Axis] = []
    for size in shape:
        parts = split_product(left, size) if size_of(left) else None
        if parts is None:
            for axis in axes:
                fix(axis, f"its digits are torn apart in {placing.where()}")
            return tuple(Const(n) for n in shape)
        found.append(parts[0])
        left = parts[1]
    return tuple(found)


def permuted(placing: Placing, x: Value, *dims: Any) -> Value:
    order = dims[0] if dims and isinstance(dims[0], list | tuple) else dims
    own = [d % len(x.axes) for d in order]
    return renamed(x, [x.axes[d] for d in own], own)


def transposed(placing: Placing, x: Value, first: int = 0, second: int = 1) -> Value:
    own = list(range(len(x.axes)))
    if len(own) > 1:
        a, b = x.dim(first), x.dim(second)
        own[a], own[b] = own[b], own[a]
    return renamed(x, [x.axes[d] for d in own], own)


def unsqueezed(placing: Placing, x: Value, dim: int) -> Value:
    at = dim % (len(x.axes) + 1)
    own: list[int | None] = list(range(len(x.axes)))
    return renamed(x, [*x.axes[:at], Const(1), *x.axes[at:]], [*own[:at], None, *own[at:]])


def squeezed(placing: Placing, x: Value, dim: Any = None) -> Value:
    asked = range(len(x.axes)) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {d % len(x.axes) for d in asked if size_of(x.axes[d]) == 1} if x.axes else set()
    own = [d for d in range(len(x.axes)) if d not in gone]
    return renamed(x, [x.axes[d] for d in own], own)


def expanded(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> Value:
    shape = placing.shape()
    lead = len(shape) - len(x.axes)
    axes: list[Axis] = [Const(n) for n in shape[:lead]]
    axes += [
        axis if size_of(axis) == n else Const(n)
        for axis, n in zip(x.axes, shape[lead:], strict=True)
    ]
    return renamed(x, axes, [None] * lead + list(range(len(x.axes))))


def repeated(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> Value:
    shape = placing.shape()
    lead = len(shape) - len(x.axes)
    axes: list[Axis] = [Const(n) for n in shape[:lead]]
    for axis, n in zip(x.axes, shape[lead:], strict=True):
        axes.append(product_of([Const(n // max(size_of(axis), 1)), axis]))
    return renamed(x, axes, [None] * lead + list(range(len(x.axes))))


def interleaved(placing: Placing, x: Value, repeats: Any, dim: Any = None, **kwargs: Any) -> Value:
    shape = placing.shape()
    if not isinstance(repeats, int) or dim is None:
        placing.fix(x, f"it is repeated by a tensor in {placing.where()}")
        return placing.constant(shape)
    axes = list(x.axes)
    axes[x.dim(dim)] = product_of([axes[x.dim(dim)], Const(repeats)])
    return Value(tuple(axes))


def concatenated(placing: Placing, tensors: list[Value], dim: int = 0) -> Value:
    pieces = [t for t in tensors if len(t.axes) == len(placing.shape())]
    at = dim % len(placing.shape())
    axes = list(pieces[0].axes)
    for piece in pieces:
        for d, axis in enumerate(piece.axes):
            if d != at:
                placing.meet(axes[d], axis)
        for d in range(len(axes)):
            if d != at and size_of(axes[d]) > 1:
                placing.uses(piece, d, "shift")
    axes[at] = sum_of(piece.axes[at] for piece in pieces)
    return Value(tuple(axes))


def stacked(placing: Placing, tensors: list[Value], dim: int = 0) -> Value:
    axes = list(tensors[0].axes)
    for other in tensors[1:]:
        for mine, its in zip(axes, other.axes, strict=True):
            placing.meet(mine, its)
    axes.insert(dim % (len(axes) + 1), Const(len(tensors)))
    return Value(tuple(axes))


def chunked(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> list[Value]:
    """Places ``split``, ``chunk`` and their kin by the shapes of what comes out."""
    assert placing.call is not None
    dim = x.dim(kwargs.get("dim", args[1] if len(args) > 1 else 0))
    sizes = [placing.shape(k)[dim] for k in range(len(placing.call.outputs))]
    by_size = bool(args) and not isinstance(args[0], int)
    if not by_size and len(set(sizes)) == 1:  # pieces of one size stay of one size
        return _equal_pieces(placing, x, dim, len(sizes))
    return [cut(placing, x, dim, sum(sizes[:k]), size) for k, size in enumerate(sizes)]


def _equal_pieces(placing: Placing, x: Value, dim: int, count: int) -> list[Value]:
    parts = split_product(x.axes[dim], count)
    if parts is None:
        fix(x.axes[dim], f"it is torn apart in {placing.where()}")
        parts = Const(count), Const(size_of(x.axes[dim]) // count)
    fix(parts[0], f"it is the number of pieces in {placing.where()}")
    axes = [*x.axes[:dim], parts[1], *x.axes[dim + 1 :]]
    placing.number(parts[1])
    return [renamed(x, axes, range(len(axes)))] * count


def cut(placing: Placing, x: Value, dim: int, start: int, size: int) -> Value:
    """Returns ``size`` entries of an axis from ``start``."""
    axis = resolve(x.axes[dim])
    if size == size_of(axis):
        return x
    placing.number(x.axes[dim])
    head = split_sum(axis, start)
    body = head and split_sum(head[1], size)
    if body is None:
        fix(axis, f"a part of it is taken in {placing.where()}")
        piece: Axis = Const(size)
    else:
        piece = body[0]
    axes = [*x.axes[:dim], piece, *x.axes[dim + 1 :]]
    return renamed(x, axes, range(len(axes)))


def sliced(
    placing: Placing, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    at, size = x.dim(dim), placing.shape()[x.dim(dim)]
    whole = size_of(x.axes[at])
    if step != 1:
        return _picked(placing, x, at)
    first = 0 if start is None else max(start + whole, 0) if start < 0 else min(start, whole)
    return cut(placing, x, at, first, size)


def narrowed(placing: Placing, x: Value, dim: int, start: int, length: int) -> Value:
    return cut(placing, x, x.dim(dim), start % max(size_of(x.axes[x.dim(dim)]), 1), length)


def selected(placing: Placing, x: Value, dim: int, index: int) -> Value:
    at = x.dim(dim)
    fix(x.axes[at], f"one of its entries is taken in {placing.where()}")
    own = [d for d in range(len(x.axes)) if d != at]
    return renamed(x, [x.axes[d] for d in own], own)


def unbound(placing: Placing, x: Value, dim: int = 0) -> list[Value]:
    return [selected(placing, x, dim, k) for k in range(size_of(x.axes[x.dim(dim)]))]


def _picked(placing: Placing, x: Value, at: int) -> Value:
    if placing.shape()[at] != size_of(x.axes[at]):
        fix(x.axes[at], f"some of its entries are taken in {placing.where()}")
        axes = [*x.axes[:at], Const(placing.shape()[at]), *x.axes[at + 1 :]]
        return renamed(x, axes, range(len(axes)))
    fix(x.axes[at], f"its order is changed in {placing.where()}")
    return x


def reordered(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Places ``roll``, ``flip``, ``cumsum``: the axes named keep their length, not their order."""
    dims = kwargs.get("dims", kwargs.get("dim", args[-1] if args else None))
    named = range(len(x.axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    for d in named or range(len(x.axes)):
        fix(x.axes[d % len(x.axes)], f"its order matters in {placing.where()}")
    return Value(x.axes)


def strided(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Places ``as_strided`` where it is no more than another memory format."""
    if [size_of(axis) for axis in x.axes] == list(placing.shape()):
        return x
    placing.fix(x, f"its memory is read in {placing.where()}")
    return placing.constant(placing.shape())


def padded(placing: Placing, x: Value, pad: Any, *args: Any, **kwargs: Any) -> Value:
    axes = list(x.axes)
    for d, (axis, n) in enumerate(zip(x.axes, placing.shape(), strict=True)):
        if size_of(axis) != n:
            k = 2 * (len(axes) - 1 - d)
            axes[d] = _with_margins(placing, axis, int(pad[k]), int(pad[k + 1]))
    return Value(tuple(axes))


def _with_margins(placing: Placing, axis: Axis, before: int, after: int) -> Axis:
    if before < 0 or after < 0:
        fix(axis, f"it is cropped in {placing.where()}")
        return Const(size_of(axis) + before + after)
    return sum_of([Const(before), axis, Const(after)])


def shuffled(placing: Placing, x: Value, factor: int) -> Value:
    """Places ``pixel_shuffle``: ``C r r`` channels become ``C`` channels of larger maps."""
    *lead, c, h, w = x.axes
    parts = split_product(c, size_of(c) // factor**2)
    channel: Axis = Const(size_of(c) // factor**2)
    if parts is None:
        fix(c, f"its digits are torn apart in {placing.where()}")
    else:
        fix(parts[1], f"it becomes positions in {placing.where()}")
        channel = parts[0]
    return Value((*lead, channel, Const(size_of(h) * factor), Const(size_of(w) * factor)))


def unshuffled(placing: Placing, x: Value, factor: int) -> Value:
    """Places ``pixel_unshuffle``: maps become ``r r`` times as many, smaller ones."""
    *lead, c, h, w = x.axes
    channel = product_of([c, Const(factor**2)])
    return Value((*lead, channel, Const(size_of(h) // factor), Const(size_of(w) // factor)))


_PLACES: dict[str, Callable[..., Any]] = {
    "view reshape _unsafe_view flatten unflatten _reshape_alias view_as reshape_as": viewed,
    "permute": permuted,
    "transpose swapaxes t numpy_T": transposed,
    "unsqueeze": unsqueezed,
    "squeeze": squeezed,
    "expand expand_as broadcast_to": expanded,
    "repeat tile": repeated,
    "repeat_interleave": interleaved,
    "cat concat concatenate": concatenated,
    "stack": stacked,
    "split split_with_sizes chunk tensor_split split_copy split_with_sizes_copy": chunked,
    "unsafe_split unsafe_chunk unsafe_split_with_sizes": chunked,
    "slice": sliced,
    "narrow": narrowed,
    "select": selected,
    "unbind": unbound,
    "as_strided": strided,
    "roll flip cumsum": reordered,
    "constant_pad_nd pad": padded,
    "pixel_shuffle": shuffled,
    "pixel_unshuffle": unshuffled,
}
for _names, _place in _PLACES.items():
    add_rule(_names, _place, moved)
