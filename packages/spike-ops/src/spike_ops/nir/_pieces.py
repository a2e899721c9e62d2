"""Modules as nodes of a graph."""

from collections.abc import Callable
from typing import Any

from torch import nn

from spike_ops import nn as spike_nn
from spike_ops.neuron import ALIF, CUBA, LIF, PLIF, Delay, Diagonal, Neuron, Recurrent, Refractory
from spike_ops.nir import (
    _circle_pieces as circles,
    _layer_pieces as layers,
    _neuron_pieces as neurons,
)
from spike_ops.nir._cells import Cells, Chain, Integrator
from spike_ops.nir._errors import NirError
from spike_ops.nir._layers import Fire, Scale
from spike_ops.nir._sample import PASSED
from spike_ops.nir._writing import Piece, Shape, Writing
from spike_ops.nn._stepwise import Stepwise

STEPS = (LIF, PLIF, CUBA, ALIF, Recurrent, Refractory, Delay, Chain, Integrator, Cells)
# why nodes that are linear but for a threshold and a reset cannot say it, by the name's part
REASONS = {
    "GLIF": "its reset is a share of the membrane",
    "KLIF": "its membrane is cut off at 0",
    "CLIF": "its current depends on the membrane",
    "ILIF": "its spikes are counts",
    "LIAF": "its output is a function of the membrane, not a spike",
    "SigmaDelta": "its threshold moves with its output",
    "QIF": "its leak is not linear",
    "EIF": "its leak is not linear",
    "AdEx": "its leak is not linear",
    "Izhikevich": "its leak is not linear",
    "PSN": "it weighs several steps at once",
    "SRM": "its kernels are functions of time",
    "TsodyksMarkram": "its synapses get tired of spikes",
    "MembraneBatchNorm": "its norm is within the neuron",
    "TemporalEffective": "its factor changes from step to step",
    "BatchNorm": "in Stepwise it is one, or fold it into the layer before",
    "FeatureNorm": "its mean is that of each sample",
    "LayerNorm": "its mean is that of each sample",
    "Spiking": "ConvertedNet.to_sequential() has neurons that have one",
    "MaxPool": "pool by sums or averages",
}


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
        (nn.Flatten, layers.flattened), (Stepwise, _stepwise), (ALIF, circles.adaptive),
        (Refractory, _refractory), (spike_nn.TemporalEffectiveBatchNorm, _none),
        ((spike_nn.BatchNorm2d, spike_nn.TimeBatchNorm), layers.norm),
    ]  # fmt: skip
    maker = next((each for kinds, each in makers if isinstance(module, kinds)), _none)
    if isinstance(module, Neuron) and maker is not _none:
        _check_step(name, module)
    return maker(name, module, shape, writing)


def _check_step(name: str, neuron: Neuron) -> None:
    kind = next(each for each in STEPS if isinstance(neuron, each))
    if not neuron._is_a(kind):
        own = type(neuron).__name__
        raise NirError(
            name, f"NIR has no node for {own}: its step is another than {kind.__name__}'s"
        )


def _none(name: str, module: nn.Module, shape: Shape, writing: Writing) -> Piece:
    kind = type(module).__name__
    reason = next((f": {why}" for part, why in REASONS.items() if part in kind), "")
    raise NirError(name, f"NIR has no node for {kind}{reason}")


def _refractory(name: str, module: Refractory, shape: Shape, writing: Writing) -> Piece:
    inner = piece(name, module.neuron, shape, writing)
    return circles.refractory(name, module, shape, inner, writing.dt)


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
    if isinstance(layer, nn.Sequential) and len(layer):
        return _stepwise_sequence(name, layer, shape, writing)
    if isinstance(layer, layers.NORMS):
        return layers.norm(name, layer, shape, writing)
    if isinstance(layer, nn.Flatten):
        return layers.flatten(name, layer.start_dim, layer.end_dim, shape, leading=1)
    return piece(name, layer, shape, writing)


def _stepwise_sequence(name: str, inner: nn.Sequential, shape: Shape, writing: Writing) -> Piece:
    whole: Piece | None = None
    for key, layer in inner.named_children():
        if isinstance(layer, PASSED):
            continue
        each = piece(f"{name}.{key}", Stepwise(layer), shape, writing)
        whole = each if whole is None else whole.then(each)
        shape = layers.out_shape(f"{name}.{key}", Stepwise(layer), shape)
    return _none(name, inner, shape, writing) if whole is None else whole
