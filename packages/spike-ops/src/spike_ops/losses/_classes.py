"""Losses for classes: outputs over time [T, B, C] against class numbers [B]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from spike_ops import decoding
from spike_ops._checked import number, tensor
from spike_ops.encoding._base import dense_spikes, summed


def ce_rate(spikes: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the firing rates: CE(1/T Σ_t s_t, y).

    Rates lie in 0..1, so that the loss stays above ln(1 + (C - 1) / e); `ce_count` has sharper
    logits, `tet` a cross-entropy at every step.

    Args:
        spikes: [T, B, C], or potentials of an output without spikes.
        target: Class numbers [B].

    Raises:
        ValueError: The shapes do not fit, or a target is no class.

    Example:
        >>> ce_rate(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]), torch.tensor([0]))
        tensor(0.3133)
    """
    return _cross_entropy(_checked(spikes, target).mean(0), target)


def ce_count(spikes: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the spike counts: CE(Σ_t s_t, y).

    Raises:
        ValueError: The shapes do not fit, or a target is no class.

    Example:
        >>> ce_count(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]), torch.tensor([0]))
        tensor(0.1269)
    """
    return _cross_entropy(summed(_checked(spikes, target)), target)


def mse_count(
    spikes: Tensor, target: Tensor, *, correct: float = 0.8, incorrect: float = 0.1
) -> Tensor:
    """Return the mean squared distance of the counts from wanted ones: mean (n - r T)².

    Args:
        spikes: [T, B, C].
        target: Class numbers [B].
        correct: r of the target's neuron, in 0..1.
        incorrect: r of the others, in 0..1.

    Raises:
        ValueError: The shapes do not fit, a target is no class, or a rate is outside 0..1.

    Example:
        >>> mse_count(torch.ones(10, 1, 2), torch.tensor([0]), correct=1.0, incorrect=0.2)
        tensor(32.)
    """
    dense = _checked(spikes, target)
    number(correct=correct, incorrect=incorrect)
    for name, wanted in (("correct", correct), ("incorrect", incorrect)):
        if not 0 <= wanted <= 1:
            raise ValueError(f"{name} must be in 0..1, got {wanted}")
    try:
        right = F.one_hot(target, dense.shape[-1])
    except RuntimeError as error:
        raise _no_class(target, dense.shape[-1]) from error
    counts = summed(dense)
    wanted_counts = (incorrect + (correct - incorrect) * right.to(counts.dtype)) * len(dense)
    return F.mse_loss(counts, wanted_counts)


def ce_max_membrane(membranes: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the largest potentials: CE(max_t v_t, y).

    Args:
        membranes: Potentials [T, B, C].
        target: Class numbers [B].

    Raises:
        ValueError: The shapes do not fit, or a target is no class.

    Source: J. H. Lee et al., "Training deep spiking neural networks using backpropagation", and
    R. Gütig's tempotron (2006), which asks for the same potentials.

    Example:
        >>> ce_max_membrane(torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]]]), torch.tensor([0]))
        tensor(0.6931)
    """
    return _cross_entropy(decoding.max_membrane(_checked(membranes, target)), target)


def tet(outputs: Tensor, target: Tensor, *, weight: float = 0.05, potential: float = 1.0) -> Tensor:
    """Return the loss of temporal efficient training: a cross-entropy at every step.

    (1 - λ) 1/T Σ_t CE(o_t, y) + λ 1/T Σ_t MSE(o_t, φ)

    Args:
        outputs: o, currents or potentials [T, B, C].
        target: Class numbers [B].
        weight: λ in 0..1.
        potential: φ, usually the threshold of the neurons.

    Raises:
        ValueError: The shapes do not fit, a target is no class, or λ is outside 0..1.

    Source: S. Deng et al., "Temporal efficient training of spiking neural network via gradient
    re-weighting", ICLR 2022, equations 9-11.

    Example:
        >>> tet(torch.zeros(3, 1, 2), torch.tensor([0]), weight=0.0)
        tensor(0.6931)
    """
    number(weight=weight, potential=potential)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in 0..1, got {weight}")
    dense = _checked(outputs, target)
    each = _cross_entropy(dense.flatten(0, 1), target.repeat(len(dense)))
    return (1 - weight) * each + weight * F.mse_loss(dense, torch.full_like(dense, potential))


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    try:
        return F.cross_entropy(logits, target)
    except IndexError as error:
        raise _no_class(target, logits.shape[-1]) from error


def _no_class(target: Tensor, classes: int) -> ValueError:
    got = f"{int(target.min())}..{int(target.max())}"
    return ValueError(f"target must be classes in 0..{classes - 1}, got {got}")


def _checked(spikes: Tensor, target: Tensor) -> Tensor:
    tensor("spikes", spikes), tensor("target", target)
    if spikes.ndim != 3 or target.ndim != 1 or spikes.shape[1] != target.shape[0]:
        got = f"{tuple(spikes.shape)} and {tuple(target.shape)}"
        raise ValueError(f"outputs must be [T, B, C] and target [B], got {got}")
    if target.dtype != torch.int64:
        raise TypeError(f"target must hold class numbers of int64, got {target.dtype}")
    return dense_spikes(spikes)
