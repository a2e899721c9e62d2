"""What generation, translation and summarization share: an answer of tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layer_importance import _batch
from layer_importance._task import Task, logits
from layer_importance._tasks._labels import (
    IGNORED,
    checked_labels,
    cross_entropies,
    drawn,
    mean_over,
    one_of,
)
from layer_importance._tasks._overlap import rouge_l

_METRICS = ("accuracy", "exact_match", "likelihood", "rouge_l")


class SequenceTask(Task):
    """Token by token, each given the right ones before it: logits ``[N, T, V]``, labels ``[N, T]``.

    The loss of a sample is the mean of ``-log p(token)`` over its real tokens, in nats a token;
    those labelled -100 or ``pad`` count nowhere.

    Args:
        pad: a label that fills up, beside -100.
        metric: what quality is. ``accuracy``: share of tokens that are the likeliest.
            ``exact_match``: 1 if all are. ``likelihood``: ``exp(-loss)``, one over the perplexity.
            ``rouge_l``: F1 of the longest common subsequence of the likeliest tokens and the
            labels (Lin 2004).
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    def __init__(
        self,
        *,
        pad: int | None = None,
        metric: str = "accuracy",
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs, labels=labels)
        self.pad, self.metric = pad, one_of("metric", metric, _METRICS)

    def answers(self, output: Any, labels: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns logits ``[N, T, V]`` and the labels ``[N, T]`` they are for, -100 where none."""
        del batch
        scores = logits(output)
        if scores.ndim != 3:
            raise ValueError(f"task {self.name} needs logits [N, T, V], got {list(scores.shape)}")
        if self.pad is not None and isinstance(labels, Tensor):
            labels = torch.where(labels == self.pad, IGNORED, labels)
        return scores, checked_labels(labels, scores)

    def answered(self, batch: Any) -> Tensor | None:
        """Which samples have a real token."""
        return self._known(self.labels(batch))

    def _known(self, labels: Any) -> Tensor | None:
        """Which rows hold a label that counts."""
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            return None
        real = labels != IGNORED
        return (real if self.pad is None else real & (labels != self.pad)).any(1)

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Mean cross entropy over the real tokens of every sample; 0 if it has none."""
        scores, labels = self.answers(output, labels, batch)
        return mean_over(cross_entropies(scores, labels), labels != IGNORED)

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """The metric of every sample; NaN if it has no real token."""
        scores, labels = self.answers(output, labels, batch)
        real = labels != IGNORED
        if self.metric == "likelihood":
            found = (-mean_over(cross_entropies(scores, labels), real)).exp().double()
        elif self.metric == "rouge_l":
            found = rouge_l(scores.argmax(-1), labels, real)
        else:
            found = mean_over((scores.argmax(-1) == labels).double(), real)
            found = (found == 1).double() if self.metric == "exact_match" else found
        return torch.where(real.any(1), found.detach(), torch.nan)

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws each token from the model's probabilities, given the data's tokens before it."""
        labels = self.labels(batch)
        scores, known = self.answers(output, labels, batch)
        return torch.where(known == IGNORED, IGNORED, drawn(scores, generator, known != IGNORED))
