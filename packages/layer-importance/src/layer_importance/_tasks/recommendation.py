"""What somebody will choose, out of what there is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance import _batch
from layer_importance._task import Task, logits
from layer_importance._tasks._labels import IGNORED, checked_labels, drawn, one_of
from layer_importance._tasks._ranks import ndcg, recall


class Recommendation(Task):
    """What a user chooses: scores ``[N, M]`` of ``M`` items, all or candidates.

    Labels are the chosen item's place ``[N]``, or which were chosen ``[N, M]``, true or false. The
    loss is the mean over the chosen ones of

    * ``softmax``: ``-log p(item)``, in nats (Liang et al., arXiv 1802.05814, eq. 2, per item);
    * ``bpr``: ``-log sigmoid(s_chosen - s_other)``, averaged over those not chosen (Rendle et al.,
      arXiv 1205.2618, sec. 4.1, without the prior), in nats.

    Star ratings are task ``regression``.

    Args:
        objective: ``softmax`` or ``bpr``. Only the first is a distribution to draw labels from.
        metric: what quality is: ``ndcg`` or ``recall`` of the first ``k``; equal scores share
            their mean rank.
        k: how many are shown.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "recommendation"

    def __init__(
        self,
        *,
        objective: str = "softmax",
        metric: str = "ndcg",
        k: int = 10,
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs, labels=labels)
        self.objective = one_of("objective", objective, ("softmax", "bpr"))
        self.metric, self.k = one_of("metric", metric, ("ndcg", "recall")), k

    @property
    def can_sample(self) -> bool:
        """Whether scores are the logits of a choice: with ``softmax``."""
        return self.objective == "softmax"

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """The objective, averaged over each sample's chosen items; 0 if there are none."""
        del batch
        scores = _scores(output)
        chosen = _chosen(labels, scores)
        if self.objective == "bpr":
            return _bpr(scores, chosen)
        nats = torch.where(chosen, -scores.log_softmax(-1), torch.zeros_like(scores))
        return nats.sum(-1) / chosen.sum(-1).clamp_min(1)

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """How high the chosen items come; NaN if there are none."""
        del batch
        scores = _scores(output)
        return (ndcg if self.metric == "ndcg" else recall)(scores, _chosen(labels, scores), self.k)

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws one item a sample from the softmax of its scores."""
        if not self.can_sample:
            return super().sample(output, batch, generator)
        return drawn(_scores(output), generator)

    def enumerate(self, output: Any, batch: Any) -> list[tuple[Tensor, Tensor]]:
        """Every item with each sample's probability of it."""
        if not self.can_sample:
            return super().enumerate(output, batch)
        probabilities = _scores(output).detach().double().softmax(-1)
        rows, items = probabilities.shape
        return [
            (probabilities.new_full((rows,), item, dtype=torch.long), probabilities[:, item])
            for item in range(items)
        ]


def _scores(output: Any) -> Tensor:
    scores = logits(output)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"recommendation needs scores [N, M] of at least 2 items, got {list(scores.shape)}"
        )
    return scores


def _chosen(labels: Any, scores: Tensor) -> Tensor:
    """Which items were chosen, ``[N, M]``."""
    if not (isinstance(labels, Tensor) and labels.ndim == 2):
        labels = checked_labels(labels, scores)
        return F.one_hot(labels.clamp_min(0), scores.shape[1]).bool() & (labels != IGNORED)[:, None]
    if labels.shape != scores.shape:
        raise ValueError(f"labels must have shape {list(scores.shape)}, got {list(labels.shape)}")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("labels [N, M] must say which items were chosen, 0 or 1, got other values")
    return labels.bool()


def _bpr(scores: Tensor, chosen: Tensor) -> Tensor:
    """Mean of ``-log sigmoid(s_i - s_j)`` over chosen ``i`` and other ``j`` of every sample."""
    if bool(chosen.all(-1).any()):
        raise ValueError("bpr needs items that were not chosen, got samples with none")
    rows, columns = chosen.nonzero(as_tuple=True)
    margins = scores[rows] - scores[rows, columns][:, None]
    others = (~chosen[rows]).to(scores.dtype)
    each = (F.softplus(margins) * others).sum(-1) / others.sum(-1)
    total = torch.zeros_like(scores[:, 0]).index_add(0, rows, each)
    return total / chosen.sum(-1).clamp_min(1)
