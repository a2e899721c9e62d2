"""Operations of a converted network: where its layers hear spikes, an addition each."""

import dataclasses
from typing import Any

import torch
from torch import fx, nn

from spike_ops.convert._neurons import Spiking, WinnerPool
from spike_ops.energy import LayerOperations, OperationCounts

# what spikes are spikes behind
PASSING = (
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.ZeroPad2d,
    WinnerPool,
)
METHODS = {"flatten", "view", "reshape", "contiguous"}


def with_additions(counts: OperationCounts, net: fx.GraphModule, prefix: str) -> OperationCounts:
    """Return counts in which layers that hear spikes times a threshold do additions.

    The threshold of the neurons before can be multiplied into their weights.
    """
    layers = dict(counts.layers)
    for node in net.graph.nodes:
        name = f"{prefix}{node.target}"
        if node.op == "call_module" and name in layers and _fires(net, node.args[0]):
            each = layers[name]
            layers[name] = LayerOperations(0, each.acs + each.macs, each.dense)
    return dataclasses.replace(counts, layers=layers)


def _fires(net: fx.GraphModule, node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        if isinstance(module, Spiking):
            return True
        return isinstance(module, PASSING) and _fires(net, node.args[0])
    passes = node.target in METHODS or node.target is torch.flatten
    return passes and _fires(net, node.args[0])
