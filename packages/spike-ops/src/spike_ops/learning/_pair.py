"""Spike-timing dependent plasticity by pairs of spikes."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from spike_ops._checked import finite
from spike_ops.learning._base import State, SynapticRule, Update
from spike_ops.learning._dependence import Additive, Proportional, WeightDependence
from spike_ops.learning._geometry import Geometry
from spike_ops.learning._spikes import Spikes
from spike_ops.learning._traces import (
    Order,
    before_use,
    exponential_trace,
    reverse_trace,
)
from spike_ops.neuron._lif_settings import Discretization, decay

Pairing = Literal["all", "nearest"]


@dataclass(frozen=True)
class PairSTDP(SynapticRule):
    """Return the change by pair-based STDP: products of spikes with traces.

        p[t] = λ₊ p[t-1] + s_pre[t],   q[t] = λ₋ q[t-1] + s_post[t]
        ΔW = A₊ f₊(W) ⊙ Σ s_post pᵀ - A₋ f₋(W) ⊙ Σ q s_preᵀ

    A pair of spikes Δt steps apart changes the weight by A λ^Δt. With all pairs the second sum is
    turned round, Σ q s_preᵀ = Σ s_post rᵀ with r the trace of s_pre from the end, so that where
    f₊ = f₋ one product over the spikes behind the weight is all: ΔW = f ⊙ Σ s_post (A₊ p - A₋ r)ᵀ.

    Args:
        tau_pre: Time constant in steps of p, at least 1 (Euler).
        tau_post: That of q.
        a_plus: A₊; negative for anti-Hebbian learning.
        a_minus: A₋; negative makes the window symmetric.
        pairing: `"all"` pairs of spikes, or each spike with the `"nearest"` before it alone.
        order: `"update_then_use"`: spikes of one step are pairs with Δt = 0, in both products;
            `"use_then_update"`: they are no pairs.
        dependence: f₊ and f₋: `Additive`, `PowerLaw` (μ = 1: multiplicative), `Proportional`.
        discretization: λ = 1 - 1/τ ("euler") or e^(-1/τ) ("exponential").

    Raises:
        ValueError: An argument is outside its range.

    Source: A. Morrison, M. Diesmann, W. Gerstner, "Phenomenological models of synaptic plasticity
    based on spike timing", Biol. Cybern. 2008, sections 4.1-4.2.

    Example:
        >>> pre = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
        >>> post = torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1)
        >>> PairSTDP(tau_pre=2.0)(pre, post, torch.zeros(1, 1)).dw
        tensor([[0.2500]])
        >>> PairSTDP(tau_post=2.0)(post, pre, torch.zeros(1, 1)).dw
        tensor([[-0.2500]])
    """

    tau_pre: float = 20.0
    tau_post: float = 20.0
    a_plus: float = 1.0
    a_minus: float = 1.0
    pairing: Pairing = "all"
    order: Order = "update_then_use"
    dependence: WeightDependence = field(default_factory=Additive)
    discretization: Discretization = "euler"

    def __post_init__(self) -> None:
        _ = self.decays
        finite(a_plus=self.a_plus, a_minus=self.a_minus)
        check_choice("pairing", self.pairing, ("all", "nearest"))
        check_order(self.order)

    @property
    def decays(self) -> tuple[float, float]:
        """λ₊ and λ₋."""
        kind = self.discretization
        return decay(self.tau_pre, kind, "tau_pre"), decay(self.tau_post, kind, "tau_post")

    def initial(self, pre: Tensor, post: Tensor, weight: Tensor) -> State:
        """Return (p, q) = 0."""
        return tuple(weight.new_zeros(each.shape[1:]) for each in (pre, post))

    def traces(self, pre: Spikes, post: Spikes, state: State) -> tuple[Tensor, Tensor, State]:
        """Return p and q as the steps use them, and the state after the last."""
        used, after = [], []
        for spikes, factor, start in zip((pre, post), self.decays, state, strict=True):
            trace = exponential_trace(
                spikes.dense, factor, initial=start, nearest=self.pairing == "nearest"
            )
            after.append(trace[-1].clone())
            late = self.order == "use_then_update"
            used.append(before_use(trace, factor, start) if late else trace)
        return used[0], used[1], tuple(after)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return A₊ f₊(W) and A₋ f₋(W)."""
        bound = self.dependence
        return self.a_plus * bound.potentiation(weight), self.a_minus * bound.depression(weight)

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update:
        before, after = Spikes(pre, weight.dtype), Spikes(post, weight.dtype)
        if self.pairing == "all":
            return self.by_one_side(before, after, weight, state, geometry)
        p, q, state = self.traces(before, after, state)
        plus, minus = self.factors(weight)
        dw = geometry.correlate(after, p, weight).mul_(plus)
        return Update(dw.sub_(geometry.correlate(q, before, weight).mul_(minus)), state)

    def by_one_side(
        self, before: Spikes, after: Spikes, weight: Tensor, state: State, geometry: Geometry,
        gain: Tensor | None = None,
    ) -> Update:  # fmt: skip
        """Return the change by all pairs, summed over the spikes behind the weight alone.

        A gain [T, B, 1, ...] is a factor of the changes at every step.
        """
        p, r, last = self._both_ways(before, after, state, gain)
        early = self._from_before(r, weight, state, geometry)
        if self.order == "use_then_update":
            p = before_use(p, self.decays[0], state[0])
            r.sub_(before.dense if gain is None else before.dense * gain)
        p = p if gain is None else p.mul_(gain)
        if isinstance(self.dependence, Additive | Proportional):  # f₊ = f₋
            table = p.mul_(self.a_plus).sub_(r, alpha=self.a_minus)
            dw = geometry.correlate(after, table, weight)
            dw = dw.sub_(early, alpha=self.a_minus) if isinstance(early, Tensor) else dw
            return Update(dw.mul_(self.dependence.potentiation(weight)), last)
        plus, minus = self.factors(weight)
        shrunk = geometry.correlate(after, r, weight).add_(early).mul_(minus)
        return Update(geometry.correlate(after, p, weight).mul_(plus).sub_(shrunk), last)

    def _both_ways(
        self, before: Spikes, after: Spikes, state: State, gain: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        """Return p, r and the state after: Σ q s_preᵀ = Σ s_post rᵀ."""
        p = exponential_trace(before.dense, self.decays[0], initial=state[0])
        last = p[-1].clone(), after.last_trace(self.decays[1], state[1])
        source = before.dense if gain is None else before.dense * gain
        return p, reverse_trace(source, self.decays[1]), last

    def _from_before(
        self, r: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Tensor | float:
        """Return Σ q s_preᵀ of what q was before the window."""
        start = state[1]
        if not bool(start.any()):
            return 0.0
        return geometry.correlate(self.decays[1] * start[None], r[:1], weight)

    def pairs_reference(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State
    ) -> tuple[list[Tensor], State]:
        """Return ζ, `[B, N_out, N_in]`, of every step, f included, and the state."""
        (p, q), changes = state, []
        plus, minus = self.factors(weight)
        late = self.order == "use_then_update"
        for s, y in zip(pre, post, strict=True):
            before = self.decays[0] * p, self.decays[1] * q
            p, q = self._remember(before[0], s), self._remember(before[1], y)
            used = before if late else (p, q)
            grown = torch.einsum("bj,bi->bji", y, used[0])
            shrunk = torch.einsum("bj,bi->bji", used[1], s)
            changes.append(plus * grown - minus * shrunk)
        return changes, (p, q)

    def _remember(self, trace: Tensor, spikes: Tensor) -> Tensor:
        return torch.where(spikes > 0, spikes, trace) if self.pairing == "nearest" else (
            trace + spikes
        )  # fmt: skip

    def _update_reference(self, pre: Tensor, post: Tensor, weight: Tensor, state: State) -> Update:
        changes, state = self.pairs_reference(pre, post, weight, state)
        return Update(torch.stack(changes).sum((0, 1)), state)


def check_choice(name: str, given: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless a word is one of those known."""
    if given not in known:
        raise ValueError(f"{name} must be {' or '.join(known)}, got {given!r}")


def check_order(order: str) -> None:
    """Raise ValueError unless an order of update and use is one of the two."""
    check_choice("order", order, ("update_then_use", "use_then_update"))
