"""The streams of units: where samples and tokens are, which are real, who stands in for whom."""

from typing import Any

import torch
from torch import Tensor

from layer_importance._subject import Subject
from layer_importance._units import Unit


def samples_first(subject: Subject, unit: Unit, y: Tensor, samples: int) -> Tensor | None:
    """Returns a unit's output as a view ``[N, ...]``; ``None`` if samples cannot be told apart."""
    layout = subject.layouts.get(unit.path)
    if layout is None or layout.y_axis < 0 or y.shape[layout.y_axis] != samples:
        return None
    return y.movedim(layout.y_axis, 0)


def as_given(subject: Subject, unit: Unit, rows: Tensor) -> Tensor:
    """Returns what :func:`samples_first` was taken of."""
    return rows.movedim(0, subject.layouts[unit.path].y_axis)


def channel_dim(subject: Subject, unit: Unit, y: Tensor) -> int:
    """Returns the dimension of a unit's output that holds the features of one token or place."""
    layout = subject.layouts.get(unit.path)
    spatial = layout is not None and layout.channels == 1 and layout.y_axis == 0 and y.ndim > 2
    return 1 if spatial else y.ndim - 1


def over_features(subject: Subject, unit: Unit, values: Tensor, like: Tensor) -> Tensor:
    """Returns ``[D]`` values as a tensor that multiplies or adds to each token of ``like``."""
    shape = [1] * like.ndim
    shape[channel_dim(subject, unit, like)] = len(values)
    return values.to(like.device, like.dtype).reshape(shape)


def tokens(subject: Subject, unit: Unit, rows: Tensor) -> Tensor:
    """Returns ``[N, ...]`` as ``[N, T, D]``: samples, tokens or places, features."""
    if rows.ndim == 1:
        return rows[:, None, None]
    moved = rows.movedim(channel_dim(subject, unit, rows), -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def real(mask: Tensor | None, rows: Tensor) -> Tensor | None:
    """Returns which tokens of a stream ``[N, T, D]`` are no padding; ``None`` if all or unknown."""
    fits = mask is not None and rows.ndim == 3 and tuple(mask.shape) == tuple(rows.shape[:2])
    return mask.bool() if fits and mask is not None else None


def known_tokens(subject: Subject, unit: Unit, batch: Any, rows: Tensor) -> Tensor | None:
    """Returns which tokens of a unit's stream ``[N, T, D]`` are no padding, as its tower has it."""
    return real(subject.mask(batch, rows.shape[1], unit.tower), rows) if rows.ndim == 3 else None


def known_entries(subject: Subject, unit: Unit, batch: Any, rows: Tensor) -> Tensor | None:
    """Returns which entries of a unit's stream, samples first, are no padding.

    It has one feature, where ``rows`` has them: ``[N, T, 1]`` or ``[N, 1, T]``.
    """
    if rows.ndim != 3:
        return None
    features = channel_dim(subject, unit, rows)
    mask = subject.mask(batch, rows.shape[3 - features], unit.tower)
    return None if mask is None or len(mask) != len(rows) else mask.bool().unsqueeze(features)


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """Returns who stands in for each of ``count`` samples, never itself: one random cycle.

    Raises:
        ValueError: if there is nobody else.

    Source: Sattolo (1986): every cycle through all samples is equally likely.
    """
    if count < 2:
        raise ValueError(f"count must be at least 2 for one to stand in for another, got {count}")
    order = torch.randperm(count, generator=generator, device=generator.device)
    donors = torch.empty_like(order)
    donors[order] = order.roll(1)
    return donors


def donated(subject: Subject, unit: Unit, batch: Any, rows: Tensor, donors: Tensor) -> Tensor:
    """Returns a unit's stream ``[N, ...]`` with each sample's values from its donor.

    Where the donor has padding, the mean of its real tokens stands in.
    """
    taken = rows[donors]
    if (known := known_entries(subject, unit, batch, rows)) is None:
        return taken
    along = 3 - channel_dim(subject, unit, rows)
    total = torch.where(known, rows, torch.zeros_like(rows)).sum(along, keepdim=True)
    mean = total / known.sum(along, keepdim=True).clamp_min(1).to(rows.dtype)
    return torch.where(known[donors], taken, mean[donors])
