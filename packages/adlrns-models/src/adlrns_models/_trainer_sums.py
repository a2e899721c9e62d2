"""Means over batches and epochs, and what they say about stopping."""

import math
from collections.abc import Sequence
from typing import Any

from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_objective import Outcome

_FIELDS = 7


class Sums:
    """Sums from which means are taken; ``values`` are plain numbers that a file can hold."""

    def __init__(self, values: Sequence[float] | None = None):
        self.values = [0.0] * _FIELDS if values is None else list(values)

    def add(self, values: Sequence[float]) -> None:
        """Adds what :func:`numbers` made of a batch, or other sums."""
        self.values = [a + b for a, b in zip(self.values, values, strict=True)]

    def means(self, prefix: str) -> dict[str, float]:
        """Returns loss, penalty, and accuracy and share of the FLOPs where they are known."""
        loss, penalty, rows, correct, judged, flops, measured = self.values
        means = {"loss": loss / rows if rows else math.nan}
        if measured:
            means["penalty"] = penalty / rows
            means["flops"] = flops / measured
        if judged:
            means["accuracy"] = correct / judged
        return {prefix + name: value for name, value in means.items()}


def numbers(outcome: Outcome) -> list[float]:
    """Returns what a batch adds to the sums, weighted by its rows."""
    rows, flops = outcome.rows, outcome.flops
    return [
        float(outcome.loss) * rows,
        float(outcome.penalty) * rows,
        float(rows),
        float(outcome.correct),
        float(outcome.judged),
        0.0 if flops is None else flops * rows,
        0.0 if flops is None else float(rows),
    ]


def watched(record: dict[str, Any]) -> float:
    """Returns the loss by which an epoch is judged; infinity if it was not finite."""
    loss = float(record.get("val_loss", record["train_loss"]))
    # no loss is smaller than NaN, and none is larger
    return loss if math.isfinite(loss) else math.inf


def is_best(history: Sequence[dict[str, Any]]) -> bool:
    """Returns whether the last epoch is better than all before; the first always is."""
    return all(watched(history[-1]) < watched(record) for record in history[:-1])


def is_stale(history: Sequence[dict[str, Any]], config: TrainConfig) -> bool:
    """Returns whether the last ``patience`` epochs were no better than what came before."""
    best, since = math.inf, 0
    for record in history:
        if watched(record) < best - config.min_delta:
            best, since = watched(record), 0
        else:
            since += 1
    return config.patience is not None and since >= config.patience
