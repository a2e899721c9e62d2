"""Shapes of samples along a graph: every node fits what it hears."""

import math
from typing import Any

import numpy as np

from spike_ops.nir._errors import NirError
from spike_ops.nir._graph import Plan, kind_of

Shape = tuple[int, ...]
# the field of an elementwise node that has its shape
SHAPED = {
    "Scale": "scale", "Threshold": "threshold", "Delay": "delay", "I": "r", "LI": "r", "IF": "r",
    "LIF": "r", "CubaLI": "r", "CubaLIF": "r",
}  # fmt: skip


def shapes_of(plan: Plan) -> dict[str, Shape]:
    """Return the shape of what every node gives, one sample without time and batch.

    Raises:
        NirError: A node does not fit what it hears.
    """
    found: dict[str, Shape] = {}
    for name, node in plan.nodes.items():
        if (own := _own(name, node)) is not None:
            found[name] = own
    waiting = [name for name in plan.nodes if name not in found]
    while waiting:
        ready = [name for name in waiting if any(each in found for each in plan.before(name))]
        if not ready:
            raise NirError(waiting[0], "the shapes of a graph must follow from its Input nodes")
        for name in ready:
            heard = next(each for each in plan.before(name) if each in found)
            found[name] = shape_after(name, plan.nodes[name], found[heard])
        waiting = [name for name in waiting if name not in found]
    for a, b in plan.edges:
        if (after := shape_after(b, plan.nodes[b], found[a])) != found[b]:
            raise NirError(b, f"what a node hears must have one shape; {a} makes it {after}")
    return found


def _own(name: str, node: Any) -> Shape | None:
    """Return the shape that a node has whatever it hears, if it has one."""
    kind = kind_of(node)
    if kind == "Input":
        return _told(name, node.input_type.get("input"))
    if kind in {"Affine", "Linear"}:
        return (_weight(name, node, 2)[0],)
    if kind in SHAPED:
        value = getattr(node, SHAPED[kind])
        return tuple(np.shape(value)) if np.size(value) > 1 else None
    return None


def _told(name: str, told: Any) -> Shape:
    try:
        shape = tuple(int(size) for size in np.atleast_1d(np.asarray(told)))
    except (TypeError, ValueError):
        shape = ()
    if not shape or any(size < 1 for size in shape) or math.prod(shape) >> 48:
        raise NirError(name, f"the shape of an Input must be sizes from 1, got {told!r}")
    return shape


def shape_after(name: str, node: Any, heard: Shape) -> Shape:
    """Return the shape of what a node gives for the shape of what it hears."""
    kind = kind_of(node)
    if kind in {"Affine", "Linear"}:
        out, into = _weight(name, node, 2)
        _need(name, heard == (into,), f"a weight [{out}, {into}] needs inputs ({into},)", heard)
        return (out,)
    if kind in {"Conv1d", "Conv2d"}:
        return _convolved(name, node, heard, int(kind[4]))
    if kind in {"SumPool2d", "AvgPool2d"}:
        _need(name, len(heard) == 3, "a pool needs inputs (C, H, W)", heard)
        kernel, padding, stride = (
            numbers(name, node, part, 2) for part in ("kernel_size", "padding", "stride")
        )
        return heard[0], *_windowed(name, heard[1:], kernel, padding, stride, (1, 1))
    if kind == "Flatten":
        return _flattened(name, node, heard)
    if kind in SHAPED:
        own = np.shape(getattr(node, SHAPED[kind]))
        fits = math.prod(own) == 1 or own == heard
        _need(name, fits, f"constants of shape {own} need inputs of it", heard)
    return heard


def _need(name: str, fits: bool, rule: str, heard: Shape) -> None:
    if not fits:
        raise NirError(name, f"{rule}, got {heard}")


def _weight(name: str, node: Any, axes: int) -> Shape:
    shape = np.shape(node.weight)
    if len(shape) != axes or 0 in shape:
        raise NirError(name, f"a weight must have {axes} axes and be not empty, got {shape}")
    return tuple(shape)


def numbers(name: str, node: Any, field: str, count: int) -> Shape:
    """Return a field as so many whole numbers; one is taken for all."""
    given = np.atleast_1d(np.asarray(getattr(node, field)))
    if given.dtype.kind not in "iuf" or given.size not in {1, count} or (given % 1 != 0).any():
        rule = f"{field} must be {count} whole numbers, got {getattr(node, field)!r}"
        raise NirError(name, rule)
    return tuple(int(each) for each in np.broadcast_to(given, (count,)))


def _convolved(name: str, node: Any, heard: Shape, axes: int) -> Shape:
    weight, (groups,) = _weight(name, node, axes + 2), numbers(name, node, "groups", 1)
    into = weight[1] * groups
    fits = len(heard) == axes + 1 and heard[0] == into and groups >= 1 and weight[0] % groups == 0
    _need(name, fits, f"a weight {weight} of {groups} groups needs {into} channels", heard)
    dilation, stride = (numbers(name, node, each, axes) for each in ("dilation", "stride"))
    if np.asarray(node.padding).dtype.kind in "US":
        told = str(node.padding)
        if (told == "same" and set(stride) != {1}) or told not in {"same", "valid"}:
            raise NirError(name, f"padding must be numbers, 'valid', or 'same' at stride 1: {told}")
        if told == "same":
            return weight[0], *heard[1:]
        padding: Shape = (0,) * axes
    else:
        padding = numbers(name, node, "padding", axes)
    return weight[0], *_windowed(name, heard[1:], weight[2:], padding, stride, dilation)


def _windowed(
    name: str, sizes: Shape, kernel: Shape, padding: Shape, stride: Shape, dilation: Shape
) -> Shape:
    if min(*kernel, *stride, *dilation) < 1 or min(padding) < 0:
        rule = f"kernel {kernel}, stride {stride}, dilation {dilation} must be from 1, padding from"
        raise NirError(name, f"{rule} 0, got {padding}")
    each = zip(sizes, kernel, padding, stride, dilation, strict=True)
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in each)
    _need(name, min(out) >= 1, f"a kernel {kernel} must fit into its inputs", sizes)
    return out


def _flattened(name: str, node: Any, heard: Shape) -> Shape:
    axes = len(heard)
    (start,), (end,) = numbers(name, node, "start_dim", 1), numbers(name, node, "end_dim", 1)
    start, end = (each + axes if each < 0 else each for each in (start, end))
    rule = f"start_dim and end_dim must be axes of a sample in order, got {start} and {end}, for"
    _need(name, 0 <= start <= end < axes, rule, heard)
    return (*heard[:start], math.prod(heard[start : end + 1]), *heard[end + 1 :])
