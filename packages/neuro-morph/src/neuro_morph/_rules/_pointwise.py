"""Operations on every number by itself, or on numbers that stand at one place."""

from dataclasses import replace
from functools import partial
from typing import Any

from neuro_morph._axes import Atom, Axis, Const, size_of
from neuro_morph._placing import Placing, Value, renamed
from neuro_morph._rules._rule import add_rule
from neuro_morph._valuing import AsksError, New, Seen, Valuing, joined, seen_in


def placed(placing: Placing, *args: Any, kind: str = "scale", **kwargs: Any) -> Value:
    """Makes the axes of all tensors that go in one, as broadcasting does."""
    tensors = list(_values(args, kwargs))
    shape = placing.shape()
    axes = [_common(placing, tensors, d - len(shape), n) for d, n in enumerate(shape)]
    for tensor in tensors:
        for d, axis in enumerate(tensor.axes):
            if size_of(axis) > 1:
                placing.uses(tensor, d, kind)
    lead = tensors[0]
    same = len(tensors) == 1 and len(lead.axes) == len(axes)
    return renamed(lead, axes, range(len(axes))) if same else Value(tuple(axes))


def cast(placing: Placing, x: Value, *args: Any, **kwargs: Any) -> Value:
    """Places what changes no number but how it is stored: it is still a view of its parameter."""
    return x


def constant_like(placing: Placing, *args: Any, **kwargs: Any) -> list[Value]:
    """Places what is made anew: it does not grow."""
    assert placing.call is not None
    return [
        placing.constant(placing.program.shape(ref)) if ref is not None else Value(())
        for ref in placing.call.outputs
    ]


def filled(placing: Placing, *args: Any, **kwargs: Any) -> Value:
    """Places what is filled with one number: it may be made longer, if its size is known."""
    axes = tuple(Atom(n, "filled") if n > 1 else Const(n) for n in placing.shape())
    for axis in axes:
        placing.number(axis)
    return Value(axes)


def _common(placing: Placing, tensors: list[Value], dim: int, size: int) -> Axis:
    found = [t.axes[dim] for t in tensors if len(t.axes) >= -dim and size_of(t.axes[dim]) == size]
    if size == 1 or not found:
        return Const(size)
    for other in found[1:]:
        placing.meet(found[0], other)
    return found[0]


def _values(*given: Any) -> list[Value]:
    from torch.utils._pytree import tree_leaves

    leaves = tree_leaves(given, is_leaf=lambda x: isinstance(x, Value))
    return [leaf for leaf in leaves if isinstance(leaf, Value)]


def linear_map(valuing: Valuing, x: Seen, *args: Any, **kwargs: Any) -> New | None:
    """Values of what multiplies every number alike, or leaves it as it is."""
    return x.new


def bent(valuing: Valuing, x: Seen) -> New | None:
    """Values of a function that is zero at zero, with numbers of its own for each unit."""
    return function(valuing, x) if x.new is not None else None


def function(
    valuing: Valuing, *args: Any, at_zero: bool = True, total: bool = True, **kwargs: Any
) -> New:
    """Values of a function of one number, or of several that stand at one place."""
    tensors = [s for s in seen_in(args, kwargs) if s.new is not None]
    new = tensors[0].new
    assert new is not None
    for other in tensors[1:]:
        assert other.new is not None
        new = joined(valuing, new, other.new)
    if new.power or new.mode is None:
        raise valuing.no("a factor that growth brings in is bent")
    if new.mode == "mean":
        raise valuing.no("units that are the mean of others are bent")
    if new.mode == "free" and not total:
        raise valuing.no("a function that is not defined everywhere takes new units")
    if new.mode == "zero" and not (at_zero and len(tensors) == len(seen_in(args, kwargs))):
        return replace(new, mode="free", linear=False)
    return replace(new, linear=False, sources=new.sources if at_zero else frozenset())


def added(valuing: Valuing, x: Any, y: Any, *args: Any, **kwargs: Any) -> New:
    """Values of sums and differences."""
    mine, its = _new(x), _new(y)
    if mine is not None and its is not None:
        if (mine.mode is None) != (its.mode is None):
            raise valuing.no("a factor that growth brings in meets new units")
        return joined(valuing, mine, its)
    new, other = (mine, y) if mine is not None else (its, x)
    assert new is not None
    if new.power and not isinstance(other, Seen) and float(other) != 0.0:
        valuing.attribute("eps", float(other), new.power)
        return new
    if new.power:
        raise valuing.no("a factor that growth brings in is added to")
    return replace(new, mode="free", linear=False) if new.mode == "zero" else new


def multiplied(valuing: Valuing, x: Any, y: Any, *args: Any, **kwargs: Any) -> New:
    """Values of products; a parameter takes up the power of ``r`` that has come so far."""
    mine, its = _new(x), _new(y)
    if mine is None or its is None:
        kept = mine or its
        assert kept is not None
        return kept
    if mine.mode is None or its.mode is None:
        kept = its if mine.mode is None else mine
        return replace(kept, power=mine.power + its.power)
    return _product(valuing, x, y, mine, its)


def _product(valuing: Valuing, x: Seen, y: Seen, mine: New, its: New) -> New:
    param, kept = (y, mine) if y.origin else (x, its) if x.origin else (None, mine)
    power = mine.power + its.power
    if power and param is not None and param.origin is not None:
        valuing.multiply([param.origin.name], -power)
        power = 0.0
    modes = {mine.mode, its.mode}
    if param is not None and param.origin is not None and not power:
        scaled = _scaled(param.origin.name, kept)
        if scaled is not None:
            return scaled
    mode = modes.pop() if len(modes) == 1 else "zero" if "zero" in modes else None
    if mode is None or ("mean" in (mine.mode, its.mode) and mode != "zero"):
        raise valuing.no(f"new units that are {mine.mode} and {its.mode} are multiplied")
    return New(mode, power, kept.sources, linear=False)


def _scaled(factor: str, new: New) -> New | None:
    """Values of units times a number for each: a layer scale, which keeps what is linear so."""
    if new.mode == "mean":
        return replace(new, before=None) if new.before == factor else None
    if new.mode != "free" or not new.linear or not new.sources or new.scaled:
        return None
    return replace(new, scaled=frozenset((source, factor) for source in new.sources))


def divided(valuing: Valuing, x: Any, y: Any, *args: Any, **kwargs: Any) -> New:
    """Values of quotients: by a new unit only where it is a copy."""
    mine, its = _new(x), _new(y)
    if its is None:
        assert mine is not None
        return mine
    if its.mode is None:
        return replace(mine or New(None), power=(mine.power if mine else 0.0) - its.power)
    if its.mode != "copy":
        raise valuing.no("it is divided by new units")
    return its if mine is None else joined(valuing, mine, its)


def raised(valuing: Valuing, x: Any, exponent: Any) -> New:
    """Values of powers."""
    new = _new(x)
    if new is None or isinstance(exponent, Seen):
        return function(valuing, x, exponent, total=False)
    k = float(exponent)
    if new.mode is None:
        return replace(new, power=new.power * k)
    if new.mode == "mean":
        if new.linear and new.sources:
            raise AsksError(new.sources, "zero", f"a power is taken in {valuing.placing.where()}")
        raise valuing.no("a power of units that are the mean of others is taken")
    if new.mode != "copy" and (k < 0 or k != int(k)):
        raise valuing.no(f"new units are raised to {k:g}")
    return replace(new, power=new.power * k, linear=False)


def _new(given: Any) -> New | None:
    return given.new if isinstance(given, Seen) else None


_ZERO_AT_ZERO = (
    "relu relu6 gelu silu hardswish mish tanh hardtanh leaky_relu elu selu celu sin asin atan abs "
    "sign floor ceil round trunc erf softsign hardshrink softshrink square logical_and "
    "threshold tanhshrink expm1"
)
_NOT_ZERO_AT_ZERO = (
    "sigmoid hardsigmoid exp softplus cos cosh log_sigmoid eq ne lt le gt ge logical_not "
    "logical_or bitwise_and bitwise_or bitwise_not isnan isinf isfinite clamp clamp_min clamp_max "
    "clip maximum minimum where masked_fill lerp addcmul addcdiv rsub nan_to_num __and__ __or__"
)
_PARTIAL = "log log1p log2 log10 sqrt acos reciprocal atan2 fmod remainder floor_divide"


def prelu(placing: Placing, x: Value, slope: Value) -> Value:
    """Places PReLU: a slope for each channel, or one for all."""
    if len(slope.axes) == 1 and len(x.axes) > 1 and size_of(slope.axes[0]) > 1:
        placing.meet(x.axes[1], slope.axes[0])
        placing.uses(slope, 0, "scale")
        return Value(x.axes)
    return placed(placing, x, slope)


add_rule(_ZERO_AT_ZERO, placed, function)
add_rule("prelu _prelu_kernel", prelu, lambda v, x, slope: bent(v, x))
add_rule(_NOT_ZERO_AT_ZERO, placed, partial(function, at_zero=False))
add_rule(_PARTIAL, placed, partial(function, at_zero=False, total=False))
add_rule(
    "contiguous clone detach alias to _to_copy type_as dropout feature_dropout alpha_dropout float "
    "half bfloat16 double positive lift_fresh_copy lift_fresh copy _assert_tensor_metadata",
    cast,
    linear_map,
)
add_rule("neg", placed, linear_map)
add_rule("native_dropout", lambda placing, x, *a, **k: [x, x], lambda v, x, *a, **k: [x.new, None])
add_rule("add sub __add__ add_relu", partial(placed, kind="shift"), added)
add_rule("mul", placed, multiplied)
add_rule("div true_divide", placed, divided)
add_rule("pow", placed, raised)
add_rule("rsqrt", placed, lambda v, x: raised(v, x, -0.5))
add_rule("sqrt", placed, lambda v, x: raised(v, x, 0.5))
add_rule("zeros ones full new_zeros new_ones new_full", filled, lambda v, *a, **k: None)
add_rule(
    "empty arange scalar_tensor zeros_like ones_like full_like empty_like "
    "new_empty rand randn rand_like randn_like bernoulli tril_indices linspace eye",
    constant_like,
    lambda v, *a, **k: None,
)
