"""A converted network."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx, nn

from spike_ops._checked import tensor, whole_number
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.convert._errors import taken
from spike_ops.convert._neurons import Spiking, WinnerPool
from spike_ops.convert._operations import with_additions
from spike_ops.convert._report import ConversionReport, Row, accuracy_of, error_of, one_each
from spike_ops.convert._sequence import sequence_of
from spike_ops.convert._statistics import watch
from spike_ops.energy import OperationCounts, count_operations

Encoder = Callable[[Tensor, int], Tensor]


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
            ValueError: `steps` is below 1 or not whole, the encoder gives another shape, or the
                network does not take such inputs.
            TypeError: `inputs` are no tensor, or the encoder is no function.
        """
        steps = self.steps if steps is None else number_of_steps(steps)
        inputs = tensor("inputs", inputs)
        if encoder is not None and not callable(encoder):
            rule = "encoder must be a function of inputs and T, as spike_ops.encoding.rate"
            raise TypeError(f"{rule}, got {encoder!r}")
        for each in self.net.modules():
            if isinstance(each, Spiking | WinnerPool):
                each.steps = steps
        currents = _over_time(inputs, steps, encoder).flatten(0, 1)
        with torch.no_grad(), taken("inputs", inputs):
            out: Tensor = self.net(currents)
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

    def to_sequential(self, steps: int | None = None) -> nn.Sequential:
        """Return the network over time, [T, B, ...] in and out, as `to_nir` and chips take it.

        Layers and neurons one after the other: thresholds are 1, folded into the weights, and
        membranes begin at 0. Beginning at θ/2 becomes a current of θ/2T at every step, so that
        after T steps of a constant current neurons have fired as often as here. The mean of the
        output over T steps is the output; for an input that stays, give it at every step.

        Args:
            steps: T; `self.steps` without one.

        Raises:
            ConversionError: A part is no linear layer, convolution, average pool, flatten or plain
                neuron (`"if"`), or does not stand in a row with the others; it names the part.
            ValueError: `steps` is below 1 or not whole.
        """
        return sequence_of(self.net, self.steps if steps is None else number_of_steps(steps))

    def report(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        *,
        steps: int | Iterable[int] = (4, 8, 16, 32),
        encoder: Encoder | None = None,
    ) -> ConversionReport:
        """Return errors, accuracy and rates at several numbers of steps.

        Args:
            inputs: [B, ...].
            labels: [B], the right classes.
            steps: The numbers of steps, or one.
            encoder: As of `run`.

        Raises:
            ValueError: Labels are not [B], a number of steps is below 1 or not whole, or there is
                none.
            TypeError: `inputs` are no tensor.
        """
        inputs = tensor("inputs", inputs)
        labels = None if labels is None else one_each(labels, inputs)
        several = steps if isinstance(steps, Iterable) else (steps,)
        numbers = [number_of_steps(each) for each in several]
        if not numbers:
            raise ValueError("steps must be one number at least, got none")
        with torch.no_grad(), taken("inputs", inputs):
            expected = self.ann(inputs)
        activations = watch(self.ann, inputs)
        rows = tuple(
            self._row(self(inputs, each, encoder), labels, each, expected, activations)
            for each in numbers
        )
        held = {
            name: (layer.thresholds.min().item(), layer.thresholds.max().item())
            for name, layer in self.layers().items()
        }
        return ConversionReport(held, rows, accuracy_of(expected, labels))

    def _row(
        self,
        out: Tensor,
        labels: Tensor | None,
        steps: int,
        expected: Tensor,
        activations: dict[str, Tensor],
    ) -> Row:
        layers = self.layers()
        errors = {
            name: error_of(layer.rates(), activations[name]) for name, layer in layers.items()
        }
        counts = [layer.counts for layer in layers.values() if layer.counts is not None]
        neurons = sum(each.numel() for each in counts)
        fired = sum(each.abs().sum().item() for each in counts)
        agreement = (out.argmax(-1) == expected.argmax(-1)).float().mean().item()
        return Row(
            steps, errors, error_of(out, expected), accuracy_of(out, labels), agreement,
            fired / max(1, neurons * steps),
        )  # fmt: skip


def number_of_steps(steps: int) -> int:
    """Return a number of steps.

    Raises:
        ValueError: It is below 1 or has a fraction.
        TypeError: It is no number.
    """
    if (number := whole_number("steps", steps)) < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return number


def _over_time(inputs: Tensor, steps: int, encoder: Encoder | None) -> Tensor:
    wanted = (steps, *inputs.shape)
    if encoder is None:
        return inputs.expand(wanted)
    made = encoder(inputs, steps)
    if tuple(made.shape) != wanted:
        raise ValueError(f"encoder must return {wanted}, got {tuple(made.shape)}")
    return made.to_dense() if isinstance(made, SpikeTensor) else made
