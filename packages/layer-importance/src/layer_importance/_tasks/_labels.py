"""Labels that are looked at before they are used, and what is drawn in their place."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance._draws import uniform

IGNORED = -100
"""The label of what has nothing to answer, as in ``torch.nn.functional.cross_entropy``."""


def checked_labels(labels: Any, logits: Tensor, ignored: int = IGNORED) -> Tensor:
    """Returns labels for logits ``[..., C]`` as int64, shape ``[...]``.

    Raises:
        TypeError: if they are no tensor of integers.
        ValueError: if their shape does not fit, or one is outside of ``0..C-1`` and not ignored.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor of integers, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have shape {list(logits.shape[:-1])} for logits {list(logits.shape)}, "
            f"got {list(labels.shape)}"
        )
    labels, classes = labels.long(), logits.shape[-1]
    bad = (labels != ignored) & ((labels < 0) | (labels >= classes))
    if bool(bad.any()):
        raise ValueError(
            f"labels must be in 0..{classes - 1}, or {ignored} where there is nothing to answer, "
            f"got {int(labels[bad][0])}"
        )
    return labels


def cross_entropies(logits: Tensor, labels: Tensor, ignored: int = IGNORED) -> Tensor:
    """Returns ``-log p(label)`` in nats for logits ``[..., C]``; 0 where the label is ignored."""
    rows = at_least_single(logits).reshape(-1, logits.shape[-1])
    losses = F.cross_entropy(rows, labels.reshape(-1), ignore_index=ignored, reduction="none")
    return losses.reshape(labels.shape)


def drawn(logits: Tensor, generator: torch.Generator, where: Tensor | None = None) -> Tensor:
    """Returns a class for each of ``[N, ...]`` from the probabilities of logits ``[N, ..., C]``.

    One number of ``0..1`` each, and the class at which the sum of probabilities passes it.
    ``where`` says which places count, see :func:`uniform`.
    """
    sums = logits.detach().double().softmax(-1).cumsum(-1)
    numbers = uniform(generator, logits.shape[:-1], where=where).to(sums.device)[..., None]
    found = torch.searchsorted(sums, numbers * sums[..., -1:], right=True)[..., 0]
    return found.clamp_max(logits.shape[-1] - 1)


def mean_over(values: Tensor, where: Tensor) -> Tensor:
    """Returns the mean over all but the first dimension of the entries ``where``; 0 if none."""
    kept = torch.where(where, values, torch.zeros_like(values)).flatten(1).sum(1)
    return kept / where.flatten(1).sum(1).clamp_min(1)


def at_least_single(tensor: Tensor) -> Tensor:
    """Returns half precision as float32: sums over many classes need it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Returns ``value``.

    Raises:
        ValueError: if it is none of ``choices``.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value
