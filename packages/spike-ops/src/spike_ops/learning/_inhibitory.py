"""Plasticity of inhibitory synapses that keeps a target rate."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spike_ops._checked import number
from spike_ops.learning._base import State, SynapticRule, Update, slow_dtype
from spike_ops.learning._geometry import Geometry, LinearGeometry
from spike_ops.learning._pair import PairSTDP, check_order
from spike_ops.learning._spikes import Spikes
from spike_ops.learning._traces import Order
from spike_ops.neuron._lif_settings import Discretization


@dataclass(frozen=True)
class InhibitorySTDP(SynapticRule):
    """Return the change of inhibitory weights that drives neurons to a target rate.

        ΔW = Σ s_post pᵀ + Σ (q - α) s_preᵀ,   α = 2 ρ₀ τ

    with traces p and q of one time constant. W holds the strength of inhibition (not negative):
    a neuron that fires more than ρ₀ is inhibited more, one that fires less is inhibited less.

    Args:
        tau: Time constant τ of both traces in steps.
        target_rate: ρ₀, spikes a step.
        order: Whether traces know the spikes of the step itself (see `PairSTDP`).
        discretization: How λ follows from τ.

    Raises:
        ValueError: An argument is outside its range.

    Source: T. P. Vogels et al., "Inhibitory Plasticity Balances Excitation and Inhibition in
    Sensory Pathways and Memory Networks", Science 2011, eq. 1 of its supplement.

    Example:
        >>> rule = InhibitorySTDP(tau=10.0, target_rate=0.1)
        >>> silent, active = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        >>> rule(active, silent, torch.zeros(1, 1)).dw  # -α
        tensor([[-2.]])
    """

    tau: float = 20.0
    target_rate: float = 0.005
    order: Order = "update_then_use"
    discretization: Discretization = "euler"

    def __post_init__(self) -> None:
        check_order(self.order)
        _ = self._pairs
        number(target_rate=self.target_rate)
        if not 0 <= self.target_rate <= 1:
            raise ValueError(f"target_rate must be in [0, 1] a step, got {self.target_rate}")

    @property
    def alpha(self) -> float:
        """α = 2 ρ₀ τ, the depression by each spike before the weight."""
        return 2 * self.target_rate * self.tau

    @property
    def _pairs(self) -> PairSTDP:
        return PairSTDP(self.tau, self.tau, order=self.order, discretization=self.discretization)

    def initial(self, pre: Tensor, post: Tensor, weight: Tensor) -> State:
        """Return (p, q) = 0."""
        return self._pairs.initial(pre, post, weight)

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update:
        before, after = Spikes(pre, weight.dtype), Spikes(post, weight.dtype)
        pairs = replace(self._pairs, a_minus=-1.0)
        dw, state = pairs.by_one_side(before, after, weight, state, geometry)
        if isinstance(geometry, LinearGeometry):
            seen = before.dense.sum((0, 1), dtype=slow_dtype(weight))
        else:  # at its borders a kernel sees fewer spikes
            seen = geometry.correlate(torch.ones_like(after.dense), before, weight)
        return Update(dw.sub_(seen, alpha=self.alpha), state)

    def _update_reference(self, pre: Tensor, post: Tensor, weight: Tensor, state: State) -> Update:
        (p, q), late = state, self.order == "use_then_update"
        (factor, _), dw = self._pairs.decays, torch.zeros_like(weight)
        for s, y in zip(pre, post, strict=True):
            before = factor * p, factor * q
            p, q = before[0] + s, before[1] + y
            used = before if late else (p, q)
            for b in range(len(s)):
                dw += torch.outer(y[b], used[0][b])
                dw += torch.outer(used[1][b] - self.alpha, s[b])
        return Update(dw, (p, q))
