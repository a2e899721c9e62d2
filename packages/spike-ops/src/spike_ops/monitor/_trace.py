"""Membranes over time, of a few neurons, in bounded memory."""

from typing import NamedTuple

import torch
from torch import Tensor

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
    def record(self, neuron: Neuron, currents: Tensor, state: tuple[Tensor, ...] | None) -> None:
        """Step a sample of currents [T, B, ...] from a state (the initial one without)."""
        currents = currents.detach()
        if self.sample >= currents.shape[1]:
            return
        part = slice(self.sample, self.sample + 1)
        fresh = neuron.initial(currents[0, part])
        begun = tuple(each[part] for each in state) if state else fresh
        if [each.shape for each in begun] != [each.shape for each in fresh]:
            # a state whose first axis is not the batch cannot be cut
            part, begun = slice(None), state or fresh
        row = 0 if part.start is not None else self.sample
        for current in currents[:, part].unbind(0):
            spikes, begun = neuron.step(current, begun)
            self._keep(begun[0][row].flatten(), spikes[row].flatten())

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
