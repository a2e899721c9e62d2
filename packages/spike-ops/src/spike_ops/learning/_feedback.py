"""Signals for hidden neurons without the transposed weights: feedback alignment."""

from typing import Literal

import torch
from torch import Tensor

Feedback = Literal["symmetric", "sign", "random"]


def feedback_matrix(readout: Tensor, kind: Feedback = "random", *, seed: int = 0) -> Tensor:
    """Return the matrix B [K, N] by which errors reach hidden neurons: L = error @ B.

    Args:
        readout: The readout's weight [K, N].
        kind: `"symmetric"`: the readout itself, as the gradient asks; `"sign"`: its signs, at its
            mean magnitude; `"random"`: normal numbers at its root mean square, which know nothing
            of it.
        seed: Seed of the random matrix.

    Raises:
        ValueError: `kind` is none of these, or the readout is no matrix.

    Source: T. Lillicrap et al., "Random synaptic feedback weights support error backpropagation
    for deep learning", Nature Communications 2016 (random); Q. Liao, J. Leibo, T. Poggio, AAAI
    2016 (signs).

    Example:
        >>> feedback_matrix(torch.tensor([[1.0, -3.0]]), "sign")
        tensor([[ 2., -2.]])
    """
    if readout.ndim != 2:
        raise ValueError(f"readout must be a matrix [K, N], got {tuple(readout.shape)}")
    readout = readout.detach()
    if kind == "symmetric":
        return readout
    if kind == "sign":
        return readout.sign() * readout.abs().mean()
    if kind == "random":
        drawn = torch.randn(readout.shape, generator=torch.Generator().manual_seed(seed))
        return drawn.to(readout) * readout.square().mean().sqrt()
    raise ValueError(f"kind must be symmetric, sign or random, got {kind!r}")
