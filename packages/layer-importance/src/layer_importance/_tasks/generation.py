"""The next token, everywhere in a text."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance import _batch
from layer_importance._tasks._labels import IGNORED
from layer_importance._tasks._sequence import SequenceTask


class Generation(SequenceTask):
    """The next token at every place of a text: logits ``[N, T, V]``, labels ``[N, T]``.

    Labels of a mapping are the tokens themselves, as Hugging Face has them, and a batch without
    labels is its own: logits at ``t`` are judged by the token at ``t + 1``. In a tuple
    ``(tokens, next_tokens)`` labels stand under the logits they are for. Tokens that the batch's
    ``attention_mask`` leaves out are no answers, nor is what the padding before a text would say.

    Args:
        shift: whether labels are the tokens themselves; by the form of the batch if not given.
        pad: see :class:`SequenceTask`.
        metric: see :class:`SequenceTask`.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "generation"

    def __init__(
        self,
        *,
        shift: bool | None = None,
        pad: int | None = None,
        metric: str = "accuracy",
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(pad=pad, metric=metric, inputs=inputs, labels=labels or _tokens)
        self.shift = shift

    def answers(self, output: Any, labels: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns the logits that are judged and, for each, the token it should have said."""
        scores, labels = super().answers(output, self._real(labels, batch), batch)
        return (scores[:, :-1], labels[:, 1:]) if self._shifts(batch) else (scores, labels)

    def answered(self, batch: Any) -> Tensor | None:
        """Which texts have a token to say."""
        labels = self._real(self.labels(batch), batch)
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            return None
        return self._known(labels[:, 1:] if self._shifts(batch) else labels)

    def _real(self, labels: Any, batch: Any) -> Any:
        """The labels, none where the token or the place that should say it is padding."""
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or mask is None or mask.shape != labels.shape:
            return labels
        real = mask.bool()
        if self._shifts(batch):
            real = real & F.pad(real, (1, -1), value=True)
        return torch.where(real, labels, IGNORED)

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws each token from the model's probabilities, given the data's tokens before it."""
        found = super().sample(output, batch, generator)
        if not self._shifts(batch):
            return found
        return torch.cat([found.new_full((len(found), 1), IGNORED), found], 1)

    def _shifts(self, batch: Any) -> bool:
        if self.shift is not None:
            return self.shift
        return not isinstance(batch, tuple | list) or len(batch) < 2


def _tokens(batch: Any) -> Any:
    """The labels, or the tokens that go in."""
    found = _batch.labels(batch)
    if found is not None:
        return found
    if isinstance(batch, Mapping):
        return batch.get("input_ids")
    return batch[0] if isinstance(batch, tuple | list) else batch
