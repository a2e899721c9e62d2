"""The right document for a query, among the others of the batch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance import _batch
from layer_importance._structure import tensors
from layer_importance._task import Task, field
from layer_importance._tasks._labels import checked_labels, cross_entropies, drawn, one_of
from layer_importance._tasks._ranks import ndcg, recall, reciprocal_rank

_PAIRS = (
    ("query_embeds", "document_embeds"),
    ("text_embeds", "image_embeds"),
    ("sentence_embeds", "document_embeds"),
)


class Retrieval(Task):
    """The right document for each query: queries ``[N, D]`` and documents ``[M, D]``, or scores.

    The model answers with a pair of embeddings, or with scores ``[N, M]`` (such as CLIP's
    ``logits_per_text``). The loss of a query is InfoNCE, the cross entropy of its document among
    all ``M`` (van den Oord et al., arXiv 1807.03748, eq. 4), in nats. The other queries' documents
    of the batch are the wrong ones, so that the loss depends on how data is split into batches;
    it does not where ``M`` documents come with every batch.

    A batch ``(queries, documents)`` calls the model with both; query ``i`` belongs to document
    ``i``, unless labels (a third entry, or the key) give each query's document.

    Args:
        similarity: ``cosine`` or ``dot`` of the embeddings.
        temperature: what similarities are divided by; scores are taken as they are.
        metric: what quality is: ``reciprocal_rank``, ``recall`` or ``ndcg`` of the first ``k``.
        k: how many are looked at.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "retrieval"

    def __init__(
        self,
        *,
        similarity: str = "cosine",
        temperature: float = 1.0,
        metric: str = "reciprocal_rank",
        k: int = 10,
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs or _both, labels=labels or _pairs)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.similarity = one_of("similarity", similarity, ("cosine", "dot"))
        self.metric = one_of("metric", metric, ("reciprocal_rank", "recall", "ndcg"))
        self.temperature, self.k = temperature, k

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Cross entropy of every query's document among all."""
        del batch
        scores = self._scores(output)
        return cross_entropies(scores, checked_labels(labels, scores))

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """How high every query's document comes; ties share their mean rank."""
        del batch
        scores = self._scores(output)
        labels = checked_labels(labels, scores)
        relevant = F.one_hot(labels.clamp_min(0), scores.shape[1]).bool() & (labels >= 0)[:, None]
        if self.metric == "reciprocal_rank":
            return reciprocal_rank(scores, relevant)
        return (ndcg if self.metric == "ndcg" else recall)(scores, relevant, self.k)

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws a document for each query from the softmax of its scores."""
        del batch
        return drawn(self._scores(output), generator)

    def enumerate(self, output: Any, batch: Any) -> list[tuple[Tensor, Tensor]]:
        """Every document with each query's probability of it."""
        del batch
        probabilities = self._scores(output).detach().double().softmax(-1)
        rows, documents = probabilities.shape
        return [
            (probabilities.new_full((rows,), place, dtype=torch.long), probabilities[:, place])
            for place in range(documents)
        ]

    def _scores(self, output: Any) -> Tensor:
        scores = field(output, "logits_per_text", "logits", "scores")
        scores = output if isinstance(output, Tensor) else scores
        if scores is None:
            queries, documents = _embeddings(output)
            if self.similarity == "cosine":
                queries, documents = F.normalize(queries, dim=-1), F.normalize(documents, dim=-1)
            scores = queries @ documents.T / self.temperature
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise ValueError(
                "retrieval needs scores [N, M] of at least 2 documents, "
                f"got {list(scores.shape)}; in-batch negatives need batches of 2 or more"
            )
        return scores


def _embeddings(output: Any) -> tuple[Tensor, Tensor]:
    for names in _PAIRS:
        found = [field(output, name) for name in names]
        if all(isinstance(one, Tensor) for one in found):
            return found[0], found[1]
    parts = [t for t in tensors(output) if t.is_floating_point()]
    if len(parts) < 2 or any(one.ndim != 2 for one in parts[:2]):
        shapes = [list(one.shape) for one in parts]
        raise ValueError(f"retrieval needs embeddings [N, D] and [M, D], got {shapes}")
    return parts[0], parts[1]


def _both(batch: Any) -> _batch.Call:
    if isinstance(batch, tuple | list):
        return _batch.Call(tuple(batch[:2]))
    return _batch.inputs(batch)


def _pairs(batch: Any) -> Any:
    """The labels of a batch, or one document for each query in order."""
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return batch[2]
    if isinstance(batch, Mapping) and (found := _batch.labels(batch)) is not None:
        return found
    first = next(tensors(batch))
    return torch.arange(_batch.size(batch), device=first.device)
