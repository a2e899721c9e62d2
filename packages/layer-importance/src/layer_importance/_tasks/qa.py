"""Where in a text the answer to a question begins and ends."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from layer_importance import _batch
from layer_importance._structure import tensors
from layer_importance._task import Task, field
from layer_importance._tasks._labels import IGNORED, checked_labels, cross_entropies, drawn, one_of

_START, _END = "start_positions", "end_positions"


class QuestionAnswering(Task):
    """First and last token of the answer: start and end logits ``[N, T]`` each.

    The model answers with ``start_logits`` and ``end_logits``, a pair of tensors, or one
    ``[N, T, 2]``; labels are a mapping with ``start_positions`` and ``end_positions``, or
    ``[N, 2]``.

    The loss is ``-log p(start) - log p(end)``, in nats: the sum, so that it is minus the log
    probability of the span; a position outside of the text counts nothing.

    Args:
        metric: what quality is: ``f1`` of the tokens in the likeliest span and in the right one, or
            ``exact_match``.
        longest: most tokens an answer may have.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "qa"

    def __init__(
        self,
        *,
        metric: str = "f1",
        longest: int = 30,
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs, labels=labels)
        self.metric, self.longest = one_of("metric", metric, ("f1", "exact_match")), longest

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Cross entropy of the start and of the end."""
        del batch
        (start, end), (first, last) = _spans(output), _positions(labels)
        return _nats(start, first) + _nats(end, last)

    def answered(self, batch: Any) -> Tensor | None:
        """Which texts have a start or an end within them, as far as labels and inputs tell."""
        labels = self.labels(batch)
        if labels is None:
            return None
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
        end = ids.shape[1] if isinstance(ids, Tensor) else torch.iinfo(torch.long).max
        first, last = ((at >= 0) & (at < end) for at in _positions(labels))
        return first | last

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """F1 or exact match of the likeliest span; NaN where the answer is not in the text."""
        del batch
        scores = _spans(output)
        start, end = self._best(*scores)
        first, last = (_inside(at, s) for at, s in zip(_positions(labels), scores, strict=True))
        common = (torch.minimum(end, last) - torch.maximum(start, first) + 1).clamp_min(0)
        found = 2 * common.double() / (end - start + 1 + last - first + 1).double()
        if self.metric == "exact_match":
            found = ((start == first) & (end == last)).double()
        known = (first != IGNORED) & (last != IGNORED)
        return torch.where(known, found, torch.nan)

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws start and end from the model's probabilities, one without regard to the other."""
        del batch
        start, end = _spans(output)
        return {_START: drawn(start, generator), _END: drawn(end, generator)}

    def _best(self, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest span that ends where it begins or later, and is not too long."""
        tokens = start.shape[1]
        allowed = torch.ones(tokens, tokens, dtype=torch.bool, device=start.device)
        allowed = allowed.triu() & ~allowed.triu(self.longest)
        joint = (start[:, :, None] + end[:, None, :]).detach()
        best = torch.where(allowed, joint, -torch.inf).flatten(1).argmax(1)
        return best // tokens, best % tokens


def _spans(output: Any) -> tuple[Tensor, Tensor]:
    start, end = field(output, "start_logits"), field(output, "end_logits")
    if start is None or end is None:
        parts = [t for t in tensors(output) if t.is_floating_point()]
        if len(parts) == 1 and parts[0].ndim == 3 and parts[0].shape[2] == 2:
            start, end = parts[0].unbind(2)
        elif len(parts) >= 2:
            start, end = parts[:2]
    if start is None or end is None or start.ndim != 2 or start.shape != end.shape:
        raise ValueError(
            "qa needs start and end logits [N, T], or one tensor [N, T, 2], "
            f"got {[list(t.shape) for t in tensors(output)]}"
        )
    return start, end


def _positions(labels: Any) -> tuple[Tensor, Tensor]:
    if isinstance(labels, Mapping) and {_START, _END} <= labels.keys():
        return labels[_START], labels[_END]
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] == 2:
        return labels[:, 0], labels[:, 1]
    shape = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
    raise ValueError(f"labels must be a mapping with {_START} and {_END}, or [N, 2], got {shape}")


def _inside(where: Tensor, scores: Tensor) -> Tensor:
    within = (where >= 0) & (where < scores.shape[1])
    return checked_labels(torch.where(within, where, IGNORED), scores)


def _nats(scores: Tensor, where: Tensor) -> Tensor:
    return cross_entropies(scores, _inside(where, scores))
