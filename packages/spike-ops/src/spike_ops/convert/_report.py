"""How close a converted network comes to the original one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """What a number of steps gives.

    Attributes:
        steps: T.
        errors: Of each layer, mean |rate θ - activation| over mean activation.
        output_error: The same of the network's output, by mean absolute values.
        accuracy: Share of inputs whose largest output is the label; None without labels.
        agreement: Share of inputs whose largest output is the original network's.
        rate: Mean spikes per neuron and step; spikes of -1 count.
    """

    steps: int
    errors: dict[str, float]
    output_error: float
    accuracy: float | None
    agreement: float
    rate: float


@dataclass(frozen=True)
class ConversionReport:
    """How close a converted network comes to the original one.

    Attributes:
        thresholds: Of each layer, the smallest and the largest θ.
        rows: One for each number of steps.
        accuracy: Of the original network; None without labels.
    """

    thresholds: dict[str, tuple[float, float]]
    rows: tuple[Row, ...]
    accuracy: float | None

    def __str__(self) -> str:
        lines = [f"{'steps':>6} {'accuracy':>9} {'agreement':>10} {'error':>8} {'rate':>7}"]
        for row in self.rows:
            accuracy = "-" if row.accuracy is None else f"{row.accuracy:.4f}"
            lines.append(
                f"{row.steps:>6} {accuracy:>9} {row.agreement:>10.4f} {row.output_error:>8.4f} "
                f"{row.rate:>7.4f}"
            )
        original = "-" if self.accuracy is None else f"{self.accuracy:.4f}"
        lines.append(f"{'ANN':>6} {original:>9}")
        lines += [f"θ {name}: {a:g} to {b:g}" for name, (a, b) in self.thresholds.items()]
        return "\n".join(lines)


def one_each(labels: Any, inputs: Tensor) -> Tensor:
    """Return the classes of inputs [B, ...]; raise unless they are [B]."""
    classes = torch.as_tensor(labels, device=inputs.device)
    if classes.shape != inputs.shape[:1]:
        got = f"{tuple(classes.shape)} for {tuple(inputs.shape)}"
        raise ValueError(f"labels must be one class for each input, [B], got {got}")
    return classes


def error_of(got: Tensor, expected: Tensor) -> float:
    """Return the mean difference over the mean size of what was expected."""
    size = expected.abs().mean().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((got - expected).abs().mean() / size)


def accuracy_of(outputs: Tensor, labels: Tensor | None) -> float | None:
    """Return the share of outputs whose largest is the label's; None without labels."""
    return None if labels is None else float((outputs.argmax(-1) == labels).float().mean())
