"""One label a sample."""

from typing import Any

import torch
from torch import Tensor

from layer_importance._task import Task, logits
from layer_importance._tasks._labels import (
    IGNORED,
    at_least_single,
    checked_labels,
    cross_entropies,
    drawn,
)


class Classification(Task):
    """One of ``C`` classes for each sample: logits ``[N, C]``, labels ``[N]``.

    The loss is the cross entropy in nats, ``-log p(label)``; quality is 1 for a right answer and 0
    for a wrong one. One logit a sample, ``[N]`` or ``[N, 1]``, is the log odds of class 1. Labels
    may also be probabilities ``[N, C]``. A sample with label -100 is left out; one that cannot be,
    such as a node of a graph that belongs to another split, has loss 0 and no quality.
    """

    name = "classification"

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Cross entropy of every sample."""
        del batch
        scores = _classes(output)
        if _is_distribution(labels):
            scores = at_least_single(scores)
            return -(_distribution(labels, scores) * scores.log_softmax(-1)).sum(-1)
        return cross_entropies(scores, checked_labels(labels, scores))

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """1 where the likeliest class is the label; NaN where there is none."""
        del batch
        scores = _classes(output)
        if _is_distribution(labels):
            labels = _distribution(labels, scores).argmax(-1)
        labels = checked_labels(labels, scores)
        right = (scores.argmax(-1) == labels).double()
        return torch.where(labels == IGNORED, torch.nan, right)

    def answered(self, batch: Any) -> Tensor | None:
        """Which samples have a label."""
        labels = self.labels(batch)
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
            return None
        return labels != IGNORED

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws each sample's label from the model's own probabilities."""
        return self._where_asked(drawn(_classes(output), generator), batch)

    def enumerate(self, output: Any, batch: Any) -> list[tuple[Tensor, Tensor]]:
        """Every class with each sample's probability of it."""
        probabilities = _classes(output).detach().double().softmax(-1)
        rows, classes = probabilities.shape
        return [
            (
                self._where_asked(probabilities.new_full((rows,), label, dtype=torch.long), batch),
                probabilities[:, label],
            )
            for label in range(classes)
        ]

    def _where_asked(self, drawn: Tensor, batch: Any) -> Tensor:
        """What has no label in the data gets none from the model."""
        labels = self.labels(batch)
        if not isinstance(labels, Tensor) or labels.shape != drawn.shape:
            return drawn
        return torch.where(labels == IGNORED, IGNORED, drawn)


def _classes(output: Any) -> Tensor:
    scores = logits(output)
    if scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1):
        return torch.stack([torch.zeros_like(scores.flatten()), scores.flatten()], 1)
    if scores.ndim != 2:
        raise ValueError(
            f"classification needs logits [N, C], got {list(scores.shape)}; tokens and pixels "
            "are tasks generation and segmentation"
        )
    return scores


def _is_distribution(labels: Any) -> bool:
    return isinstance(labels, Tensor) and labels.is_floating_point() and labels.ndim == 2


def _distribution(labels: Tensor, scores: Tensor) -> Tensor:
    if labels.shape != scores.shape:
        raise ValueError(
            f"probabilities must have shape {list(scores.shape)}, got {list(labels.shape)}"
        )
    return labels.to(scores.dtype)
