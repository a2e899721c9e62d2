"""A converted network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.convert._neurons import Spiking, WinnerPool
from spike_ops.convert._operations import with_additions
from spike_ops.convert._statistics import watch
from spike_ops.energy import OperationCounts, count_operations

Encoder = Callable[[Tensor, int], Tensor]


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


class ConvertedNet(nn.Module):
    """Return the mean output over T steps of a network of spiking neurons, for inputs [B, ...].

    Made by `convert`. The input is a constant current, or what an encoder makes of it; neurons
    stand where activations stood, and what the last layer gives is averaged over time. Between
    neurons go spikes of 0 and 1 (and -1 of signed ones) times the threshold of their layer.

    Attributes:
        ann: The original network in evaluation, with its norms folded.
        steps: T where a call does not say.
    """

    def __init__(self, net: fx.GraphModule, ann: fx.GraphModule, steps: int) -> None:
        super().__init__()
        self.net, self.ann, self.steps = net, ann, steps

    def forward(
        self, inputs: Tensor, steps: int | None = None, encoder: Encoder | None = None
    ) -> Tensor:
        """Return the output [B, ...], the mean over the steps."""
        return self.run(inputs, steps, encoder).mean(0)

    def run(
        self, inputs: Tensor, steps: int | None = None, encoder: Encoder | None = None
    ) -> Tensor:
        """Return the output of every step [T, B, ...]; a gradient does not go back.

        Args:
            inputs: [B, ...].
            steps: T; `self.steps` without one.
            encoder: Makes what goes in over time [T, B, ...] of inputs and T, as
                `spike_ops.encoding.rate`; its mean over time must be the input for the network to
                compute what the original does. Without one the input is a constant current.

        Raises:
            ValueError: `steps` is below 1, or the encoder gives another shape.
        """
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        for each in self.net.modules():
            if isinstance(each, Spiking | WinnerPool):
                each.steps = steps
        with torch.no_grad():
            out: Tensor = self.net(_over_time(inputs, steps, encoder).flatten(0, 1))
        return out.unflatten(0, (steps, -1))

    def layers(self) -> dict[str, Spiking]:
        """Return the layers of neurons by the names of the activations, in order."""
        calls = [str(node.target) for node in self.net.graph.nodes if node.op == "call_module"]
        modules = {name: self.net.get_submodule(name) for name in calls}
        return {name: each for name, each in modules.items() if isinstance(each, Spiking)}

    def counts(self, inputs: Tensor, steps: int | None = None) -> dict[str, Tensor]:
        """Return, of each layer, how often each neuron fired [B, ...]."""
        self.run(inputs, steps)
        found = {name: layer.counts for name, layer in self.layers().items()}
        return {name: counts for name, counts in found.items() if counts is not None}

    def count_operations(self, inputs: Tensor, steps: int | None = None) -> OperationCounts:
        """Return the operations of a run, of which `energy.estimate_energy` makes energies.

        As `energy.count_operations`, but a layer that hears neurons does additions: what they send
        is a spike times a threshold, which can be multiplied into the weights. A layer behind sums
        or averages, and the first one, which hears the input itself at every step, multiplies.

        Args:
            inputs: [B, ...].
            steps: T; `self.steps` without one.
        """
        before = self.steps
        self.steps = before if steps is None else steps
        try:
            counts = count_operations(self, inputs, batch_axis=0)
        finally:
            self.steps = before
        return with_additions(counts, self.net, "net.")

    def report(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        *,
        steps: Sequence[int] = (4, 8, 16, 32),
        encoder: Encoder | None = None,
    ) -> ConversionReport:
        """Return errors, accuracy and rates at several numbers of steps.

        Args:
            inputs: [B, ...].
            labels: [B], the right classes.
            steps: The numbers of steps.
            encoder: As of `run`.
        """
        with torch.no_grad():
            expected = self.ann(inputs)
        activations = watch(self.ann, inputs)
        rows = tuple(
            self._row(self(inputs, each, encoder), labels, each, expected, activations)
            for each in steps
        )
        held = {
            name: (layer.thresholds.min().item(), layer.thresholds.max().item())
            for name, layer in self.layers().items()
        }
        return ConversionReport(held, rows, _accuracy(expected, labels))

    def _row(
        self,
        out: Tensor,
        labels: Tensor | None,
        steps: int,
        expected: Tensor,
        activations: dict[str, Tensor],
    ) -> Row:
        layers = self.layers()
        errors = {name: _error(layer.rates(), activations[name]) for name, layer in layers.items()}
        counts = [layer.counts for layer in layers.values() if layer.counts is not None]
        neurons = sum(each.numel() for each in counts)
        fired = sum(each.abs().sum().item() for each in counts)
        agreement = (out.argmax(-1) == expected.argmax(-1)).float().mean().item()
        return Row(
            steps, errors, _error(out, expected), _accuracy(out, labels), agreement,
            fired / max(1, neurons * steps),
        )  # fmt: skip


def _over_time(inputs: Tensor, steps: int, encoder: Encoder | None) -> Tensor:
    wanted = (steps, *inputs.shape)
    if encoder is None:
        return inputs.expand(wanted)
    made = encoder(inputs, steps)
    if tuple(made.shape) != wanted:
        raise ValueError(f"encoder must return {wanted}, got {tuple(made.shape)}")
    return made.to_dense() if isinstance(made, SpikeTensor) else made


def _error(got: Tensor, expected: Tensor) -> float:
    size = expected.abs().mean().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((got - expected).abs().mean() / size)


def _accuracy(outputs: Tensor, labels: Tensor | None) -> float | None:
    return None if labels is None else float((outputs.argmax(-1) == labels).float().mean())
