"""Homeostasis: weights scaled so that neurons keep their rates or their sums."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops._checked import positive
from spike_ops.learning._base import State, SynapticRule, Update, dense, slow_dtype
from spike_ops.learning._geometry import Geometry
from spike_ops.learning._traces import last_trace
from spike_ops.neuron._lif_settings import decay


@dataclass(frozen=True)
class SynapticScaling(SynapticRule):
    """Return the change that brings neurons to a target rate, all weights of one by one factor.

        ρ[t] = λ ρ[t-1] + (1 - λ) <s_post[t]>_batch,   ΔW = (1 - ρ[T] / ρ₀) ⊙ W

    so that rows of neurons that fire too much shrink and relative strengths are kept.

    Args:
        target_rate: ρ₀ > 0, spikes a step.
        tau: Time constant in steps of the measured rate ρ, which begins at ρ₀.

    Raises:
        ValueError: An argument is outside its range.

    Source: G. Turrigiano et al., "Activity-dependent scaling of quantal amplitude in neocortical
    neurons", Nature 1998; the linear form of M. van Rossum, G. Bi, G. Turrigiano, J. Neurosci.
    2000.

    Example:
        >>> rule = SynapticScaling(target_rate=0.5, tau=1.0)
        >>> spikes = torch.ones(1, 1, 1)
        >>> rule(spikes, spikes, torch.tensor([[3.0]])).dw  # twice the rate: (1 - 2) W
        tensor([[-3.]])
    """

    target_rate: float = 0.05
    tau: float = 1000.0

    binary = False

    def __post_init__(self) -> None:
        decay(self.tau, "euler")
        positive(target_rate=self.target_rate)

    def initial(self, pre: Tensor, post: Tensor, weight: Tensor) -> State:
        """Return ρ [N_out] = ρ₀."""
        del pre, post
        kind = slow_dtype(weight)
        return (weight.new_full(weight.shape[:1], self.target_rate, dtype=kind),)

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update:
        del pre, geometry
        factor = decay(self.tau, "euler")
        each = dense(post, state[0])
        each = each.flatten(3) if post.ndim > 3 else each[..., None]
        rates = each.mean(3).sum(1) / max(each.shape[1], 1)
        rate = last_trace((1 - factor) * rates, factor, state[0])
        factors = (1 - rate / self.target_rate).to(weight.dtype)
        return Update(_scaled(weight, factors), (rate,))

    def _update_reference(self, pre: Tensor, post: Tensor, weight: Tensor, state: State) -> Update:
        del pre
        (rate,), factor = state, decay(self.tau, "euler")
        for y in post:
            rate = factor * rate + (1 - factor) * y.mean(0)
        return Update((1 - rate / self.target_rate)[:, None] * weight, (rate,))


@torch.no_grad()
def normalize_(weight: Tensor, total: float) -> Tensor:
    """Scale every neuron's weights in place so that their magnitudes sum to `total`; return them.

    A neuron whose weights are all zero keeps them.

    Args:
        weight: [N_out, ...].
        total: Σ_i |w_ji| of every neuron j afterwards, positive.

    Raises:
        ValueError: `total` is not positive.

    Source: P. Diehl, M. Cook, "Unsupervised learning of digit recognition using spike-timing-
    dependent plasticity", Front. Comput. Neurosci. 2015.

    Example:
        >>> normalize_(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), 2.0)
        tensor([[0.5000, 1.5000],
                [0.0000, 0.0000]])
    """
    positive(total=total)
    sums = weight.detach().abs().flatten(1).sum(1)
    factors = torch.where(sums > 0, total / sums, torch.ones_like(sums))
    return weight.mul_(factors.reshape(-1, *[1] * (weight.ndim - 1)))


def _scaled(weight: Tensor, factors: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (weight.ndim - 1)) * weight
