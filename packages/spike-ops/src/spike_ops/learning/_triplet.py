"""Spike-timing dependent plasticity by triplets of spikes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops._checked import finite
from spike_ops.learning._base import State, SynapticRule, Update
from spike_ops.learning._geometry import Geometry
from spike_ops.learning._pair import check_order
from spike_ops.learning._spikes import Spikes
from spike_ops.learning._traces import Order, before_use, exponential_trace
from spike_ops.neuron._lif_settings import Discretization, decay


@dataclass(frozen=True)
class TripletSTDP(SynapticRule):
    """Return the change by triplet STDP: a spike's effect grows with the one before it.

        r₁, r₂: traces of s_pre (τ₊, τ_x);   o₁, o₂: traces of s_post (τ₋, τ_y)
        ΔW = Σ s_post (A₂₊ + A₃₊ o₂') r₁ᵀ - Σ o₁ (s_pre (A₂₋ + A₃₋ r₂'))ᵀ

    where o₂' and r₂' are taken before the spike of the step is entered, as in the paper. Both
    products have spikes, with values, as one operand.

    Args:
        tau_plus: τ₊ in steps.
        tau_minus: τ₋.
        tau_x: τ_x, slower than τ₊.
        tau_y: τ_y, slower than τ₋.
        a2_plus: A₂₊, of pairs.
        a2_minus: A₂₋.
        a3_plus: A₃₊, of triplets.
        a3_minus: A₃₋.
        order: Whether r₁ and o₁ know the spikes of the step itself (see `PairSTDP`).
        discretization: How λ follows from τ.

    Raises:
        ValueError: A time constant is outside its range.

    Source: J.-P. Pfister, W. Gerstner, "Triplets of Spikes in a Model of Spike Timing-Dependent
    Plasticity", J. Neurosci. 2006, eqs. 1-4; the defaults are the all-to-all set for visual
    cortex in its table 4, at steps of 1 ms.

    Example:
        >>> rule = TripletSTDP(tau_plus=2.0, tau_y=4.0, a2_plus=0.0, a3_plus=1.0)
        >>> pre = torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1)
        >>> post = torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1, 1)
        >>> rule(pre, post, torch.zeros(1, 1)).dw > 0  # needs both spikes after the weight
        tensor([[True]])
    """

    tau_plus: float = 16.8
    tau_minus: float = 33.7
    tau_x: float = 101.0
    tau_y: float = 125.0
    a2_plus: float = 5e-10
    a2_minus: float = 7e-3
    a3_plus: float = 6.2e-3
    a3_minus: float = 2.3e-4
    order: Order = "update_then_use"
    discretization: Discretization = "exponential"

    def __post_init__(self) -> None:
        _ = self.decays
        finite(a2_plus=self.a2_plus, a2_minus=self.a2_minus)
        finite(a3_plus=self.a3_plus, a3_minus=self.a3_minus)
        check_order(self.order)

    @property
    def decays(self) -> tuple[float, float, float, float]:
        """λ of r₁, r₂, o₁ and o₂."""
        names = "tau_plus", "tau_x", "tau_minus", "tau_y"
        kind = self.discretization
        r1, r2, o1, o2 = (decay(getattr(self, name), kind, name) for name in names)
        return r1, r2, o1, o2

    def initial(self, pre: Tensor, post: Tensor, weight: Tensor) -> State:
        """Return (r₁, r₂, o₁, o₂) = 0."""
        return tuple(weight.new_zeros(each.shape[1:]) for each in (pre, pre, post, post))

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update:
        before, after = Spikes(pre, weight.dtype), Spikes(post, weight.dtype)
        sources = before, before, after, after
        fast, late, last = [], [], []
        for spikes, factor, start in zip(sources, self.decays, state, strict=True):
            trace = exponential_trace(spikes.dense, factor, initial=start)
            last.append(trace[-1].clone())
            fast.append(trace)
            late.append(before_use(trace, factor, start))
        r1, _, o1, _ = late if self.order == "use_then_update" else fast
        grown = after.scaled(self.a2_plus + self.a3_plus * late[3])
        shrunk = before.scaled(self.a2_minus + self.a3_minus * late[1])
        dw = geometry.correlate(grown, r1, weight)
        return Update(dw.sub_(geometry.correlate(o1, shrunk, weight)), tuple(last))

    def _update_reference(self, pre: Tensor, post: Tensor, weight: Tensor, state: State) -> Update:
        dw, late = torch.zeros_like(weight), self.order == "use_then_update"
        for s, y in zip(pre, post, strict=True):
            decayed = [factor * each for factor, each in zip(self.decays, state, strict=True)]
            state = tuple(each + spikes for each, spikes in zip(decayed, (s, s, y, y), strict=True))
            r1, o1 = (decayed[0], decayed[2]) if late else (state[0], state[2])
            grown = y * (self.a2_plus + self.a3_plus * decayed[3])
            shrunk = s * (self.a2_minus + self.a3_minus * decayed[1])
            for b in range(len(s)):
                dw += torch.outer(grown[b], r1[b]) - torch.outer(o1[b], shrunk[b])
        return Update(dw, state)
