"""A number, or several, a sample."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layer_importance import _batch
from layer_importance._draws import uniform
from layer_importance._task import Task, logits


class Regression(Task):
    """Numbers for each sample: output and labels of one shape ``[N, ...]``.

    The model's output is the mean of a normal distribution with standard deviation ``sigma``, the
    loss its negative log-likelihood without the constant: ``|output - label|^2 / (2 sigma^2)``, in
    nats. Quality is minus the mean squared error.

    Args:
        sigma: standard deviation of what is predicted.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.

    Raises:
        ValueError: if ``sigma`` is not a positive number.
    """

    name = "regression"

    def __init__(
        self,
        *,
        sigma: float = 1.0,
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs, labels=labels)
        if not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma must be a positive number, got {sigma}")
        self.sigma = sigma

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Half the squared error of every sample in units of ``sigma``."""
        del batch
        return _squared_errors(output, labels) / (2 * self.sigma**2)

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """Minus the mean squared error."""
        del batch
        found = logits(output)
        return -_squared_errors(found, labels) * (len(found) / max(found.numel(), 1))

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Tensor:
        """Draws from the normal distribution around the output."""
        del batch
        found = logits(output).detach()
        numbers = uniform(generator, found.shape).clamp_min(torch.finfo(torch.float64).tiny)
        return found + self.sigma * torch.special.ndtri(numbers).to(found)


def _squared_errors(output: Any, labels: Any) -> Tensor:
    found = logits(output)
    if not isinstance(labels, Tensor) or not labels.is_floating_point():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of floating numbers, got {got}")
    if labels.shape != found.shape and labels.numel() != found.numel():
        raise ValueError(
            f"labels must have the output's shape {list(found.shape)}, got {list(labels.shape)}"
        )
    return (found - labels.reshape(found.shape)).reshape(len(found), -1).square().sum(1)
