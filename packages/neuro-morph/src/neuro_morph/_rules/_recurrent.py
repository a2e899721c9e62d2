"""Recurrent layers: units that their own gates read a step later."""

from collections.abc import Sequence
from dataclasses import replace

from neuro_morph._axes import Axis, Const, product_of, sum_of
from neuro_morph._placing import Placing, Value
from neuro_morph._record_recurrent import OP
from neuro_morph._rules._rule import add_rule
from neuro_morph._valuing import New, Seen, Valuing


def place_recurrent(
    placing: Placing,
    x: Value,
    states: Sequence[Value],
    weights: Sequence[Sequence[Value]],
    *,
    gates: int,
    both: bool,
) -> list[Value]:
    """Places layers ``W_ih [gates x H, I]``, ``W_hh [gates x H, H]``: all have one ``H``."""
    units, read = weights[0][1].axes[1], x.axes[-1]
    for k, (w, u, *biases) in enumerate(weights):
        placing.meet(read, w.axes[1])
        placing.meet(units, u.axes[1])
        for each in (w, u):
            placing.uses(each, 1, "in")
            placing.uses(each, 0, "out")
            placing.meet(each.axes[0], product_of([Const(gates), units]))
        for bias in biases:
            placing.meet(bias.axes[0], product_of([Const(gates), units]))
            placing.uses(bias, 0, "shift_out")
        if not both or k % 2:
            read = sum_of([units, units]) if both else units
    for state in states:
        placing.meet(state.axes[-1], units)
    return _outputs(placing, x, read, units)


def _outputs(placing: Placing, x: Value, made: Axis, units: Axis) -> list[Value]:
    assert placing.call is not None
    refs = [ref for ref in placing.call.outputs if ref is not None]
    lead = [[Const(n) for n in placing.program.shape(ref)[:-1]] for ref in refs[1:]]
    return [Value((*x.axes[:-1], made)), *(Value((*each, units)) for each in lead)]


def value_recurrent(
    valuing: Valuing,
    x: Seen,
    states: Sequence[Seen],
    weights: Sequence[Sequence[Seen]],
    *,
    gates: int,
    both: bool,
) -> list[New | None]:
    """Values new units: copies of units, zeros (gates of zeros keep a zero), or anything."""
    assert valuing.call is not None
    if x.new is not None and (
        x.new.mode is None or len(x.value.axes) - 1 not in valuing.dims(x.value)
    ):
        raise valuing.no("what grows are no features of a recurrent layer")
    new = _made(valuing, states, weights) if valuing.has(weights[0][1].value.axes[1]) else None
    for k, (w, u, *_) in enumerate(weights):
        _read(valuing, w, x.new if k < 1 + both else new)
        _read(valuing, u, new)
    return [new] * len(valuing.call.outputs)


def _made(valuing: Valuing, states: Sequence[Seen], weights: Sequence[Sequence[Seen]]) -> New:
    names = [each.origin.name for layer in weights for each in layer if each.origin is not None]
    new = replace(valuing.new(*names), linear=False)
    before = {state.new.mode for state in states if state.new is not None}
    if new.mode == "mean" or "mean" in before or any(s.new.power for s in states if s.new):
        raise valuing.no("units that are the mean of others are gated")
    if before and (new.mode == "copy") != (before == {"copy"}):
        raise valuing.no("copies begin with states that are no copies")
    return replace(new, mode="free") if new.mode == "zero" and before - {"zero"} else new


def _read(valuing: Valuing, weight: Seen, new: New | None) -> None:
    if valuing.has(weight.value.axes[1]):
        assert weight.origin is not None
        assert weight.origin.dims[1] is not None
        assert new is not None
        valuing.needs.columns[weight.origin.name, weight.origin.dims[1]] = new


add_rule(OP, place_recurrent, value_recurrent)
