"""Plots of spikes and membranes; need matplotlib (`pip install 'spike-ops[plots]'`)."""

import importlib
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spike_ops._checked import positive, tensor, whole_number
from spike_ops._spike_tensor import SpikeTensor, check_binary
from spike_ops.monitor._trace import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_raster(spikes: Tensor, *, sample: int = 0, dt: float = 1.0) -> "Figure":
    """Return a figure with a mark for each spike: time to the right, neurons upwards.

    Args:
        spikes: [T, B, N], of which the places of layers may be several axes.
        sample: Which of the batch.
        dt: Length of a step, the unit of the axis of time.

    Raises:
        ValueError: The spikes are no [T, B, N], have no step, are not 0 or 1, or there is no such
            sample; or `dt` is not positive.
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> figure = plot_raster(torch.eye(5)[:, None])
        >>> figure.axes[0].get_ylabel()
        'neuron'
    """
    positive(dt=dt)
    sample = whole_number("sample", sample)
    if tensor("spikes", spikes).ndim < 3 or not len(spikes):
        got = f"{tuple(spikes.shape)}: spikes[:, None] has a batch of one"
        raise ValueError(f"spikes must be [T, B, N] with T at least 1, got {got}")
    if not 0 <= sample < spikes.shape[1]:
        raise ValueError(f"sample must be in 0..{spikes.shape[1] - 1}, got {sample}")
    dense = spikes.to_dense() if isinstance(spikes, SpikeTensor) else spikes.detach()
    shown = dense[:, sample].flatten(1)
    if not bool(shown.isfinite().all()):
        raise ValueError("spikes must be finite")
    check_binary(shown)
    times, neurons = shown.nonzero().cpu().unbind(1)
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
        ValueError: `dt` is not positive.
        TypeError: `trace` is none.
        ImportError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> steps = torch.arange(3)
        >>> trace = Trace(steps, torch.zeros(3, 2), torch.zeros(3, 2).bool(), torch.tensor([4, 7]))
        >>> len(plot_traces(trace).axes)
        2
    """
    positive(dt=dt)
    if not isinstance(trace, Trace):
        got = f"{type(trace).__name__}; Monitor(net, traces=1).trace(name) returns one"
        raise TypeError(f"trace must be a spike_ops.monitor.Trace, got {got}")
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
