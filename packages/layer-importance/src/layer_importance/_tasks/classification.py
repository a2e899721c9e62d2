"""One label a sample."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance._task import Task, logits


class Classification(Task):
    """One of ``C`` classes for each sample: logits ``[N, C]``, labels ``[N]``.

    The loss is the cross entropy in nats, quality is 1 for a right answer and 0 for a wrong one.
    """

    name = "classification"

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Cross entropy of every sample."""
        del batch
        return F.cross_entropy(logits(output), labels, reduction="none")

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """1 where the likeliest class is the label."""
        del batch
        return (logits(output).argmax(-1) == labels).double()

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws each sample's label from the model's own probabilities."""
        del batch
        probabilities = logits(output).detach().double().softmax(-1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

    def enumerate(self, output: Any, batch: Any) -> list[tuple[Tensor, Tensor]]:
        """Every class with each sample's probability of it."""
        del batch
        probabilities = logits(output).detach().double().softmax(-1)
        rows, classes = probabilities.shape
        return [
            (torch.full((rows,), label, device=probabilities.device), probabilities[:, label])
            for label in range(classes)
        ]
