"""Operations that sum an axis up by itself: means, maxima, softmax."""

from dataclasses import replace
from functools import partial
from typing import Any

from neuro_morph._axes import Axis, Const, fix, size_of
from neuro_morph._placing import Placing, Value
from neuro_morph._rules._pointwise import function, placed
from neuro_morph._rules._rule import add_rule
from neuro_morph._valuing import AsksError, New, Seen, Valuing


def reduced(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> list[Value]:
    """Places what drops axes, or keeps them with one entry."""
    assert placing.call is not None
    gone = _dims(x, args, kwargs)
    shape = placing.shape()
    kept = len(shape) == len(x.axes)
    axes: list[Axis] = []
    for d, axis in enumerate(x.axes):
        if d not in gone:
            axes.append(axis)
        elif kept:
            axes.append(Const(shape[d]))
    return [Value(tuple(axes)) for _ in placing.call.outputs]


def same(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> Value:
    return Value(x.axes)


def summed(valuing: Valuing, x: Seen, *args: Any, how: str, **kwargs: Any) -> list[New | None]:
    """Values of sums and means: what new units do to them depends on what they are."""
    assert valuing.call is not None
    new, gone = x.new, _dims(x.value, args, kwargs)
    assert new is not None
    if new.mode is None or not any(d in gone for d in valuing.dims(x.value)):
        bent = replace(new, linear=new.linear and how != "extreme")
        if how == "extreme" and new.mode == "mean":
            raise valuing.no("an extreme of units that are the mean of others is taken")
        return [bent] * len(valuing.call.outputs)
    found = _over_units(valuing, new, how)
    counted = found.power != new.power or (new.mode in ("mean", "copy") and how != "extreme")
    if counted and not valuing.evenly(x, sorted(gone)):
        raise valuing.no("units are counted with others that do not grow")
    return [found] * len(valuing.call.outputs)


def _over_units(valuing: Valuing, new: New, how: str) -> New:
    if new.before is not None:
        raise valuing.no("units that are not yet the mean of others are counted")
    whole = 0.0 if how == "mean" else -1.0  # the mean of units keeps, their sum grows
    if new.mode == "copy" and how == "extreme":
        return New(None, new.power)
    if (new.mode == "copy" and valuing.equally) or (new.mode == "mean" and how != "extreme"):
        return New(None, new.power + whole)
    if new.mode == "zero" and how != "extreme":
        return New(None, new.power + whole + 1.0)
    if new.mode == "free" and how != "extreme" and new.sources:
        raise AsksError(new.sources, "zero", f"units are counted in {valuing.placing.where()}")
    raise valuing.no("units are counted")


def softmax(valuing: Valuing, x: Seen, dim: int, *args: Any, **kwargs: Any) -> New:
    new = x.new
    assert new is not None
    if new.mode is None or new.power:
        raise valuing.no("a factor that growth brings in is bent")
    if x.value.dim(dim) in valuing.dims(x.value) or new.mode == "mean":
        raise valuing.no("units compete")
    return replace(new, mode="free" if new.mode == "zero" else new.mode, linear=False)


def pooled(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> list[Value]:
    """Places what changes the last axes only: pooling and resizing."""
    assert placing.call is not None
    results = []
    for k, ref in enumerate(placing.call.outputs):
        if ref is None:
            results.append(Value(()))
            continue
        axes: list[Axis] = []
        for axis, n in zip(x.axes, placing.shape(k), strict=True):
            if size_of(axis) != n:
                fix(axis, f"its positions are pooled in {placing.where()}")
            axes.append(axis if size_of(axis) == n else Const(n))
        results.append(Value(tuple(axes)))
    return results


def pooled_values(valuing: Valuing, x: Seen, *args: Any, extreme: bool, **kwargs: Any) -> list[Any]:
    assert valuing.call is not None
    assert x.new is not None
    if extreme and x.new.mode == "mean":
        raise valuing.no("an extreme of units that are the mean of others is taken")
    new = replace(x.new, linear=x.new.linear and not extreme)
    return [new] * len(valuing.call.outputs)


def _dims(x: Value, args: Any, kwargs: Any) -> set[int]:
    given = kwargs.get("dim", args[0] if args else None)
    if isinstance(given, bool) or given is None or given == []:
        return set(range(len(x.axes)))
    return {d % max(len(x.axes), 1) for d in ([given] if isinstance(given, int) else given)}


def _fixed_by_order(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> list[Value]:
    assert placing.call is not None
    placing.fix(x, f"the order of its entries matters in {placing.where()}")
    return [
        placing.constant(placing.program.shape(r)) if r else Value(()) for r in placing.call.outputs
    ]


def _norm(valuing: Valuing, x: Seen, *args: Any, **kwargs: Any) -> list[New | None]:
    rest = args[1:] if args else args
    squares = summed(valuing, x, *rest, how="sum", **kwargs)
    return [
        n and (replace(n, power=n.power / 2) if n.mode is None else replace(n, linear=False))
        for n in squares
    ]


def _norm_place(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> list[Value]:
    return reduced(placing, x, *args[1:], **kwargs)


def _extreme(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> Any:
    two = bool(args) and isinstance(args[0], Value)
    return placed(placing, x, args[0]) if two else reduced(placing, x, *args, **kwargs)


def _extreme_values(valuing: Valuing, x: Seen, *args: Any, **kwargs: Any) -> Any:
    if args and isinstance(args[0], Seen):
        return function(valuing, x, args[0], at_zero=False)
    return summed(valuing, x, *args, how="extreme", **kwargs)


add_rule("mean", reduced, partial(summed, how="mean"))
add_rule("sum nansum", reduced, partial(summed, how="sum"))
add_rule("amax amin any all", reduced, partial(summed, how="extreme"))
add_rule("max min", _extreme, _extreme_values)
add_rule("linalg_vector_norm norm", _norm_place, _norm)
add_rule("softmax _softmax log_softmax _log_softmax _safe_softmax", same, softmax)
add_rule(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest2d upsample_bilinear2d "
    "upsample_bicubic2d upsample_nearest1d _upsample_bilinear2d_aa",
    pooled,
    partial(pooled_values, extreme=False),
)
add_rule(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool1d_with_indices "
    "max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool1d",
    pooled,
    partial(pooled_values, extreme=True),
)
add_rule("argmax argmin topk sort argsort cummax", _fixed_by_order, lambda v, *a, **k: None)
