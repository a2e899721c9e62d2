"""From an elementwise function of one step to lines of C, one for each operation.

The function is traced by torch on two numbers of each argument.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from spike_ops.neuron._c_ops import ROWS, number

Function = Callable[..., Sequence[Tensor]]


class NotInC(ValueError):  # noqa: N818 - says what is the case, as KeyError does
    """An operation that has no row: the step cannot be written in C."""


@dataclass(frozen=True)
class Body:
    """The lines of C of one step and the expressions of its results."""

    lines: list[str]
    results: list[str]


def body(function: Function, arguments: dict[str, Tensor], numbers: list[float]) -> Body:
    """Return one step in C: `arguments` are examples [2] by the names that C knows them under.

    Numbers are entered in `numbers` and stand as `q0`, `q1`, ... in the lines, so that the C of
    neurons that differ in settings alone is the same.

    Raises:
        NotInC: The function does something else than known elementwise operations.
    """
    graph = _traced(function, list(arguments.values()))
    known: dict[fx.Node, str] = {}
    names, lines = iter(arguments), []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            known[node] = next(names)
        elif node.op == "get_attr":
            known[node] = _number(_constant(graph, node.target), numbers)
        elif node.op == "call_function":
            known[node] = f"t{len(known)}"
            value = _expression(node, known, numbers)
            lines.append(f"const {_c_type(node)} {known[node]} = {value};")
    (told,) = next(node for node in graph.graph.nodes if node.op == "output").args
    return Body(lines, [_operand(each, known, numbers) for each in told])


def _traced(function: Function, arguments: list[Tensor]) -> fx.GraphModule:
    graph = make_fx(function, tracing_mode="real")(*arguments)
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    if any(getattr(each, "_schema", None) and each._schema.is_mutable for each in called):
        # what autograd writes in place becomes values of their own; only plain operations are left
        plain = [each.detach().clone() for each in arguments]
        graph = make_fx(functionalize(graph), tracing_mode="real")(*plain)
    return graph


def _c_type(node: fx.Node) -> str:
    return "int" if node.meta["val"].dtype == torch.bool else "real"


def _constant(graph: fx.GraphModule, name: str) -> float:
    value = getattr(graph, name)
    if value.numel() != 1:
        raise NotInC(f"a constant of shape {tuple(value.shape)} inside a step")
    return float(value)


def _expression(node: fx.Node, known: dict[fx.Node, str], numbers: list[float]) -> str:
    aten = torch.ops.aten
    operands = [_operand(each, known, numbers) for each in node.args]
    if node.target in {aten._to_copy.default, aten.to.dtype}:
        boolean = node.meta["val"].dtype == torch.bool
        return f"({operands[0]} != 0)" if boolean else f"R({operands[0]})"
    row = ROWS.get(node.target)
    if row is None:
        raise NotInC(f"{node.target} has no elementwise form here")
    renamed = {"min": "low", "max": "high", "alpha": "alpha"}
    given = {renamed[name]: value for name, value in node.kwargs.items() if name in renamed}
    return row(*operands, **{k: _operand(each, known, numbers) for k, each in given.items()})


def _operand(value: Any, known: dict[fx.Node, str], numbers: list[float]) -> str:
    if isinstance(value, fx.Node):
        return known[value]
    if isinstance(value, bool | int | float):
        return _number(float(value), numbers)
    return ""


def _number(value: float, numbers: list[float]) -> str:
    if value in {0.0, 1.0, 2.0, 3.0} or not math.isfinite(value):
        return number(value)
    if value not in numbers:
        numbers.append(value)
    return f"q{numbers.index(value)}"
