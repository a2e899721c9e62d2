"""Running a network and counting what it does."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.energy._connections import connection_of
from spike_ops.energy._counts import LayerCounter, LayerOperations, OperationCounts
from spike_ops.energy._products import Products
from spike_ops.monitor._begun import LAYERS, States, again, beginning, is_again
from spike_ops.neuron import Neuron

ACTIVATIONS = (*LAYERS, nn.ReLU, nn.Sigmoid)


def count_operations(
    net: nn.Module,
    batches: Tensor | Iterable[Tensor],
    *,
    batch_axis: int = 1,
    membranes: bool = False,
    products: bool = True,
) -> OperationCounts:
    """Return the operations that a network does on some inputs, per layer and per sample.

    The definitions are NeuroBench's. A connection layer (linear or convolution) does one operation
    for each value of its input that is not zero and each weight that is not zero and meets it,
    exactly at the borders of a convolution. It is an accumulate (AC) if the input of the call holds
    nothing but -1, 0 and 1, else a multiply-accumulate (MAC). Biases are left out. `dense` is the
    number with every weight and value taken as not zero. Here all are exact integers.

    Products outside of connection layers (`spikes @ weight`, `spike_attention`, convolutions that
    are called as functions) count under the module that computes them and their kind, as
    `block.matmul`: one operation where two values meet that are not zero, an AC if one side holds
    nothing but -1, 0 and 1. NeuroBench does not see them. Not seen here either are `einsum` and
    torch's own attention; modules whose parameters took part and were not counted are listed in
    `uncounted`. Spikes times a threshold, as they go through a converted network, are MACs by the
    definition; `ConvertedNet.count_operations` counts them as the additions that they can be.

    The network runs in evaluation mode and without gradients; its modes come back.

    Args:
        net: The network.
        batches: One input, or several; each goes through `net(batch)`.
        batch_axis: The axis of the inputs that counts samples: 1 in [T, B, ...].
        membranes: Count changes of membranes as well, which steps all neurons once more.
        products: Count products outside of layers; without, counts are NeuroBench's.

    Raises:
        ValueError: There are no samples, or an input does not have that axis.

    Source: J. Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing
    algorithms and systems", Nature Communications 2025.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> spikes = torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])  # two steps, one sample
        >>> counts = count_operations(net, spikes)
        >>> counts.effective_acs, counts.effective_macs, counts.dense
        (4.0, 0.0, 12.0)
    """
    counter = _Counter(net, membranes)
    watching = Products(counter.product if products else _leave_out, counter.use)
    modes = {module: module.training for module in net.modules()}
    samples = 0
    try:
        net.eval()
        with torch.no_grad():
            for batch in [batches] if isinstance(batches, Tensor) else batches:
                samples += _samples(batch, batch_axis)
                with watching:
                    net(batch)
    finally:
        counter.close()
        for module, mode in modes.items():
            module.training = mode
    if not samples:
        raise ValueError("batches must hold at least one sample, got none")
    return counter.result(samples)


def count_membrane_updates(neuron: Neuron, currents: Tensor, state: States | None = None) -> int:
    """Return how often a membrane changes: each in the first step, then those that differ.

    NeuroBench's definition: the first step counts every neuron, a later one those whose potential
    after it is not what it was before.

    Args:
        neuron: The neurons.
        currents: [T, B, ...].
        state: Where they begin; the initial state without one.

    Raises:
        ValueError: The currents have no step.

    Example:
        >>> from spike_ops.neuron import IF
        >>> currents = torch.tensor([0.0, 0.0, 0.5]).reshape(3, 1, 1)
        >>> count_membrane_updates(IF(), currents)
        2
    """
    if currents.ndim < 2 or not len(currents):
        raise ValueError(f"currents must be [T, B, ...], got {tuple(currents.shape)}")
    with torch.no_grad(), again(neuron, currents.device):
        at = neuron.initial(currents[0]) if state is None else state
        before = neuron.membrane(at)
        changed = before.numel()
        for step, current in enumerate(currents):
            _, at = neuron.step(current, at)
            after = neuron.membrane(at)
            changed += int((after != before).sum()) if step else 0
            before = after
    return changed


class _Counter:
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


def _leave_out(kind: str, count: Callable[[], LayerOperations]) -> None:
    del kind, count


def _samples(batch: Tensor, batch_axis: int) -> int:
    if not -batch.ndim <= batch_axis < batch.ndim:
        got = f"shape {tuple(batch.shape)} and axis {batch_axis}"
        raise ValueError(f"batches must have the axis that counts samples, got {got}")
    return batch.shape[batch_axis]
