"""Networks as graphs."""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from spike_ops.neuron import Neuron
from spike_ops.nir._errors import NirError
from spike_ops.nir._folding import without_resistance
from spike_ops.nir._layer_pieces import flatten, out_shape
from spike_ops.nir._layers import Fire, Scale, Stepwise
from spike_ops.nir._library import graph_of, library
from spike_ops.nir._network import NirNetwork
from spike_ops.nir._pieces import piece
from spike_ops.nir._writing import Piece, Shape, SoftReset, Ties, Writing

ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
PASSED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def to_nir(
    net: nn.Module,
    input_shape: Shape | None = None,
    *,
    dt: float,
    soft_reset: SoftReset = "subgraph",
    ties: Ties = "exact",
    fold_r: bool = False,
) -> Any:
    """Return a network as a graph of NIR: `nir.NIRGraph`, which `write` puts into a file.

    The network may be any module whose `forward` torch.fx can trace: layers and neurons one after
    the other, sums of branches. NIR is in continuous time, fires above the threshold only and has
    no soft reset, so three things are spelt out:

    * a decay β becomes τ = dt / (1 - β), a gain g becomes r = g τ / dt: a reader that takes Euler
      steps of `dt` computes what the network does, one with other steps an approximation of it;
    * neurons that fire at θ itself get the next smaller number of the network's type as threshold;
    * a soft reset becomes a graph of a membrane, a threshold and a feedback, which any reader can
      run and `from_nir` finds again.

    A batch norm (in `Stepwise`, or one over time) is exported by its running statistics, whether
    the network trains or not. Neurons with a refractory period and a hard reset, and those with an
    adaptive threshold and no reset, become circles of nodes, which come back as such: to rest they
    are driven by a current of 2^14 thresholds, which theirs must stay above by its negative.

    Args:
        net: The network, [T, B, ...] in and out; torch's layers for batches stand in `Stepwise`.
        input_shape: Shape of one sample without time and batch; None takes the first layer's
            features, if that is linear.
        dt: Length of a step, in seconds.
        soft_reset: `"subgraph"` as above; `"metadata"`: as a node of NIR with a reset to 0, whose
            metadata say what it is, for readers that know NIR's own neurons only: `from_nir` finds
            the soft reset again, any other reader runs another network until it is told, so it
            warns; `"hard"`: the same without metadata; or `"error"`.
        ties: For neurons that fire at θ itself: `"exact"` as above; `"keep"`: θ itself, with a
            warning; or `"error"`.
        fold_r: Multiply the resistances into the weights before, so that r = 1 everywhere, for
            readers that take no notice of r. Products are rounded.

    Raises:
        NirError: NIR has no nodes for a part of the network; it names the part and why.
        ValueError: An argument is outside its range, or the shape cannot be told.
        ImportError: nir is not installed (`pip install 'spike-ops[nir]'`).

    Source: J. E. Pedersen et al., "Neuromorphic intermediate representation", Nature Communications
    2024, table 1.

    Example:
        >>> from spike_ops.neuron import LIF
        >>> graph = to_nir(nn.Sequential(nn.Linear(4, 2), LIF(tau=2.0)), dt=1e-3)
        >>> graph.edges
        [('input', '0'), ('0', '1'), ('1', 'output')]
        >>> graph.nodes["1"].tau.tolist(), graph.nodes["1"].r.tolist()
        ([0.002, 0.002], [1.0, 1.0])
    """
    if not (0 < dt < math.inf):
        raise ValueError(f"dt must be positive and finite, got {dt}")
    for name, got, known in (
        ("soft_reset", soft_reset, ("subgraph", "metadata", "hard", "error")),
        ("ties", ties, ("exact", "keep", "error")),
    ):
        if got not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {got!r}")
    floats = (each.dtype for each in net.parameters() if each.is_floating_point())
    writing = Writing(float(dt), soft_reset, ties, next(floats, torch.get_default_dtype()))
    if isinstance(net, NirNetwork):
        graph = _of_network(net, writing)
    else:
        graph = _Exporter(net, _shape(net, input_shape), writing).graph()
    return without_resistance(graph) if fold_r else graph


def _shape(net: nn.Module, asked: Shape | None) -> Shape:
    if asked is not None:
        if not asked or any(size < 1 for size in asked):
            raise ValueError(f"input_shape must be sizes from 1, got {asked}")
        return tuple(int(size) for size in asked)
    leaves = [each for each in net.modules() if not list(each.children())]
    first = next((each for each in leaves if not isinstance(each, PASSED)), None)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise ValueError("input_shape must be given: the first layer is not linear")


def _of_network(net: NirNetwork, writing: Writing) -> Any:
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


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, Neuron | NirNetwork | Stepwise | Fire | Scale | nn.Linear):
            return True
        return super().is_leaf_module(m, module_qualified_name) or not list(m.children())


class _Exporter:
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
            inner = Piece({name: _of_network(module, self.writing)}, name, name)
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
