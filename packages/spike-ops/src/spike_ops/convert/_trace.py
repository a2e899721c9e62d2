"""The trace of a network, checked: which parts stay, which become neurons, which cannot."""

import copy
import itertools
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from spike_ops._tracing import Tracer
from spike_ops.convert._errors import ConversionError
from spike_ops.convert._qcfs import QCFS

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ACTIVATIONS = (nn.ReLU, QCFS)
# linear at every step in evaluation, so that they act on spikes as on rates
LINEAR = (
    nn.Linear, *CONVOLUTIONS, *NORMS, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Flatten,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.ZeroPad2d,
)  # fmt: skip
FUNCTIONS = {operator.add, operator.iadd, torch.add, torch.flatten, operator.getitem, F.avg_pool2d}
METHODS = {"flatten", "view", "reshape", "size", "add", "contiguous"}
RELUS = {F.relu, torch.relu, "relu", "relu_"}


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QCFS) or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module) -> fx.GraphModule:
    """Return a copy of a network in evaluation, traced, norms folded, every activation a module.

    Raises:
        ConversionError: It cannot be traced, has a part that cannot be converted, or none to.
    """
    model = copy.deepcopy(model).eval()
    root = model if list(model.children()) else nn.Sequential(model)
    try:
        graph = _Tracer().trace(root)
    except Exception as error:  # whatever a forward does that cannot be traced
        rule = f"forward must be traceable by torch.fx: {error}"
        raise ConversionError(type(model).__name__, rule) from error
    net = fx.GraphModule(root, graph)
    if sum(node.op == "placeholder" for node in graph.nodes) != 1:
        raise ConversionError(type(model).__name__, "a network must take one input")
    for node in list(graph.nodes):
        _check(net, node)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(net.get_submodule(node.target), NORMS):
            _fold(net, node)
    net.recompile()
    if not activations(net):
        can = "a network must have activations to convert, nn.ReLU or QCFS"
        raise ConversionError(type(model).__name__, can)
    return net


def _check(net: fx.GraphModule, node: fx.Node) -> None:
    """Raise for a part that cannot be converted; make modules of functions that are activations."""
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        known = isinstance(module, (*LINEAR, *ACTIVATIONS, nn.MaxPool2d))
        if isinstance(module, nn.MaxPool2d) and module.return_indices:
            known = False
        if getattr(module, "spike_in", False):
            rule = "hears spikes (spike_in=True), which activations are not"
            raise ConversionError(str(node.target), f"{type(module).__name__} {rule}")
        if not known:
            _refuse(str(node.target), type(module).__name__)
        if isinstance(module, (*ACTIVATIONS, nn.MaxPool2d)):
            _own(net, node, copy.deepcopy(module))  # each place has neurons of its own
    elif node.op in {"call_function", "call_method"}:
        if node.target in RELUS:
            _own(net, node, nn.ReLU())
        elif node.target not in FUNCTIONS | METHODS:
            _refuse(node.name, str(getattr(node.target, "__name__", node.target)))


def _refuse(name: str, kind: str) -> None:
    can = "linear layers, average and max pooling (2d), ReLU, QCFS, sums and batch norms can"
    raise ConversionError(name, f"{kind} cannot be converted: {can}")


def _own(net: fx.GraphModule, node: fx.Node, module: Any) -> None:
    """Give a call a module of its own: the first keeps the name, others are numbered."""
    earlier = itertools.takewhile(lambda each: each is not node, net.graph.nodes)
    taken = {str(each.target) for each in earlier if each.op == "call_module"}
    name = str(node.target) if node.op == "call_module" else node.name
    free, count = name, 1
    while free in taken or (node.op != "call_module" and hasattr(net, free)):
        count += 1
        free = f"{name}_{count}"
    if isinstance(module, nn.ReLU):
        module.inplace = False
    net.add_submodule(free, module)
    node.op, node.target = "call_module", free
    node.args, node.kwargs = node.args[:1], {}


def _fold(net: fx.GraphModule, node: fx.Node) -> None:
    """Fold a norm into the layer before, if nothing else hears that layer."""
    before: Any = node.args[0]
    if before.op != "call_module" or len(before.users) > 1:
        return
    calls = [each.target for each in net.graph.nodes if each.op == "call_module"]
    layer, norm = net.get_submodule(before.target), net.get_submodule(str(node.target))
    if calls.count(before.target) > 1 or norm.running_mean is None:
        return
    if isinstance(layer, CONVOLUTIONS):
        fused: nn.Module = fuse_conv_bn_eval(layer, norm)  # type: ignore[arg-type]
    elif isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_eval(layer, norm)  # type: ignore[arg-type]
    else:
        return
    net.add_submodule(before.target, fused)
    node.replace_all_uses_with(before)
    net.graph.erase_node(node)


def activations(net: fx.GraphModule) -> list[str]:
    """Return the names of the activations in the order in which they run."""
    calls = [str(node.target) for node in net.graph.nodes if node.op == "call_module"]
    return [name for name in calls if isinstance(net.get_submodule(name), ACTIVATIONS)]
