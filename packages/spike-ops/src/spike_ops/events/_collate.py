"""Recordings as one batch of packed spikes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spike_ops._checked import whole_number
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.events._events import Events


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
            same shape but for T_i. Arrays are frames as tensors are.

    Raises:
        ValueError: There are no samples, their shapes differ, or a frame holds something negative
            or not finite: signed grids are no counts; or a label has a fraction.
        TypeError: A sample is no such pair.

    Example:
        >>> batch = collate([(torch.tensor([[2.0], [0.0], [1.0]]), 7), (torch.ones(1, 1), 4)])
        >>> batch.spikes.to_dense().squeeze(-1)
        tensor([[1., 1.],
                [0., 0.],
                [1., 0.]])
        >>> batch.labels, batch.lengths
        (tensor([7, 4]), tensor([3, 1]))
    """
    pairs = [_pair(sample) for sample in samples]
    frames = [frame for frame, _ in pairs]
    shapes = {tuple(frame.shape[1:]) for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"frames must have one shape after time, got {sorted(shapes)}")
    lengths = torch.tensor([len(frame) for frame in frames])
    fired = torch.zeros(int(lengths.max()), len(frames), *shapes.pop(), dtype=torch.bool)
    for column, frame in enumerate(frames):
        if not bool((frame >= 0).all() & frame.isfinite().all()):
            raise ValueError(f"frames must be counts, got {frame.min():g} in sample {column}")
        fired[: len(frame), column] = frame > 0
    labels = torch.tensor([label for _, label in pairs])
    return EventBatch(SpikeTensor.from_dense(fired), labels, lengths)


def _pair(sample: Any) -> tuple[Tensor, int]:
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise TypeError(f"samples must be pairs (frames, label), got {type(sample).__name__}")
    frame, label = sample
    label = label.item() if isinstance(label, Tensor) and label.numel() == 1 else label
    return _dense(frame), whole_number("labels", label)


def _dense(frame: Any) -> Tensor:
    if isinstance(frame, Events):
        raise TypeError("frames must be tensors, got Events; to_frames makes them")
    made: Tensor = frame.to_dense() if isinstance(frame, SpikeTensor) else torch.as_tensor(frame)
    if made.ndim < 1:
        raise ValueError("frames must be [T, ...], got a number")
    if made.is_complex():
        raise ValueError(f"frames must be counts, got {made.dtype}")
    return made
