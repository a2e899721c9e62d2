"""What a model is for: how its answer to a batch is judged, sample by sample."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layer_importance import _batch
from layer_importance._structure import stream


class Task:
    """Inputs, loss, quality and sampled labels of one kind of problem.

    A subclass gives ``loss`` and, where the model is a distribution over answers, ``sample``. Each
    takes the model's output first and answers with one row per sample.

    Args:
        inputs: what the model is called with, from a batch, as a
            :class:`~layer_importance.Call`; the usual forms if not given.
        labels: what it should answer, from a batch; the usual forms if not given.
    """

    name = "task"
    measure = "nats"
    """Unit of measure of the loss."""

    def __init__(
        self,
        *,
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        self.inputs = inputs or _batch.inputs
        self.labels = labels or _batch.labels

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Returns the loss of every sample, ``[N]``; 0 for one that has nothing to answer.

        Raises:
            NotImplementedError: if the task does not say.
        """
        raise NotImplementedError(f"task {self.name} must say what the loss is: override loss")

    def count(self, labels: Any, batch: Any) -> int:
        """Returns how many samples the loss is for: the rows of the labels, else of the batch."""
        return len(labels) if isinstance(labels, Tensor) and labels.ndim else _batch.size(batch)

    def answered(self, batch: Any) -> Tensor | None:
        """Returns which samples have something to answer, ``[N]``; ``None`` if all have.

        The others count nowhere.
        """
        del batch
        return None

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor | None:
        """Returns how good every answer is, ``[N]``, more is better; ``None`` if undefined.

        NaN for a sample that has nothing to answer.
        """
        del output, labels, batch
        return None

    @property
    def can_sample(self) -> bool:
        """Whether the model is a distribution over answers, so that labels can be drawn."""
        return type(self).sample is not Task.sample

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Any:
        """Returns labels drawn from the model's own distribution over answers.

        Raises:
            NotImplementedError: if the model is not a distribution.
        """
        raise NotImplementedError(f"task {self.name} has no distribution to draw labels from")

    def enumerate(self, output: Any, batch: Any) -> list[tuple[Any, Tensor]]:
        """Returns every possible answer: labels and the probability of each sample having them.

        Raises:
            NotImplementedError: if there are too many.
        """
        raise NotImplementedError(f"task {self.name} cannot list its answers")

    def mask(self, batch: Any) -> Tensor | None:
        """Returns which positions are real, ``[N, T]``; ``None`` if all are."""
        mask = batch.get("attention_mask") if hasattr(batch, "get") else None
        # packed texts have the numbers of their segments in it
        return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def field(output: Any, *names: str) -> Any:
    """Returns the first of the named attributes or keys that an output has; ``None`` if none."""
    for name in names:
        found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if found is not None:
            return found
    return None


def logits(output: Any) -> Tensor:
    """Returns the logits of an output: ``output.logits``, ``output["logits"]`` or first tensor.

    Raises:
        TypeError: if there is no floating tensor.
    """
    found = field(output, "logits")
    if found is None:
        found = stream(output)
    if not isinstance(found, Tensor):
        raise TypeError(f"the model's output must hold a floating tensor, got {output!r:.80}")
    return found
