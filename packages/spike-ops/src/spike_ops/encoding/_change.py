"""Changes: a neuron fires when its value has moved on by a threshold."""

import torch
from torch import Tensor

from spike_ops._checked import positive, spreads, tensor
from spike_ops.encoding._base import as_spikes, binary, check_finite, wide


def delta(
    x: Tensor, threshold: float, *, start: Tensor | None = None, spike_out: bool = False
) -> Tensor:
    """Return spikes where a signal has moved by more than a threshold: [T, B, 2, ...], off and on.

    A reference r follows the signal in steps of θ: an on spike where x - r > θ, and r += θ; an off
    spike where x - r < -θ, and r -= θ; at most one a step. If x moves by at most θ in a step,
    `decode_delta` returns it within θ at every step.

    Args:
        x: The signal [T, B, ...].
        threshold: θ > 0.
        start: r before the first step [B, ...]; the first value without one.
        spike_out: Return a `SpikeTensor`.

    Raises:
        ValueError: The signal has no [T, B, ...], is not finite, `start` is no step of it, or θ is
            not positive.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 2.0, 0.0]).reshape(4, 1)
        >>> delta(x, 0.75).squeeze(1).T
        tensor([[0., 0., 0., 1.],
                [0., 1., 1., 0.]])
    """
    positive(threshold=threshold)
    check_finite(x)
    if x.ndim < 2 or x.shape[0] == 0:
        raise ValueError(f"x must be [T, B, ...] with T at least 1, got {tuple(x.shape)}")
    if start is not None and not spreads(tensor("start", start).shape, x.shape[1:]):
        got = f"{tuple(start.shape)} for steps of {tuple(x.shape[1:])}"
        raise ValueError(f"start must be the values before the first step [B, ...], got {got}")
    reference = (x[0] if start is None else start).double()
    fired = torch.empty(x.shape[0], x.shape[1], 2, *x.shape[2:], dtype=torch.bool, device=x.device)
    for step, value in enumerate(x.double()):
        off, on = value - reference < -threshold, value - reference > threshold
        fired[step, :, 0], fired[step, :, 1] = off, on
        reference = reference + threshold * (on.double() - off.double())
    return as_spikes(fired, x.dtype, spike_out)


def decode_delta(spikes: Tensor, threshold: float, *, start: Tensor) -> Tensor:
    """Return the reference after each step: start + θ (on so far - off so far): [T, B, ...].

    Raises:
        ValueError: The spikes are no [T, B, 2, ...], or θ is not positive.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 2.0, 0.0]).reshape(4, 1)
        >>> decode_delta(delta(x, 0.75), 0.75, start=x[0]).flatten()
        tensor([0.0000, 0.7500, 1.5000, 0.7500])
    """
    positive(threshold=threshold)
    if spikes.ndim < 3 or spikes.shape[2] != 2:
        raise ValueError(f"spikes must be [T, B, 2, ...], got {tuple(spikes.shape)}")
    dense = wide(binary(spikes))
    moved = threshold * (dense[:, :, 1] - dense[:, :, 0]).cumsum(0)
    return (start + moved).to(torch.promote_types(start.dtype, spikes.dtype))
