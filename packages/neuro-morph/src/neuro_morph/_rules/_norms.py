"""Normalisations: over each unit, or over all of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from neuro_morph._axes import Product, atoms_of, fix, resolve
from neuro_morph._placing import Placing, Value
from neuro_morph._rules._rule import add_rule
from neuro_morph._unify import split_product
from neuro_morph._valuing import AsksError, New, Seen, Valuing


def _by_channel(placing: Placing, x: Value, **given: Value | None) -> None:
    """Notes parameters and statistics that a normalisation has for each channel."""
    for kind, value in given.items():
        if value is not None:
            placing.meet(x.axes[1], value.axes[0])
            placing.uses(value, 0, kind)


def _with_statistics(placing: Placing, x: Value) -> list[Value]:
    """Returns what a normalisation gives: as many units as it gets, then means and deviations."""
    assert placing.call is not None
    shapes = [placing.program.shape(ref) if ref else None for ref in placing.call.outputs[1:]]
    return [Value(x.axes), *[Value(()) if s is None else placing.constant(s) for s in shapes]]


def place_batch_norm(
    placing: Placing, x: Value, w: Any, b: Any, mean: Any, var: Any, *args: Any
) -> list[Value]:
    _by_channel(placing, x, scale=w, shift=b, mean=mean, var=var)
    return _with_statistics(placing, x)


def value_batch_norm(
    valuing: Valuing, x: Seen, *args: Any, apart: Sequence[int] = (1,), **kwargs: Any
) -> list[New | None]:
    """Values of units that are normalised each by itself if they stand on the axes ``apart``.

    On others they are counted in training, whatever a run in evaluation mode shows.
    """
    assert valuing.call is not None
    assert x.new is not None
    counted = [d for d in valuing.dims(x.value) if d not in apart]
    if counted and not (x.new.mode == "copy" and valuing.equally and valuing.evenly(x, counted)):
        raise valuing.no("units are counted")
    if x.new.power or x.new.mode == "mean":
        raise valuing.no("units that are the mean of others are normalised each by itself")
    return [replace(x.new, linear=False)] + [None] * (len(valuing.call.outputs) - 1)


def place_layer_norm(
    placing: Placing, x: Value, shape: Any, w: Any = None, b: Any = None, *args: Any, **kwargs: Any
) -> list[Value]:
    for value, kind in ((w, "scale"), (b, "shift")):
        if value is not None:
            for k in range(len(shape)):
                placing.meet(x.axes[k - len(shape)], value.axes[k])
                placing.uses(value, k, kind)
    return _with_statistics(placing, x)


def value_layer_norm(
    valuing: Valuing,
    x: Seen,
    shape: Any,
    w: Any = None,
    b: Any = None,
    eps: Any = 1e-5,
    *args: Any,
    **kwargs: Any,
) -> list[New | None]:
    assert valuing.call is not None
    count = len(x.value.axes)
    dims = range(count - len(shape), count)
    over = [d for d in valuing.dims(x.value) if d in dims]
    new = _normalised(valuing, x, w, dims, eps, "mean") if over else _apart(valuing, x, b)
    return [new] + [None] * (len(valuing.call.outputs) - 1)


def place_rms_norm(
    placing: Placing, x: Value, shape: Any, w: Any = None, *args: Any, **kwargs: Any
) -> list[Value]:
    return place_layer_norm(placing, x, shape, w)


def value_rms_norm(
    valuing: Valuing, x: Seen, shape: Any, w: Any = None, eps: Any = None
) -> list[New | None]:
    assert valuing.call is not None
    count = len(x.value.axes)
    dims = range(count - len(shape), count)
    over = [d for d in valuing.dims(x.value) if d in dims]
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    new = _normalised(valuing, x, w, dims, eps, "zero") if over else _apart(valuing, x, None)
    return [new] + [None] * (len(valuing.call.outputs) - 1)


def place_group_norm(
    placing: Placing, x: Value, groups: int, w: Any = None, b: Any = None, *args: Any
) -> list[Value]:
    parts = split_product(x.axes[1], groups)
    if parts is None:
        fix(x.axes[1], f"it is not made of the groups of {placing.where()}")
    else:
        placing.number(parts[0], "num_groups")
    _by_channel(placing, x, scale=w, shift=b)
    return _with_statistics(placing, x)


def value_group_norm(
    valuing: Valuing,
    x: Seen,
    groups: int,
    w: Any = None,
    b: Any = None,
    eps: float = 1e-5,
    *args: Any,
) -> list[New | None]:
    assert valuing.call is not None
    assert x.new is not None
    rest = [None] * (len(valuing.call.outputs) - 1)
    parts = split_product(x.value.axes[1], groups)
    if parts is not None and valuing.has(parts[0]):  # whole groups
        if x.new.power or x.new.mode == "mean":
            raise valuing.no("units that are the mean of others are normalised by groups")
        return [replace(x.new, linear=False), *rest]
    even = parts is not None and valuing.evenly(x, [1])
    if x.new.mode == "copy" and valuing.equally and even:
        return [replace(x.new, linear=False), *rest]
    if groups == 1:
        return [_normalised(valuing, x, w, [1], eps, "mean"), *rest]
    raise valuing.no("units are counted")


def _normalised(
    valuing: Valuing, x: Seen, w: Any, dims: Sequence[int], eps: Any, wanted: str
) -> New:
    """Values after a normalisation over the units themselves.

    With ``wanted`` units the statistics change by a power of ``r`` alone; the weight and the
    epsilon take it up: LayerNorm with units that are the mean of the others, RMSNorm with zeros.
    """
    new = x.new
    assert new is not None
    if _masked(valuing, x):
        return New("free", linear=False)
    if new.before is not None:
        raise valuing.no("units that are not yet the mean of others are normalised")
    if not valuing.evenly(x, dims):
        raise valuing.no("units are counted with others that do not grow")
    if new.mode == "copy":
        if valuing.equally:
            return replace(new, linear=False)
        raise valuing.no("some units count twice")
    if new.mode == wanted and (wanted == "zero" or _is_whole(valuing, x)):
        if w is None:
            raise valuing.no("there is no weight to take up the factor of growth")
        valuing.multiply([w.origin.name], 0.5)
        if eps:
            valuing.attribute("eps", float(eps), 1.0)
        return New("zero", 0.0, linear=False)
    if new.mode == "free" and new.linear and new.sources:
        why = f"units are counted in {valuing.placing.where()}"
        raise AsksError(new.sources, wanted, why, new.scaled)
    raise valuing.no("units are counted")


def _masked(valuing: Valuing, x: Seen) -> bool:
    """Whether a module that can leave new units out does so."""
    assert valuing.call is not None
    path = valuing.call.path[-1] if valuing.call.path else ""
    dims = valuing.dims(x.value)
    if path not in valuing.maskable or len(dims) != 1 or x.new is None or x.new.power:
        return False
    valuing.needs.masked[path] = x.value.axes[dims[0]]
    return True


def _is_whole(valuing: Valuing, x: Seen) -> bool:
    """Whether all of the normalised axis grows with the atom, in one proportion."""
    axes = [resolve(x.value.axes[d]) for d in valuing.dims(x.value)]
    if len(axes) != 1 or sum(a is valuing.atom for a in atoms_of(axes[0])) != 1:
        return False
    return axes[0] is valuing.atom or isinstance(axes[0], Product)


def _apart(valuing: Valuing, x: Seen, b: Any) -> New:
    new = x.new
    assert new is not None
    if new.mode is None:
        raise valuing.no("a factor that growth brings in is normalised away")
    if new.mode == "mean":
        raise valuing.no("units that are the mean of others are normalised each by itself")
    return replace(
        new,
        mode="free" if new.mode == "zero" and b is not None else new.mode,
        power=0.0,
        linear=False,
    )


def _native_group_norm(
    placing: Placing, x: Value, w: Any, b: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> list[Value]:
    return place_group_norm(placing, x, groups, w, b)


def _native_group_norm_values(
    valuing: Valuing, x: Seen, w: Any, b: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> list[New | None]:
    return value_group_norm(valuing, x, groups, w, b, eps)


add_rule(
    "batch_norm native_batch_norm _native_batch_norm_legit cudnn_batch_norm "
    "_native_batch_norm_legit_no_training",
    place_batch_norm,
    value_batch_norm,
)
add_rule(
    "instance_norm",
    lambda placing, *args, **kwargs: place_batch_norm(placing, *args, **kwargs)[0],
    lambda valuing, x, *args, **kwargs: value_batch_norm(valuing, x, apart=(0, 1))[0],
)
add_rule("layer_norm native_layer_norm", place_layer_norm, value_layer_norm)
add_rule("rms_norm _fused_rms_norm", place_rms_norm, value_rms_norm)
add_rule("group_norm", place_group_norm, value_group_norm)
add_rule("native_group_norm", _native_group_norm, _native_group_norm_values)
