"""Membranes over time, of a few neurons, in bounded memory."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from spike_ops.monitor._begun import again
from spike_ops.neuron import Neuron


class Trace(NamedTuple):
    """Potentials (after the reset) and spikes of a few neurons of one sample.

    Attributes:
        steps: Which steps are told, counted over all calls: [P] of int64, evenly spaced.
        membranes: [P, k].
        spikes: [P, k] of bool.
        neurons: Which neurons, numbered in the flattened layer: [k] of int64.

    Example:
        >>> from spike_ops.monitor import Monitor
        >>> from spike_ops.neuron import IF
        >>> neurons = IF()
        >>> with Monitor(neurons, traces=1) as monitor:
        ...     spikes = neurons(torch.full((4, 1, 1), 0.5))
        >>> monitor.trace("").membranes.flatten()
        tensor([0.5000, 0.0000, 0.5000, 0.0000])
    """

    steps: Tensor
    membranes: Tensor
    spikes: Tensor
    neurons: Tensor


class EvenSteps:
    """Keep rows at even distances, never more than `points`: the distance doubles when full."""

    def __init__(self, points: int) -> None:
        self.points, self.stride, self.seen = points, 1, 0
        self.steps: list[int] = []
        self.rows: list[tuple[Tensor, Tensor]] = []

    def add(self, membranes: Tensor, spikes: Tensor) -> None:
        """Take the row of one step."""
        if self.seen % self.stride == 0:
            self.steps.append(self.seen)
            self.rows.append((membranes, spikes))
        self.seen += 1
        if len(self.rows) > self.points:
            # every second row is what the doubled distance would have kept
            self.steps, self.rows, self.stride = self.steps[::2], self.rows[::2], 2 * self.stride

    @property
    def wanted(self) -> bool:
        """Whether the next row would be kept."""
        return self.seen % self.stride == 0


class Recorder:
    """Record a few neurons of one sample of a layer by stepping them again.

    Args:
        neurons: How many, drawn once.
        points: The most steps kept.
        sample: Which of the batch.
        seed: Decides which neurons are drawn.
    """

    def __init__(self, neurons: int, points: int, sample: int, seed: int) -> None:
        self.wanted, self.sample, self.seed = neurons, sample, seed
        self.kept = EvenSteps(points)
        self.chosen: Tensor | None = None

    @torch.no_grad()
    def record(self, neuron: Neuron, currents: Tensor, state: tuple[Tensor, ...]) -> None:
        """Step a sample of currents [T, B, ...] from a state."""
        currents = currents.detach()
        if self.sample >= currents.shape[1]:
            return
        begun, row = state, self.sample
        if not _needs_all(neuron):
            currents, begun, row = self._cut(neuron, currents, begun)
        with again(neuron, currents.device):
            for current in currents.unbind(0):
                spikes, begun = neuron.step(current, begun)
                self._keep(neuron.membrane(begun)[row].flatten(), spikes[row].flatten())

    def _cut(
        self, neuron: Neuron, currents: Tensor, begun: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], int]:
        """Return currents and state of the sample alone, and which row is its."""
        part = slice(self.sample, self.sample + 1)
        own = tuple(each[part] for each in begun)
        fresh = neuron.initial(currents[0, part])
        if [each.shape for each in own] != [each.shape for each in fresh]:
            # a state whose first axis is not the batch cannot be cut
            return currents, begun, self.sample
        return currents[:, part], own, 0

    def _keep(self, membranes: Tensor, spikes: Tensor) -> None:
        if not self.kept.wanted:
            return self.kept.add(membranes, spikes)
        if self.chosen is None:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randperm(membranes.numel(), generator=generator)[: self.wanted]
            self.chosen = drawn.sort().values
        places = self.chosen.to(membranes.device)
        return self.kept.add(membranes[places].cpu(), spikes[places].bool().cpu())

    def trace(self) -> Trace | None:
        """Return what was recorded; None if nothing was."""
        if self.chosen is None or not self.kept.rows:
            return None
        membranes, spikes = zip(*self.kept.rows, strict=True)
        steps = torch.tensor(self.kept.steps)
        return Trace(steps, torch.stack(membranes), torch.stack(spikes), self.chosen)


def _needs_all(neuron: nn.Module) -> bool:
    """Say whether a sample's run may hang on the others, by statistics, or on random numbers."""
    return any(
        each.training and (each._buffers or isinstance(each, _DropoutNd))
        for each in neuron.modules()
    )
