"""Networks gone through, layer by layer, on their way to graphs."""

import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from spike_ops._tracing import Tracer
from spike_ops.neuron import Neuron
from spike_ops.nir._errors import NirError
from spike_ops.nir._layer_pieces import flatten, out_shape
from spike_ops.nir._layers import Fire, Scale
from spike_ops.nir._library import graph_of, library
from spike_ops.nir._network import NirNetwork
from spike_ops.nir._pieces import piece
from spike_ops.nir._sample import PASSED
from spike_ops.nir._writing import Piece, Shape, Writing
from spike_ops.nn._stepwise import Stepwise

ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}


def of_network(net: NirNetwork, writing: Writing) -> Any:
    """Return the graph of a network that came from one."""
    nir, whole = library(), Piece({}, "", "")
    ends: dict[str, tuple[str, str]] = {}
    heard = {b: a for a, b in reversed(net.edges)}
    for name, kind in net.kinds.items():
        if kind in {"Input", "Output"}:
            size = np.array(net.shapes[name])
            node = nir.Input({"input": size}) if kind == "Input" else nir.Output({"output": size})
            each = Piece({name: node}, name, name)
        else:
            each = piece(name, net.layer(name), net.shapes[heard[name]], writing)
        whole.nodes |= each.nodes
        whole.edges += each.edges
        ends[name] = each.enter, each.leave
    edges = [*whole.edges, *((ends[a][1], ends[b][0]) for a, b in net.edges)]
    return graph_of(whole.nodes, edges)


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, NirNetwork | Stepwise | Fire | Scale | nn.Linear):
            return True
        return super().is_leaf_module(m, module_qualified_name) or not list(m.children())


class Exporter:
    """Goes through the trace of a network; every value is where it comes from, and its shape."""

    def __init__(self, net: nn.Module, shape: Shape, writing: Writing) -> None:
        self.net, self.shape, self.writing = net, shape, writing
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.values: dict[fx.Node, tuple[list[str], Shape]] = {}

    def graph(self) -> Any:
        """Return the graph of the network."""
        nir, given = library(), 0
        if isinstance(self.net, Neuron | Stepwise | Fire | Scale | nn.Linear) or (
            not list(self.net.children())
        ):
            self.net = nn.ModuleDict({"net": self.net})
            self.nodes["input"] = nir.Input({"input": np.array(self.shape)})
            self._leave(self._module("net", self.net["net"], (["input"], self.shape)))
            return graph_of(self.nodes, self.edges)
        try:
            trace = _Tracer().trace(self.net)
        except Exception as error:  # whatever a forward does that cannot be traced
            rule = f"forward must be traceable by torch.fx: {error}"
            raise NirError(type(self.net).__name__, rule) from error
        for node in trace.nodes:
            if node.op == "placeholder":
                given += 1
                if given > 1:
                    raise NirError(node.name, "a network must take one input")
                self.nodes["input"] = nir.Input({"input": np.array(self.shape)})
                self.values[node] = ["input"], self.shape
            elif node.op == "output":
                self._leave(self._value(node, node.args[0]))
            else:
                self.values[node] = self._entered(node)
        return graph_of(self.nodes, self.edges)

    def _entered(self, node: fx.Node) -> tuple[list[str], Shape]:
        if node.op == "call_module":
            name = str(node.target)
            module = self.net.get_submodule(name)
            source = self._value(node, node.args[0])
            return self._module(self._free(name.replace("/", "_")), module, source)
        if node.target in ADDS and not node.kwargs:
            (first, shape), (second, other) = (self._value(node, each) for each in node.args)
            if shape != other:
                raise NirError(node.name, f"a sum must be of one shape, got {shape} and {other}")
            if set(first) & set(second):
                raise NirError(node.name, "a sum must not have a value twice")
            return first + second, shape
        if node.target in {"flatten", torch.flatten}:
            names, shape = self._value(node, node.args[0])
            dims: list[Any] = [*node.args[1:], *node.kwargs.values()]
            start, end = dims if len(dims) == 2 else (dims[0] if dims else 0, -1)
            made = flatten(node.name, start, end, shape, leading=2)
            size = tuple(int(each) for each in made.nodes[node.name].output_type["output"])
            return self._enter(made, names), size
        told = getattr(node.target, "__name__", node.target)
        raise NirError(node.name, f"NIR has no node for the operation {told!r}")

    def _module(
        self, name: str, module: nn.Module, source: tuple[list[str], Shape]
    ) -> tuple[list[str], Shape]:
        names, shape = source
        if isinstance(module, PASSED):
            return source
        if isinstance(module, NirNetwork):
            inner = Piece({name: of_network(module, self.writing)}, name, name)
            return self._enter(inner, names), module.shapes[module.outputs[0]]
        made = piece(name, module, shape, self.writing)
        return self._enter(made, names), out_shape(name, module, shape)

    def _enter(self, made: Piece, sources: list[str]) -> list[str]:
        self.nodes |= made.nodes
        self.edges += [(each, made.enter) for each in sources] + made.edges
        return [made.leave]

    def _leave(self, value: tuple[list[str], Shape]) -> None:
        sources, shape = value
        self.nodes["output"] = library().Output({"output": np.array(shape)})
        self.edges += [(each, "output") for each in sources]

    def _free(self, name: str) -> str:
        name = f"{name}_" if name in {"input", "output"} else name
        count = 1
        free = name
        while free in self.nodes:
            count += 1
            free = f"{name}_{count}"
        return free

    def _value(self, node: fx.Node, given: Any) -> tuple[list[str], Shape]:
        if isinstance(given, fx.Node) and given in self.values:
            return self.values[given]
        raise NirError(node.name, f"the network must pass tensors on one by one, got {given!r}")
