"""An activation that a spiking neuron counts exactly."""

from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import number, whole_number


class _Floor(torch.autograd.Function):
    """Return the floor; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.floor()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0]


class QCFS(nn.Module):
    r"""Return activations in L steps from 0 to λ, to train a network in that is to be converted.

        y = λ clip(⌊z L / λ + 1/2⌋ / L, 0, 1)

    An integrate-and-fire neuron with threshold λ that begins at λ/2 and is reset softly fires
    ⌊z L / λ + 1/2⌋ times in L steps of a constant current z: y is its rate times λ. The gradient
    takes the floor for the identity; λ is learned.

    Source: T. Bu et al., "Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency
    Spiking Neural Networks", ICLR 2022, equation 15.

    Args:
        levels: L, at least 1.
        threshold: λ to begin with.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> QCFS(4, threshold=2.0)(torch.tensor([-1.0, 0.2, 0.3, 1.1, 5.0])).tolist()
        [0.0, 0.0, 0.5, 1.0, 2.0]
    """

    def __init__(self, levels: int = 8, *, threshold: float = 4.0) -> None:
        super().__init__()
        if (levels := whole_number("levels", levels)) < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        number(threshold=threshold)
        if not threshold > 0:
            raise ValueError(f"threshold must be positive, got {threshold}")
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, input: Tensor) -> Tensor:
        """Return the activations of an input of any shape."""
        share = (input / self.threshold).clamp(0, 1)
        steps: Tensor = _Floor.apply(share * self.levels + 0.5)  # type: ignore[no-untyped-call,unused-ignore]
        return steps / self.levels * self.threshold

    def integers(self, input: Tensor) -> Tensor:
        """Return ⌊z L / λ + 1/2⌋ in 0 to L: the spikes in L steps."""
        share = (input / self.threshold).clamp(0, 1)
        return (share * self.levels + 0.5).floor()

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return f"levels={self.levels}, threshold={self.threshold.item():g}"
