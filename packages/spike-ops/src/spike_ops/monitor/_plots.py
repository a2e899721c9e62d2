"""Plots of spikes and membranes; need matplotlib (`pip install 'spike-ops[plots]'`)."""

import importlib
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.monitor._trace import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_raster(spikes: Tensor, *, sample: int = 0, dt: float = 1.0) -> "Figure":
    """Return a figure with a mark for each spike: time to the right, neurons upwards.

    Args:
        spikes: [T, B, ...].
        sample: Which of the batch.
        dt: Length of a step, the unit of the axis of time.

    Raises:
        ValueError: The spikes are no [T, B, ...], or there is no such sample.
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> figure = plot_raster(torch.eye(5)[:, None])
        >>> figure.axes[0].get_ylabel()
        'neuron'
    """
    if spikes.ndim < 2 or not 0 <= sample < spikes.shape[1]:
        got = f"{tuple(spikes.shape)} and sample {sample}"
        raise ValueError(f"spikes must be [T, B, ...] with that sample, got {got}")
    dense = spikes.to_dense() if isinstance(spikes, SpikeTensor) else spikes.detach()
    times, neurons = dense[:, sample].flatten(1).nonzero().cpu().unbind(1)
    figure, axes = _figure(1)
    axes[0].scatter(times.numpy() * dt, neurons.numpy(), marker="|", linewidths=0.8)
    axes[0].set(xlabel="time", ylabel="neuron", xlim=(-0.5 * dt, (len(spikes) - 0.5) * dt))
    return figure


def plot_traces(trace: Trace, *, threshold: float | None = None, dt: float = 1.0) -> "Figure":
    """Return a figure with the membranes of a record, one below the other, spikes as bars.

    Args:
        trace: What `Monitor.trace` returns.
        threshold: Drawn as a line.
        dt: Length of a step, the unit of the axis of time.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> steps = torch.arange(3)
        >>> trace = Trace(steps, torch.zeros(3, 2), torch.zeros(3, 2).bool(), torch.tensor([4, 7]))
        >>> len(plot_traces(trace).axes)
        2
    """
    number = trace.membranes.shape[1]
    figure, axes = _figure(number)
    time = trace.steps.double().numpy() * dt
    for row, axis in enumerate(axes):
        axis.plot(time, trace.membranes[:, row].double().numpy(), linewidth=1)
        for moment in time[trace.spikes[:, row].numpy()]:
            axis.axvline(moment, color="tab:red", linewidth=0.6, alpha=0.6)
        if threshold is not None:
            axis.axhline(threshold, color="tab:gray", linewidth=0.6, linestyle="--")
        axis.set_ylabel(f"neuron {int(trace.neurons[row])}")
    axes[-1].set_xlabel("time")
    return figure


def _figure(rows: int) -> tuple["Figure", list[Any]]:
    # a figure of its own: no window, and nothing to close
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        told = "needs matplotlib, not installed: pip install 'spike-ops[plots]'"
        raise ImportError(told) from error
    figure = module.Figure(figsize=(8, 2 + rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)
    return figure, list(axes[:, 0])
