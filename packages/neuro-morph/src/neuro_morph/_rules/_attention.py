"""Scaled dot-product attention, and tables that are looked up."""

from typing import Any

from neuro_morph._axes import Axis, Const, fix, product_of, size_of
from neuro_morph._placing import Placing, Value
from neuro_morph._rules._products import dot
from neuro_morph._rules._rule import add_rule
from neuro_morph._valuing import New, Seen, Valuing


def place_attention(
    placing: Placing, q: Value, k: Value, v: Value, mask: Any = None, *args: Any, **kwargs: Any
) -> list[Value]:
    assert placing.call is not None
    placing.meet(q.axes[-1], k.axes[-1])
    placing.meet(k.axes[-2], v.axes[-2])
    for a, b in zip(k.axes[:-2], v.axes[:-2], strict=True):
        placing.meet(a, b)
    for a, b in zip(q.axes[:-2], k.axes[:-2], strict=True):
        _meet_heads(placing, a, b)
    if isinstance(mask, Value):
        for m, axis in zip(
            reversed(mask.axes), (k.axes[-2], q.axes[-2], *reversed(q.axes[:-2])), strict=False
        ):
            if size_of(m) == size_of(axis):
                placing.meet(m, axis)
    out = Value((*q.axes[:-1], v.axes[-1]))
    return [
        out,
        *[
            placing.constant(placing.program.shape(r)) if r else Value(())
            for r in placing.call.outputs[1:]
        ],
    ]


def _meet_heads(placing: Placing, queries: Axis, keys: Axis) -> None:
    """Query heads are the key heads, or several for each of them."""
    many, few = size_of(queries), size_of(keys)
    if many != few and few > 1:
        keys = product_of([keys, Const(many // few)])
    if size_of(keys) == many:
        placing.meet(queries, keys)


def value_attention(
    valuing: Valuing,
    q: Seen,
    k: Seen,
    v: Seen,
    mask: Any = None,
    *args: Any,
    scale: float | None = None,
    **kwargs: Any,
) -> list[New | None]:
    assert valuing.call is not None
    rest: list[New | None] = [None] * (len(valuing.call.outputs) - 1)
    last = len(q.value.axes) - 1
    if last in valuing.dims(q.value):
        _scores(valuing, q, k, scale)
    out = valuing.out()
    if not valuing.dims(out):
        return [None, *rest]
    new = v.new if last in valuing.dims(v.value) else _heads(valuing, q, k, v)
    return [new, *rest]


def _scores(valuing: Valuing, q: Seen, k: Seen, scale: float | None) -> None:
    """The scores stay what they were: no new products, and the scale that goes by size undone."""
    left = dot(valuing, q, k)
    power = (left.power if left else 0.0) + (0.5 if scale is None else 0.0)
    if power:
        assert q.new is not None
        shared = q.new.sources & (k.new.sources if k.new else frozenset())
        if not q.new.sources or shared or not q.new.linear:
            raise valuing.no("the scale of attention changes and no layer can undo it")
        valuing.multiply(q.new.sources, -power)


def _heads(valuing: Valuing, q: Seen, k: Seen, v: Seen) -> New:
    news = [each.new for each in (q, k, v) if each.new is not None]
    modes = {new.mode for new in news}
    if modes == {"copy"}:
        return New("copy", linear=False)
    if "copy" in modes or "mean" in modes:
        raise valuing.no("new heads are made in different ways")
    return New("zero" if v.new is not None and v.new.mode == "zero" else "free", linear=False)


def place_embedding(
    placing: Placing, table: Value, index: Value, *args: Any, **kwargs: Any
) -> Value:
    fix(table.axes[0], f"it is looked up in {placing.where()}")
    placing.uses(table, 1, "out")
    return Value((*index.axes, table.axes[1]))


def value_embedding(valuing: Valuing, table: Seen, *args: Any, **kwargs: Any) -> New | None:
    return table.new


def place_index(placing: Placing, x: Value, indices: list[Any]) -> Value:
    """Places ``x[:, idx]``: what is indexed is fixed, what is not is kept."""
    own = [d for d, index in enumerate(indices) if index is not None]
    for d in own:
        fix(x.axes[d], f"it is indexed in {placing.where()}")
    for d in set(range(len(x.axes))) - set(own):
        placing.uses(x, d, "out")  # a table: its rows are picked, its columns are units
    kept = [axis for d, axis in enumerate(x.axes) if d not in own]
    shape = placing.shape()
    width = len(shape) - len(kept)
    adjacent = own == list(range(own[0], own[0] + len(own)))
    at = own[0] if adjacent else 0
    axes = [*kept[:at], *[Const(n) for n in shape[at : at + width]], *kept[at:]]
    return Value(tuple(axes))


def place_index_select(placing: Placing, x: Value, dim: int, index: Value) -> Value:
    fix(x.axes[dim], f"it is indexed in {placing.where()}")
    axes = list(x.axes)
    axes[dim] = Const(placing.shape()[dim])
    return Value(tuple(axes))


def _same_units(valuing: Valuing, x: Seen, *args: Any, **kwargs: Any) -> New | None:
    return x.new


def _place_flash(
    placing: Placing, q: Value, k: Value, v: Value, *args: Any, attn_mask: Any = None, **kwargs: Any
) -> list[Value]:
    return place_attention(placing, q, k, v, attn_mask)


def _value_flash(
    valuing: Valuing, q: Seen, k: Seen, v: Seen, *args: Any, scale: Any = None, **kwargs: Any
) -> list[New | None]:
    return value_attention(valuing, q, k, v, scale=scale)


add_rule("scaled_dot_product_attention", place_attention, value_attention)
add_rule("_scaled_dot_product_attention_math", place_attention, value_attention)
add_rule("_scaled_dot_product_flash_attention_for_cpu", _place_flash, _value_flash)
add_rule("embedding", place_embedding, value_embedding)
add_rule("index", place_index, _same_units)
add_rule("index_select", place_index_select, _same_units)
