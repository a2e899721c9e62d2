"""Norms for spiking nets: over all steps and samples at once, scaled to the threshold, by step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spike_ops._checked import counted, finite, positive, tensor
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron import Membrane
from spike_ops.neuron._base import State
from spike_ops.neuron._membrane import at_least_one


class TimeBatchNorm(nn.Module):
    """Return batch norm of [T, B, C, ...] with statistics over steps, samples and places.

        y = γ (x - μ_c) / √(σ²_c + ε) + β

    The same as `torch.nn.BatchNorm2d` on [T · B, C, ...].

    Args:
        features: C.
        eps: ε.
        momentum: Share of the new in the running statistics.

    Raises:
        ValueError: `features` is below 1, or an input has another number of them.

    Example:
        >>> TimeBatchNorm(3)(torch.randn(4, 2, 3, 5, 5)).mean((0, 1, 3, 4)).abs().max() < 1e-6
        tensor(True)
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        features = counted("features", features)
        finite(eps=eps, momentum=momentum)
        self.features, self.eps, self.momentum = features, eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised [T, B, C, ...]."""
        x = x.to_dense() if isinstance(x, SpikeTensor) else tensor("x", x)
        _check_features(x, self.features)
        flat = F.batch_norm(
            x.flatten(0, 1), self.running_mean, self.running_var, self._scale(), self.bias,
            self.training, self.momentum, self.eps,
        )  # fmt: skip
        return flat.unflatten(0, x.shape[:2])

    def _scale(self) -> Tensor:
        return self.weight

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return f"{self.features}, eps={self.eps}, momentum={self.momentum}"


class ThresholdBatchNorm(TimeBatchNorm):
    """Return threshold-dependent batch norm (tdBN): what enters a neuron has the size of θ.

        y = γ α θ (x - μ_c) / √(σ²_c + ε) + β

    Source: H. Zheng et al., "Going Deeper With Directly-Trained Larger Spiking Neural Networks",
    AAAI 2021, equations 6 to 8; α is 1, and 1/√2 on both branches that a residual sum adds up.

    Args:
        features: C.
        threshold: θ of the neurons that follow.
        alpha: α.
        options: Those of `TimeBatchNorm`.

    Raises:
        ValueError: θ or α is not positive.

    Example:
        >>> y = ThresholdBatchNorm(3, threshold=0.5)(torch.randn(16, 32, 3))
        >>> bool(((y.std((0, 1)) - 0.5).abs() < 1e-3).all())
        True
    """

    def __init__(
        self, features: int, *, threshold: float = 1.0, alpha: float = 1.0, **options: Any
    ) -> None:
        super().__init__(features, **options)
        positive(threshold=threshold, alpha=alpha)
        self.threshold, self.alpha = threshold, alpha

    def _scale(self) -> Tensor:
        return self.weight * (self.alpha * self.threshold)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return f"{super().extra_repr()}, threshold={self.threshold}, alpha={self.alpha}"


class TemporalEffectiveBatchNorm(TimeBatchNorm):
    """Return temporal effective batch norm (TEBN): batch norm over time, weighted by step.

        y[t] = p[t] (γ (x[t] - μ_c) / √(σ²_c + ε) + β)

    with μ and σ over all steps and a learned p[t], which begins at 1.

    Source: C. Duan et al., "Temporal Effective Batch Normalization in Spiking Neural Networks",
    NeurIPS 2022, equation 12.

    Args:
        features: C.
        steps: T.
        options: Those of `TimeBatchNorm`.

    Raises:
        ValueError: `steps` is below 1, or an input has another number of them.

    Example:
        >>> TemporalEffectiveBatchNorm(3, steps=4)(torch.randn(4, 2, 3)).shape
        torch.Size([4, 2, 3])
    """

    def __init__(self, features: int, *, steps: int, **options: Any) -> None:
        super().__init__(features, **options)
        steps = counted("steps", steps)
        self.by_step = nn.Parameter(torch.ones(steps))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised [T, B, C, ...]."""
        steps = len(self.by_step)
        if tensor("x", x).ndim < 3 or x.shape[0] != steps:
            raise ValueError(f"x must be [T, B, C, ...] with T = {steps}, got {tuple(x.shape)}")
        return super().forward(x) * self.by_step.reshape(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return f"{super().extra_repr()}, steps={len(self.by_step)}"


class FeatureNorm(nn.Module):
    """Return layer norm of [T, B, C, ...] over the features C, for every step and place alone.

        y = γ (x - mean_C) / √(var_C + ε) + β

    Args:
        features: C.
        eps: ε.

    Raises:
        ValueError: `features` is below 1, or an input has another number of them.

    Example:
        >>> FeatureNorm(3)(torch.randn(4, 2, 3, 5)).mean(2).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        features = counted("features", features)
        finite(eps=eps)
        self.features, self.eps = features, eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised [T, B, C, ...]."""
        x = x.to_dense() if isinstance(x, SpikeTensor) else tensor("x", x)
        _check_features(x, self.features)
        last = F.layer_norm(x.movedim(2, -1), (self.features,), self.weight, self.bias, self.eps)
        return last.movedim(-1, 2)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return f"{self.features}, eps={self.eps}"


class MembraneBatchNormLIF(Membrane):
    """Return the spikes of LIF neurons whose membrane is normalised before it fires (MPBN).

        h = β v + (1 - β) x;   s = Θ(BN_c(h) - θ);   the reset is that of h

    In training, BN takes its statistics over the samples and places of a step. In evaluation it is
    folded into a threshold of each feature, so that it costs nothing:

        s = Θ(h - θ_c) for γ_c > 0,   s = Θ(θ_c - h) for γ_c < 0
        θ_c = μ_c + (θ - β_c) √(σ²_c + ε) / γ_c

    Source: Y. Guo et al., "Membrane Potential Batch Normalization for Spiking Neural Networks",
    ICCV 2023, equations 8 and 13.

    Args:
        features: C of currents [T, B, C, ...].
        tau: Time constant, at least 1.
        eps: ε.
        momentum: Share of the new in the running statistics.
        options: Those of `Membrane`.

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> neurons = MembraneBatchNormLIF(3).eval()
        >>> bool(((neurons.thresholds() - 1).abs() < 1e-4).all())
        True
    """

    def __init__(
        self,
        features: int,
        tau: float = 2.0,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        at_least_one(tau=tau)
        finite(tau=tau)
        self.tau, self.elementwise = tau, False
        self.norm = nn.BatchNorm1d(features, eps=eps, momentum=momentum)

    @property
    def beta(self) -> float:
        """β, the decay of the membrane."""
        return 1 - 1 / self.tau

    def thresholds(self) -> Tensor:
        """Return θ_c, the thresholds of the membrane in evaluation; ±inf where γ_c is 0."""
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        return mean + (self.threshold - self.norm.bias) * (var + self.norm.eps).sqrt() / (
            self.norm.weight
        )

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and (v,) after it."""
        del constants
        if current.ndim < 2 or current.shape[1] != self.norm.num_features:
            told = f"[T, B, {self.norm.num_features}, ...]"
            raise ValueError(f"currents must be {told}, got a step of {tuple(current.shape)}")
        h = self.beta * state[0] + (1 - self.beta) * current
        s = self.fire(self._normed(h) - self.threshold if self.training else self._folded(h))
        return s, (self.settle(h, s),)

    def _normed(self, h: Tensor) -> Tensor:
        flat = h.reshape(*h.shape[:2], -1)
        normed: Tensor = self.norm(flat)
        return normed.reshape(h.shape)

    def _folded(self, h: Tensor) -> Tensor:
        sides = [1, -1] + [1] * (h.ndim - 2)
        u = (h - self.thresholds().reshape(sides)) * self.norm.weight.sign().reshape(sides)
        fires = (self.norm.bias >= self.threshold).to(h.dtype).reshape(sides) - 0.5
        return torch.where((self.norm.weight == 0).reshape(sides), fires, u)


def _check_features(x: Tensor, features: int) -> None:
    if x.ndim < 3 or x.shape[2] != features:
        raise ValueError(f"x must be [T, B, {features}, ...], got {tuple(x.shape)}")
