"""Operations of a network, watched layer by layer."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.energy._connections import connection_of
from spike_ops.energy._counts import LayerCounter, LayerOperations, OperationCounts
from spike_ops.energy._membranes import count_membrane_updates
from spike_ops.monitor._begun import LAYERS, beginning, is_again
from spike_ops.neuron import Neuron

ACTIVATIONS = (*LAYERS, nn.ReLU, nn.Sigmoid)


class Counter:
    """What a network does, watched by hooks until it is closed."""

    def __init__(self, net: nn.Module, membranes: bool) -> None:
        self.net = net
        self.layers: dict[str, LayerOperations] = {}
        self.zeros: dict[str, int] = defaultdict(int)
        self.outputs: dict[str, int] = defaultdict(int)
        self.updates: dict[str, int] = defaultdict(int)
        self.hooks: list[Any] = []
        self.multiplying: set[str] = set()
        self.ran: set[str] = set()
        self.owners = {
            id(each): name
            for name, module in net.named_modules()
            for each in module.parameters(recurse=False)
        }
        self.within: list[tuple[str, nn.Module]] = []
        for name, module in net.named_modules():
            self.hooks.append(module.register_forward_pre_hook(partial(self._enter, name)))
            self.hooks.append(module.register_forward_hook(self._leave, always_call=True))
            if connection_of(module) is not None:
                hook = partial(self._connection, name, LayerCounter(module))
                self.hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            if isinstance(module, ACTIVATIONS):
                self.hooks.append(module.register_forward_hook(partial(self._activation, name)))
            if membranes and isinstance(module, Neuron):
                before = partial(self._membranes, name)
                self.hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self.hooks:
            hook.remove()

    def product(self, kind: str, count: Callable[[], LayerOperations]) -> None:
        """Note a product, unless a layer is at work: those are counted as such."""
        if is_again() or any(connection_of(module) is not None for _, module in self.within):
            return
        outer = self.within[-1][0] if self.within else ""
        name = f"{outer}.{kind}".lstrip(".")
        self.layers[name] = self.layers.get(name, LayerOperations()).plus(count())
        self.multiplying.add(outer)

    def use(self, tensor: Tensor) -> None:
        """Note that a tensor took part in something."""
        if id(tensor) in self.owners:
            self.ran.add(self.owners[id(tensor)])

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        del args
        self.within.append((name, module))
        # neurons around others call their steps only
        inner = (
            module.named_modules(prefix=name) if isinstance(module, Neuron) else [(name, module)]
        )
        self.ran.update(each for each, _ in inner)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        del module, args, output
        self.within.pop()

    def result(self, samples: int) -> OperationCounts:
        """Return what was counted of so many samples."""
        with_parameters = [
            name for name, module in self.net.named_modules()
            if name in self.ran - self.layers.keys() - self.multiplying
            and any(True for _ in module.parameters(recurse=False))
        ]  # fmt: skip
        return OperationCounts(
            self.layers, samples, dict(self.zeros), dict(self.outputs), dict(self.updates),
            tuple(with_parameters),
        )  # fmt: skip

    def _connection(
        self, name: str, counter: LayerCounter, module: nn.Module, args: Any, kwargs: Any
    ) -> None:
        del module
        if is_again():
            return
        x = args[0] if args else kwargs["input"]
        done = self.layers.get(name, LayerOperations())
        self.layers[name] = done.plus(counter.count(x))

    def _activation(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        del module, args
        if is_again():
            return
        if isinstance(output, SpikeTensor):
            fired = output.count
        else:
            fired = int(torch.count_nonzero(output))
        self.zeros[name] += output.numel() - fired
        self.outputs[name] += output.numel()

    def _membranes(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        assert isinstance(module, Neuron)
        if is_again():
            return
        self.updates[name] += count_membrane_updates(module, *beginning(module, args, kwargs))


def leave_out(kind: str, count: Callable[[], LayerOperations]) -> None:
    """Count no product."""
    del kind, count
