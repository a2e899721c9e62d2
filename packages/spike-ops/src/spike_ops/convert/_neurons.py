"""Neurons in place of activations, and what pools spikes: inputs [T*B, ...], time outermost."""

from typing import Literal

import torch
from torch import Tensor, nn

from spike_ops.neuron import IF

Kind = Literal["if", "signed", "phased"]
KINDS = ("if", "signed", "phased")


class Spiking(nn.Module):
    """Return θ times the spikes of neurons that stand for an activation.

    Membranes begin at θ/2 and are reset softly, so that after T steps of currents in 0..θ that do
    not change, θ times the rate is the current to within θ / 2T.

    Args:
        thresholds: θ: one number, or one for each channel (second axis).
        kind: `"if"`: integrate and fire; `"signed"`: as well a spike of -1 where the membrane is
            below 0 and a spike is there to take back; `"phased"`: a layer waits for all T steps of
            the one before and hears their mean, so that its counts are those of a constant current.

    Raises:
        ValueError: A threshold is not positive, or `kind` is none of these.

    Example:
        >>> neurons = Spiking(torch.tensor(2.0))
        >>> neurons.steps = 4
        >>> neurons(torch.full((4, 1), 1.0)).flatten().tolist()
        [2.0, 0.0, 2.0, 0.0]
    """

    thresholds: Tensor
    offset: Tensor
    start: Tensor

    def __init__(self, thresholds: Tensor, *, kind: Kind = "if") -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"neurons must be one of {', '.join(KINDS)}, got {kind!r}")
        if not (thresholds > 0).all() or not thresholds.isfinite().all():
            raise ValueError(f"thresholds must be positive and finite, got {thresholds.min():g}")
        self.register_buffer("thresholds", thresholds)
        # a constant current, and where membranes begin beside θ/2, both in units of θ
        self.register_buffer("offset", torch.zeros_like(thresholds))
        self.register_buffer("start", torch.zeros_like(thresholds))
        self.kind, self.steps = kind, 1
        self.neuron = IF(reset="soft")
        self.counts: Tensor | None = None

    def forward(self, currents: Tensor) -> Tensor:
        """Return θ s of currents [T*B, ...]; `counts` holds the sum of spikes [B, ...]."""
        theta = self._wide(self.thresholds, currents.ndim)
        x = currents / theta + self._wide(self.offset, currents.ndim)
        x = x.unflatten(0, (self.steps, -1))
        if self.kind == "phased":
            x = x.mean(0, keepdim=True).expand(x.shape)
        v = torch.full_like(x[0], 0.5) + self._wide(self.start, currents.ndim)
        spikes = _signed(x, v) if self.kind == "signed" else self.neuron(x, (v,))
        self.counts = spikes.sum(0)
        return spikes.flatten(0, 1) * theta

    def rates(self) -> Tensor:
        """Return θ times the rate [B, ...] of the last call: what stands for the activation.

        Raises:
            RuntimeError: There was no call.
        """
        if self.counts is None:
            raise RuntimeError("rates are those of a call, and there was none")
        return self.counts / self.steps * self._wide(self.thresholds, self.counts.ndim)

    def _wide(self, values: Tensor, axes: int) -> Tensor:
        return values if values.ndim == 0 else values.reshape(-1, *[1] * (axes - 2))

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        low, high = self.thresholds.min().item(), self.thresholds.max().item()
        return f"thresholds {low:g} to {high:g}, {self.kind}"


def _signed(x: Tensor, v: Tensor) -> Tensor:
    """Return spikes of 1 at v >= 1, and of -1 at v < 0 where more came than were taken back."""
    total, out = torch.zeros_like(v), []
    for current in x:
        v = v + current
        s = (v >= 1).to(v.dtype) - ((v < 0) & (total > 0)).to(v.dtype)
        v, total = v - s, total + s
        out.append(s)
    return torch.stack(out)


class WinnerPool(nn.Module):
    """Return the spikes of a window that make its largest count larger: max pooling of rates.

    After every step the sum of what came out is the largest sum of what came in from the window, so
    the rate is exactly the largest rate. Spikes of neurons that do not lead are dropped, which
    passing all spikes of the leader of the moment does not do where the lead changes.

    Args:
        pool: The max pooling of the network.

    Source: The idea of a gate, B. Rueckauer et al., "Conversion of Continuous-Valued Deep Networks
    to Efficient Event-Driven Networks for Image Classification", Frontiers in Neuroscience 2017,
    section 2.2.5.

    Example:
        >>> pool = WinnerPool(nn.MaxPool2d(2))
        >>> pool.steps = 3
        >>> spikes = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
        >>> pool(spikes.reshape(3, 1, 2, 2)).flatten().tolist()
        [1.0, 0.0, 1.0]
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool, self.steps = pool, 1

    def forward(self, spikes: Tensor) -> Tensor:
        """Return the spikes [T*B, C, H', W'] that raise the largest sums."""
        so_far = spikes.unflatten(0, (self.steps, -1)).cumsum(0)
        largest = self.pool(so_far.flatten(0, 1)).unflatten(0, (self.steps, -1))
        gained = largest.diff(dim=0, prepend=torch.zeros_like(largest[:1]))
        return gained.flatten(0, 1)
