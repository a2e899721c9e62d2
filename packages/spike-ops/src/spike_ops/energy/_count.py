"""Running a network and counting what it does."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import input_of, module as check_module, whole_number
from spike_ops.energy._counter import Counter, leave_out
from spike_ops.energy._counts import OperationCounts
from spike_ops.energy._products import Products


def count_operations(
    net: nn.Module,
    batches: Tensor | Iterable[Tensor | Sequence[Any]],
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
        batches: One input, or several; each goes through `net(batch)`. Of tuples, as loaders give
            them with labels, the first goes.
        batch_axis: The axis of the inputs that counts samples: 1 in [T, B, ...].
        membranes: Count changes of membranes as well, which steps all neurons once more.
        products: Count products outside of layers; without, counts are NeuroBench's.

    Raises:
        ValueError: There are no samples, or an input does not have that axis.
        TypeError: `net` is no module, or a batch no tensor.

    Source: J. Yik et al., "The NeuroBench framework for benchmarking neuromorphic computing
    algorithms and systems", Nature Communications 2025.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> spikes = torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])  # two steps, one sample
        >>> counts = count_operations(net, spikes)
        >>> counts.effective_acs, counts.effective_macs, counts.dense
        (4.0, 0.0, 12.0)
    """
    check_module("net", net)
    batch_axis = whole_number("batch_axis", batch_axis)
    counter = Counter(net, membranes)
    watching = Products(counter.product if products else leave_out, counter.use)
    modes = {module: module.training for module in net.modules()}
    samples = 0
    try:
        net.eval()
        with torch.no_grad():
            for batch in [batches] if isinstance(batches, Tensor) else batches:
                given = input_of(batch)
                samples += _samples(given, batch_axis)
                with watching:
                    net(given)
    finally:
        counter.close()
        for module, mode in modes.items():
            module.training = mode
    if not samples:
        raise ValueError("batches must hold at least one sample, got none")
    return counter.result(samples)


def _samples(batch: Tensor, batch_axis: int) -> int:
    if not -batch.ndim <= batch_axis < batch.ndim:
        got = f"shape {tuple(batch.shape)} and axis {batch_axis}"
        raise ValueError(f"batches must have the axis that counts samples, got {got}")
    return batch.shape[batch_axis]
