"""Modules as nodes of a graph."""

from collections.abc import Callable
from typing import Any

from torch import nn

from spike_ops.neuron import CUBA, LIF, PLIF, Delay, Diagonal, Recurrent
from spike_ops.nir import _layer_pieces as layers, _neuron_pieces as neurons
from spike_ops.nir._cells import Cells, Chain, Integrator
from spike_ops.nir._errors import NirError
from spike_ops.nir._layers import Fire, Scale, Stepwise
from spike_ops.nir._writing import Piece, Shape, Writing


def piece(name: str, module: nn.Module, shape: Shape, writing: Writing) -> Piece:
    """Return the nodes of a module for inputs of a shape, one sample without time and batch.

    Raises:
        NirError: Nodes cannot say what the module does.
    """
    makers: list[tuple[Any, Callable[..., Piece]]] = [
        ((LIF, PLIF), neurons.lif), (CUBA, neurons.cuba), (Recurrent, _recurrent), (Chain, _chain),
        ((Integrator, Cells), neurons.cells), (Delay, layers.delay), (Fire, layers.fire),
        ((Scale, Diagonal), layers.scale), (nn.Linear, layers.linear),
        ((nn.Conv1d, nn.Conv2d), layers.conv), (nn.AvgPool2d, layers.pool),
        (nn.Flatten, layers.flattened), (Stepwise, _stepwise),
    ]  # fmt: skip
    for kinds, maker in makers:
        if isinstance(module, kinds):
            return maker(name, module, shape, writing)
    hints = {"BatchNorm": "fold it into the layer before", "MaxPool": "pool by sums or averages"}
    hint = next((f"; {v}" for k, v in hints.items() if k in type(module).__name__), "")
    raise NirError(name, f"NIR has no node for {type(module).__name__}{hint}")


def _chain(name: str, module: Chain, shape: Shape, writing: Writing) -> Piece:
    first, *rest = module.neurons
    if isinstance(first, Integrator) and len(rest) == 1:
        cells = piece(name, rest[0], shape, writing)
        synapse = (first.beta, first.gain, first.offset)
        return neurons.with_synapse(name, shape, synapse, cells, writing)
    whole = piece(f"{name}_0", first, shape, writing)
    for k, each in enumerate(rest, 1):
        whole = whole.then(piece(f"{name}_{k}", each, shape, writing))
    return whole


def _recurrent(name: str, module: Recurrent, shape: Shape, writing: Writing) -> Piece:
    whole = piece(name, module.neuron, shape, writing)
    connection: Any = module.connection
    parts = list(connection) if isinstance(connection, nn.Sequential) else [connection]
    last, at = whole.leave, shape
    for k, layer in enumerate(parts):
        if not isinstance(layer, nn.Module):
            raise NirError(name, f"a connection must be a module, got {type(layer).__name__}")
        behind = piece(f"{name}_recurrent_{k}", layer, at, writing)
        whole.nodes |= behind.nodes
        whole.edges += [*behind.edges, (last, behind.enter)]
        last, at = behind.leave, layers.out_shape(f"{name}_recurrent_{k}", layer, at)
    whole.edges.append((last, whole.enter))
    return whole


def _stepwise(name: str, module: Stepwise, shape: Shape, writing: Writing) -> Piece:
    layer = module.layer
    if isinstance(layer, nn.Flatten):
        return layers.flatten(name, layer.start_dim, layer.end_dim, shape, leading=1)
    return piece(name, layer, shape, writing)
