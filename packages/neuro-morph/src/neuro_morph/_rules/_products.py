"""Matrix products and convolutions: with a parameter they make and read units."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neuro_morph._axes import Axis, Const, fix, product_of, settle, size_of
from neuro_morph._placing import Placing, Value
from neuro_morph._rules._rule import add_rule
from neuro_morph._unify import split_product
from neuro_morph._valuing import AsksError, New, Seen, Valuing


def place_linear(placing: Placing, x: Value, w: Value, b: Value | None = None) -> Value:
    _only_parameters(placing, w)
    placing.meet(x.axes[-1], w.axes[-1])
    placing.uses(w, -1, "in")
    out: tuple[Axis, ...] = ()
    if len(w.axes) > 1:
        placing.uses(w, 0, "out")
        _place_bias(placing, w.axes[0], b)
        out = (w.axes[0],)
    return Value((*x.axes[:-1], *out))


def value_linear(valuing: Valuing, x: Seen, w: Seen, b: Seen | None = None) -> New | None:
    return _with_weight(valuing, x, w, b, read=[-1], into=-1, batch=range(len(x.value.axes) - 1))


def place_convolution(
    placing: Placing, x: Value, w: Value, b: Value | None, groups: int, *, transposed: bool = False
) -> Value:
    _only_parameters(placing, w)
    for axis in w.axes[2:]:
        settle(axis)  # the positions of a kernel
    lead = len(placing.shape()) - (len(w.axes) - 2) - 1
    channels = x.axes[lead]
    if transposed:
        read, made = _two(placing, w.axes[0], groups)[1], w.axes[1]
        placing.meet(channels, w.axes[0])
        group = _two(placing, w.axes[0], groups)[0]
        placing.number(group, "groups")
        out = product_of([group, made]) if groups > 1 else made
    else:
        parts = _two(placing, channels, groups)
        rows = _two(placing, w.axes[0], groups)
        if groups > 1:
            placing.meet(parts[0], rows[0])
            placing.number(rows[0], "groups")
        read, out = parts[1], w.axes[0]
        placing.meet(read, w.axes[1])
    rows_dim, columns_dim = (1, 0) if transposed else (0, 1)
    placing.uses(w, rows_dim, "out")
    placing.uses(w, columns_dim, "in")
    _place_bias(placing, out, b)
    space = [Const(n) for n in placing.shape()[lead + 1 :]]
    return Value((*x.axes[:lead], out, *space))


def value_convolution(
    valuing: Valuing, x: Seen, w: Seen, b: Seen | None, groups: int, *, transposed: bool = False
) -> New | None:
    lead = len(valuing.out().axes) - (len(w.value.axes) - 2) - 1
    if transposed and groups > 1:
        raise valuing.no("a transposed convolution has groups")
    column = 0 if transposed else 1
    into = lead
    grouped = groups > 1 and not any(valuing.has(w.value.axes[column]) for _ in [0])
    batch = [*range(lead), *([lead] if grouped else [])]
    return _with_weight(valuing, x, w, b, read=[column], into=into, batch=batch)


def place_matmul(placing: Placing, x: Value, y: Value) -> Value:
    if y.origin is not None and len(y.axes) == 2:
        placing.meet(x.axes[-1], y.axes[0])
        placing.uses(y, 0, "in")
        placing.uses(y, 1, "out")
        return Value((*x.axes[:-1], y.axes[1]))
    _no_weight(placing, x)
    _no_weight(placing, y)
    if len(x.axes) < 2 or len(y.axes) < 2:
        placing.meet(x.axes[-1], y.axes[-2 if len(y.axes) > 1 else -1])
        return Value((*x.axes[:-1], *(y.axes[:-2]), *(y.axes[-1:] if len(y.axes) > 1 else ())))
    placing.meet(x.axes[-1], y.axes[-2])
    lead = _batch_axes(placing, x.axes[:-2], y.axes[:-2])
    return Value((*lead, x.axes[-2], y.axes[-1]))


def value_matmul(valuing: Valuing, x: Seen, y: Seen) -> New | None:
    if y.origin is not None and len(y.value.axes) == 2:
        batch = range(len(x.value.axes) - 1)
        return _with_weight(valuing, x, y, None, read=[0], into=-1, batch=batch)
    inner = len(x.value.axes) - 1 in valuing.dims(x.value)
    if inner:
        return dot(valuing, x, y)
    return across(valuing, x, y)


def dot(valuing: Valuing, x: Seen, y: Seen) -> New | None:
    """Values where two tensors are summed over new units: one of them has to be zero there."""
    mine, its = x.new, y.new
    assert mine is not None
    assert its is not None
    if mine.linear and not mine.sources & its.sources:
        valuing.needs.scored |= mine.sources
    if "zero" in (mine.mode, its.mode):
        return _scalar(mine.power + its.power)
    last = [len(x.value.axes) - 1]
    if mine.mode == its.mode == "copy" and valuing.equally and valuing.evenly(x, last):
        return _scalar(mine.power + its.power - 1.0)
    if mine.mode == "copy":
        raise valuing.no("copies are multiplied with copies")
    if its.sources and not mine.sources & its.sources:
        raise AsksError(its.sources, "zero", f"units are multiplied in {valuing.placing.where()}")
    raise valuing.no("units are multiplied with units that the same parameter makes")


def across(valuing: Valuing, x: Seen, y: Seen) -> New | None:
    """Values where new units are kept apart: heads, or what a product does not sum over."""
    news = [each.new for each in (x, y) if each.new is not None]
    if len(news) == 1:
        return news[0]
    modes = {new.mode for new in news}
    mode = modes.pop() if len(modes) == 1 else "zero" if "zero" in modes else "free"
    if mode == "mean" or "copy" in modes:
        raise valuing.no("units that are the mean of others are multiplied")
    return New(mode, news[0].power + news[1].power, news[0].sources, linear=False)


def _scalar(power: float) -> New | None:
    return New(None, power) if power else None


def _with_weight(
    valuing: Valuing,
    x: Seen,
    w: Seen,
    b: Seen | None,
    *,
    read: Sequence[int],
    into: int,
    batch: Sequence[int],
) -> New | None:
    assert w.origin is not None
    kept = [d for d in valuing.dims(x.value) if d in batch]
    if x.new is not None and x.new.mode is None:
        raise valuing.no("a factor that growth brings in reaches a layer")
    for dim in read:
        if valuing.has(w.value.axes[dim]):
            own = w.origin.dims[dim]
            assert own is not None
            assert x.new is not None
            valuing.needs.columns[w.origin.name, own] = x.new
    makes = into % len(valuing.out().axes) in valuing.dims(valuing.out())
    if kept:
        return _kept(valuing, x, w, b)
    if not makes:
        return None
    names = [w.origin.name] + ([b.origin.name] if b is not None and b.origin else [])
    return valuing.new(*names)


def _kept(valuing: Valuing, x: Seen, w: Seen, b: Seen | None) -> New:
    """Values of units that a layer treats each by itself: channels of a depthwise convolution."""
    new = x.new
    assert new is not None
    if new.power or new.mode == "mean":
        raise valuing.no("units that are the mean of others go through a layer")
    own = w.new is not None
    if new.mode == "zero" and b is not None and not own:
        return replace(new, mode="free", linear=False)
    return replace(new, linear=False)


def _place_bias(placing: Placing, out: Axis, b: Value | None) -> None:
    if b is not None:
        placing.meet(out, b.axes[0])
        placing.uses(b, 0, "shift_out")


def _only_parameters(placing: Placing, w: Value) -> None:
    if w.origin is None or None in w.origin.dims:
        placing.fix(w, f"the weight of {placing.where()} is computed")


def _no_weight(placing: Placing, x: Value) -> None:
    if x.origin is not None:
        placing.fix(x, f"a parameter is multiplied as a matrix in {placing.where()}")


def _two(placing: Placing, axis: Axis, groups: int) -> tuple[Axis, Axis]:
    if groups == 1:
        return Const(1), axis
    parts = split_product(axis, groups)
    if parts is None:
        fix(axis, f"it is not made of the groups of {placing.where()}")
        return Const(groups), Const(size_of(axis) // groups)
    return parts


def _padded(axes: Sequence[Axis], count: int) -> list[Axis]:
    return [*[Const(1)] * (count - len(axes)), *axes]


def _batch_axes(placing: Placing, first: Sequence[Axis], second: Sequence[Axis]) -> list[Axis]:
    count = max(len(first), len(second))
    found: list[Axis] = []
    for a, b in zip(_padded(first, count), _padded(second, count), strict=True):
        if size_of(a) == size_of(b):
            placing.meet(a, b)
        found.append(a if size_of(a) > 1 else b)
    return found


def _place_addmm(placing: Placing, b: Value, x: Value, y: Value, **kwargs: Any) -> Value:
    out = place_matmul(placing, x, y)
    if len(b.axes) == 1 and size_of(b.axes[0]) > 1:
        _place_bias(placing, out.axes[-1], b)
    else:
        for mine, its in zip(reversed(b.axes), reversed(out.axes), strict=False):
            if size_of(mine) == size_of(its):
                placing.meet(mine, its)
    return out


def _value_addmm(valuing: Valuing, b: Seen, x: Seen, y: Seen, **kwargs: Any) -> New | None:
    if y.origin is not None and len(y.value.axes) == 2:
        batch = range(len(x.value.axes) - 1)
        return _with_weight(valuing, x, y, b, read=[0], into=-1, batch=batch)
    if b.new is not None:
        raise valuing.no("units are added to a product of others")
    return value_matmul(valuing, x, y)


def _conv(placing: Placing, x: Value, w: Value, b: Any = None, *args: Any, **kwargs: Any) -> Value:
    groups = kwargs.get("groups", args[3] if len(args) > 3 else 1)
    return place_convolution(placing, x, w, b, groups)


def _conv_values(valuing: Valuing, x: Seen, w: Seen, b: Any = None, *args: Any, **kw: Any) -> Any:
    groups = kw.get("groups", args[3] if len(args) > 3 else 1)
    return value_convolution(valuing, x, w, b, groups)


def _transposed(
    placing: Placing, x: Value, w: Value, b: Any = None, *args: Any, **kw: Any
) -> Value:
    groups = kw.get("groups", args[3] if len(args) > 3 else 1)
    return place_convolution(placing, x, w, b, groups, transposed=True)


def _transposed_values(
    valuing: Valuing, x: Seen, w: Seen, b: Any = None, *args: Any, **kw: Any
) -> Any:
    groups = kw.get("groups", args[3] if len(args) > 3 else 1)
    return value_convolution(valuing, x, w, b, groups, transposed=True)


def _convolution(placing: Placing, x: Value, w: Value, b: Any, *args: Any) -> Value:
    return place_convolution(placing, x, w, b, args[5], transposed=args[3])


def _convolution_values(valuing: Valuing, x: Seen, w: Seen, b: Any, *args: Any) -> Any:
    return value_convolution(valuing, x, w, b, args[5], transposed=args[3])


add_rule("linear", place_linear, value_linear)
add_rule("matmul mm bmm", place_matmul, value_matmul)
add_rule("addmm baddbmm", _place_addmm, _value_addmm)
add_rule("conv1d conv2d conv3d", _conv, _conv_values)
add_rule("conv_transpose1d conv_transpose2d conv_transpose3d", _transposed, _transposed_values)
add_rule("convolution _convolution mkldnn_convolution", _convolution, _convolution_values)
