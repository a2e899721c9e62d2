"""Converted networks as layers and neurons one after the other, over time."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, fx, nn

from spike_ops.convert._errors import ConversionError
from spike_ops.convert._neurons import Spiking
from spike_ops.neuron import IF
from spike_ops.nn._stepwise import Stepwise

WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d)
POOLS = (nn.AvgPool1d, nn.AvgPool2d)
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)


@torch.no_grad()
def sequence_of(net: fx.GraphModule, steps: int) -> nn.Sequential:
    """Return a sequence over time: see `ConvertedNet.to_sequential`.

    Raises:
        ConversionError: The network is no such sequence; it names the part.
    """
    parts = [(name, each) for name, each in _parts(net) if not isinstance(each, NOTHING)]
    followers: list[Any] = [*(each for _, each in parts[1:]), None]
    theta, made = torch.ones(()), OrderedDict[str, nn.Module]()
    for (name, each), follower in zip(parts, followers, strict=True):
        key = name.replace(".", "_")
        if isinstance(each, WEIGHTS):
            neurons = follower if isinstance(follower, Spiking) else None
            layer = _weighed(each, theta, neurons, steps)
            made[key] = layer if isinstance(layer, nn.Linear) else Stepwise(layer)
            theta = torch.ones(()) if neurons is None else neurons.thresholds
            if neurons is not None and neurons.kind != "if":
                rule = (
                    f"neurons must be of the kind 'if' to stand in a sequence, got {neurons.kind!r}"
                )
                raise ConversionError(name, rule)
        elif isinstance(each, Spiking):
            if not made or not isinstance(_inner(made), WEIGHTS):
                raise ConversionError(name, "neurons of a sequence must stand right behind weights")
            if each.kind != "if":
                rule = f"neurons of a sequence must be of the kind 'if', got {each.kind!r}"
                raise ConversionError(name, rule)
            made[key] = IF(reset="soft")
        elif isinstance(each, nn.Flatten):
            made[key] = nn.Flatten(2)
        else:
            made[key] = Stepwise(copy.deepcopy(each))
    return nn.Sequential(made)


def _inner(made: OrderedDict[str, nn.Module]) -> nn.Module:
    last = next(reversed(made.values()))
    return last.layer if isinstance(last, Stepwise) else last


def _parts(net: fx.GraphModule) -> list[tuple[str, nn.Module]]:
    """Return the modules of a network in order, a flatten by name made one."""
    found, before = [], None
    for node in net.graph.nodes:
        if node.op == "output":
            break
        if before is not None and (node.all_input_nodes != [before] or len(before.users) > 1):
            raise ConversionError(node.name, "a sequence must pass one tensor on, without branches")
        before = node
        if node.op != "placeholder":
            found.append(_part(net, node))
    return found


def _part(net: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module]:
    if node.op == "call_module":
        name, module = str(node.target), net.get_submodule(str(node.target))
        known = isinstance(module, (*WEIGHTS, *POOLS, *NOTHING, Spiking))
        if known or (
            isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
        ):
            return name, module
        told = type(module).__name__
    else:
        dims = [*node.args[1:], *node.kwargs.values()]
        if node.target in {"flatten", torch.flatten} and dims in ([1], [1, -1]):
            return node.name, nn.Flatten()
        name, told = node.name, str(getattr(node.target, "__name__", node.target))
    can = "Linear, Conv1d, Conv2d, AvgPool, neurons and a flatten of all but the batch"
    raise ConversionError(name, f"a sequence over time can have {can}, got {told}")


def _weighed(layer: Any, heard: Tensor, neurons: Spiking | None, steps: int) -> Any:
    """Return a layer whose weights hold θ of the neurons before and 1/θ of those behind."""
    weight = getattr(layer, "connected", layer.weight) * _into(layer, heard)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.clone()
    if neurons is not None:
        theta = neurons.thresholds.expand(len(weight))
        weight = weight / theta.reshape(-1, *[1] * (weight.ndim - 1))
        bias = bias / theta + neurons.offset + (0.5 + neurons.start) / steps
    made = _plain(layer)
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
    return made


def _into(layer: Any, heard: Tensor) -> Tensor:
    """Return the thresholds of what a layer hears, for each of its weights."""
    if heard.ndim == 0:
        return heard
    if isinstance(layer, nn.Linear):  # behind a flatten a channel is several features
        return heard.repeat_interleave(layer.in_features // len(heard))
    each = heard.reshape(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
    return each.reshape(*each.shape, *[1] * len(layer.kernel_size))


def _plain(layer: Any) -> Any:
    """Return a layer of torch of the same shape, without its weights."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, device="meta")
    kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    return kind(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
        layer.dilation, layer.groups, padding_mode=layer.padding_mode, device="meta",
    )  # fmt: skip
