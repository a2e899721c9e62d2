"""How good a network is: the metric of its task."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from adlrns._datasets import Task

BATCH = 256
# a lower value is a better one
FALLING = {"perplexity"}


def score(net: nn.Module, task: Task, *, device: torch.device | str = "cpu") -> float:
    """Returns the task's metric on its validation part.

    Accuracy in 0..1; Spearman's rank correlation; perplexity, the exponential of the mean cross
    entropy of a token.
    """
    return score_on(net, batches(task.valid, device=device), task.metric)


def score_on(net: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]], metric: str) -> float:
    """Returns a metric on pairs of inputs and targets."""
    outputs, targets = [], []
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            for x, y in pairs:
                outputs.append(_KEPT[metric](net(x), y))
                targets.append(y.cpu())
    finally:
        net.train(was_training)
    return _METRICS[metric](torch.cat(outputs), torch.cat(targets))


def batches(
    items: Dataset[Any], *, size: int = BATCH, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields inputs and targets in the order of a data set."""
    for x, y in DataLoader(items, batch_size=size):
        yield x.to(device), y.to(device)


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the correlation of the ranks, ties at their mean; 0 where one side is constant.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])), 2)
    0.5
    """
    a, b = (_ranks(values) - (len(values) - 1) / 2 for values in (one, other))
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / spread if spread else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return ((last - counts + last - 1) / 2)[inverse]


def _losses(output: Tensor, target: Tensor) -> Tensor:
    scores = output.flatten(0, -2)
    return F.cross_entropy(scores, target.flatten(), reduction="none").cpu()


# what is kept of an output: the scores of all tokens would fill the memory
_KEPT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": lambda output, target: (output.argmax(-1) == target).cpu(),
    "spearman": lambda output, target: output.squeeze(-1).cpu(),
    "perplexity": _losses,
}
_METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": lambda hits, target: float(hits.double().mean()),
    "spearman": lambda output, target: spearman(output.double().numpy(), target.double().numpy()),
    "perplexity": lambda losses, target: math.exp(min(700.0, float(losses.double().mean()))),
}
