"""One label a pixel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance import _batch
from layer_importance._task import Task, logits
from layer_importance._tasks._labels import (
    checked_labels,
    cross_entropies,
    drawn,
    mean_over,
    one_of,
)


class Segmentation(Task):
    """One of ``C`` classes for each pixel: logits ``[N, C, ...]``, labels ``[N, ...]``.

    The loss of an image is the mean cross entropy over its labelled pixels, in nats a pixel. Logits
    on a coarser grid than the labels, as Hugging Face hands out, are scaled up bilinearly. One
    channel is the log odds of class 1.

    Args:
        ignored: the label of pixels that count nowhere; data sets often have 255.
        metric: what quality is. ``miou``: intersection over union, averaged over the classes that
            are in the image or in the answer. ``accuracy``: share of pixels that are right.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "segmentation"

    def __init__(
        self,
        *,
        ignored: int = -100,
        metric: str = "miou",
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs, labels=labels)
        self.ignored, self.metric = ignored, one_of("metric", metric, ("miou", "accuracy"))

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Mean cross entropy over the labelled pixels of every image; 0 if there is none."""
        del batch
        scores, labels = self._pixels(output, labels)
        return mean_over(cross_entropies(scores, labels, self.ignored), labels != self.ignored)

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Mean intersection over union, or accuracy, of every image; NaN without a label."""
        del batch
        scores, labels = self._pixels(output, labels)
        guesses, real = scores.argmax(-1), labels != self.ignored
        if self.metric == "accuracy":
            found = mean_over((guesses == labels).double(), real)
            return torch.where(real.flatten(1).any(1), found, torch.nan)
        guesses, labels, real = (part.flatten(1) for part in (guesses, labels, real))
        both, either = [], []
        for one in range(scores.shape[-1]):
            said, right = (guesses == one) & real, labels == one
            both.append((said & right).sum(1))
            either.append((said | right).sum(1))
        # 0 / 0 where a class is in neither: it is left out of the mean
        return (torch.stack(both, 1).double() / torch.stack(either, 1)).nanmean(1)

    def answered(self, batch: Any) -> Tensor | None:
        """Which images have a labelled pixel."""
        labels = self.labels(batch)
        if not isinstance(labels, Tensor) or labels.ndim < 2:
            return None
        return (labels != self.ignored).flatten(1).any(1)

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws each pixel's label from the model's probabilities."""
        scores, labels = self._pixels(output, self.labels(batch))
        known = labels != self.ignored
        return torch.where(known, drawn(scores, generator, known), self.ignored)

    def _pixels(self, output: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """Logits ``[N, ..., C]`` and labels ``[N, ...]``."""
        scores = logits(output)
        if scores.ndim < 3:
            raise ValueError(f"segmentation needs logits [N, C, ...], got {list(scores.shape)}")
        fits = isinstance(labels, Tensor) and labels.ndim == scores.ndim - 1
        if fits and scores.ndim == 4 and labels.shape[1:] != scores.shape[2:]:
            size = tuple(labels.shape[1:])
            scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        if scores.shape[1] == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], 1)
        scores = scores.movedim(1, -1)
        return scores, checked_labels(labels, scores, self.ignored)
