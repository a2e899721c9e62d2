"""Recordings as one batch of packed spikes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spike_ops._spike_tensor import SpikeTensor


class EventBatch(NamedTuple):
    """Spikes [T, B, ...], labels [B] and how many of the T steps each recording has [B].

    Example:
        >>> batch = collate([(torch.ones(2, 3), 7)])
        >>> batch.spikes
        SpikeTensor(shape=(2, 1, 3), spikes=6 of 6)
    """

    spikes: SpikeTensor
    labels: Tensor
    lengths: Tensor


def collate(samples: Sequence[tuple[Tensor, int]]) -> EventBatch:
    """Return frames of several recordings as one batch of packed spikes.

    A spike is where a frame counts at least one event. T is the longest recording's number of
    frames; shorter ones are followed by frames without spikes, and `lengths` tells where those
    begin. Goes into `torch.utils.data.DataLoader(..., collate_fn=collate)`.

    Args:
        samples: Frames [T_i, ...] of counts (or spikes) and label of each recording; all with the
            same shape but for T_i.

    Raises:
        ValueError: There are no samples, their shapes differ, or a frame holds something negative
            or not finite: signed grids are no counts.

    Example:
        >>> batch = collate([(torch.tensor([[2.0], [0.0], [1.0]]), 7), (torch.ones(1, 1), 4)])
        >>> batch.spikes.to_dense().squeeze(-1)
        tensor([[1., 1.],
                [0., 0.],
                [1., 0.]])
        >>> batch.labels, batch.lengths
        (tensor([7, 4]), tensor([3, 1]))
    """
    frames = [_dense(frame) for frame, _ in samples]
    shapes = {tuple(frame.shape[1:]) for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"frames must have one shape after time, got {sorted(shapes)}")
    lengths = torch.tensor([len(frame) for frame in frames])
    fired = torch.zeros(int(lengths.max()), len(frames), *shapes.pop(), dtype=torch.bool)
    for column, frame in enumerate(frames):
        if not bool((frame >= 0).all() & frame.isfinite().all()):
            raise ValueError(f"frames must be counts, got {frame.min():g} in sample {column}")
        fired[: len(frame), column] = frame > 0
    labels = torch.tensor([int(label) for _, label in samples])
    return EventBatch(SpikeTensor.from_dense(fired), labels, lengths)


def _dense(frame: Tensor) -> Tensor:
    if frame.ndim < 1:
        raise ValueError("frames must be [T, ...], got a number")
    return frame.to_dense() if isinstance(frame, SpikeTensor) else frame
