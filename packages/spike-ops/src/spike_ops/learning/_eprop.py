"""Learning forward in time: e-prop, as a product of spikes with signals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops._checked import finite
from spike_ops.learning._base import Update, dense, fitting
from spike_ops.learning._online import trace_gradient
from spike_ops.learning._spikes import checked
from spike_ops.learning._traces import exactly, exponential_trace, matrix_trace, reverse_trace


@dataclass(frozen=True)
class EProp:
    """Return the change by e-prop for leaky (β = 0) or adaptive (β > 0) neurons.

        x̄[t] = α x̄[t-1] + x[t]
        ε[t+1] = ψ[t] x̄[t] + (ρ - β ψ[t]) ε[t]       the adaptive part, [B, N_out, N_in]
        e[t] = ψ[t] (x̄[t] - β ε[t])                   eligibility
        ē[t] = κ ē[t-1] + e[t],   ΔW = -Σ_{t,b} L[t] ē[t]

    for v[t] = α v[t-1] + W x[t] - ..., z = Θ(v - θ - β a), a[t+1] = ρ a[t] + z[t], readout leak κ.
    As the factors of ε do not depend on the input i, every recursion can be moved to the signal's
    side: one scan backwards over [T, B, N_out], one product with the spikes, no matrix a step.

    Args:
        alpha: Decay α of the membrane.
        kappa: Decay κ of the readout; 0 without one.
        beta: Strength β of the adaptation.
        rho: Its decay ρ.
        carry: Keep ε and ē [B, N_out, N_in] in the state, for windows in sequence. Needed where
            β or κ are not 0; otherwise they begin at 0 in each window.

    Raises:
        ValueError: A decay is outside [0, 1].

    Source: G. Bellec et al., "A solution to the learning dilemma for recurrent networks of spiking
    neurons", Nature Communications 2020, eqs. 3-5, 13, 24-28.

    Example:
        >>> x = torch.tensor([1.0, 0.0]).reshape(2, 1, 1)
        >>> psi, signal = torch.ones(2, 1, 1), torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
        >>> EProp(alpha=0.5)(x, psi, signal, torch.zeros(1, 1)).dw
        tensor([[-0.5000]])
    """

    alpha: float
    kappa: float = 0.0
    beta: float = 0.0
    rho: float = 0.0
    carry: bool = False

    def __post_init__(self) -> None:
        finite(alpha=self.alpha, kappa=self.kappa, beta=self.beta, rho=self.rho)
        for name in ("alpha", "kappa", "rho"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    @torch.no_grad()
    def __call__(
        self,
        pre: Tensor,
        derivative: Tensor,
        signal: Tensor,
        weight: Tensor,
        state: tuple[Tensor, ...] | None = None,
    ) -> Update:
        """Return the change over a window, and the state after it: (x̄,), with `carry` (x̄, ε, ē).

        Args:
            pre: x, spikes or values [T, B, N_in]; for a recurrent weight those of the step before.
            derivative: ψ, the surrogate's derivative at each step [T, B, N_out].
            signal: L, the learning signal: ∂L/∂z or what stands for it [T, B, N_out].
            weight: [N_out, N_in]; gives shape and type.
            state: That of the window before; None begins anew.

        Raises:
            ValueError: Shapes do not fit, or the state is of another batch.
        """
        pre, psi, signal, held = self._begin(pre, derivative, signal, weight, state)
        with exactly(weight):
            return self._update(pre, psi, signal, weight, held)

    def _update(
        self, pre: Tensor, psi: Tensor, signal: Tensor, weight: Tensor, held: tuple[Tensor, ...]
    ) -> Update:
        filtered = reverse_trace(signal, self.kappa)
        seen, ahead = filtered, torch.zeros_like(filtered)
        keep = self.rho - self.beta * psi
        if self.beta:
            ahead = _still_to_come(-self.beta * filtered * psi, keep)
            seen = filtered + ahead
        gradient, (trace,) = trace_gradient(pre, psi * seen, self.alpha, weight, held[0])
        if not self.carry:
            return Update(-gradient, (trace,))
        first = _arriving(-self.beta * filtered * psi, keep, ahead)
        gradient = gradient + torch.einsum("bj,bji->ji", first, held[1])
        gradient += torch.einsum("bj,bji->ji", self.kappa * filtered[0], held[2])
        return Update(-gradient, (trace, *self._left(pre, psi, keep, weight, held)))

    def reference(
        self,
        pre: Tensor,
        derivative: Tensor,
        signal: Tensor,
        weight: Tensor,
        state: tuple[Tensor, ...] | None = None,
    ) -> Update:
        """Return the same with every eligibility [B, N_out, N_in] written out, step by step."""
        pre, psi, signal, held = self._begin(pre, derivative, signal, weight, state)
        trace, adaptation, filtered = held
        dw = torch.zeros_like(weight)
        for x, slope, told in zip(dense(pre, weight), psi, signal, strict=True):
            trace = self.alpha * trace + x
            e = slope[:, :, None] * (trace[:, None, :] - self.beta * adaptation)
            adaptation = self.rho * adaptation + e
            filtered = self.kappa * filtered + e
            dw = dw - (told[:, :, None] * filtered).sum(0)
        return Update(dw, (trace, adaptation, filtered) if self.carry else (trace,))

    def _begin(
        self, pre: Tensor, derivative: Tensor, signal: Tensor, weight: Tensor,
        state: tuple[Tensor, ...] | None,
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:  # fmt: skip
        pre = checked(pre, "pre", binary=False)
        psi, told = (
            checked(each, name, binary=False).to(weight.dtype)
            for each, name in ((derivative, "derivative"), (signal, "signal"))
        )
        for each, name in ((psi, "derivative"), (told, "signal")):
            if tuple(each.shape) != (*pre.shape[:2], weight.shape[0]):
                needed = (*pre.shape[:2], weight.shape[0])
                raise ValueError(f"{name} must be {needed}, got {tuple(each.shape)}")
        trace = weight.new_zeros(pre.shape[1:])
        matrix = weight.new_zeros(()).expand(pre.shape[1], *weight.shape)
        if self.carry:
            return pre, psi, told, fitting(state, (trace, matrix, matrix))
        return pre, psi, told, (*fitting(state, (trace,)), matrix, matrix)

    def _left(
        self, pre: Tensor, psi: Tensor, keep: Tensor, weight: Tensor, held: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return ε and ē after the window, each one batched product (and a pass over T for ē)."""
        trace = exponential_trace(dense(pre, weight), self.alpha, initial=held[0])
        if not self.beta:
            left = matrix_trace(psi, trace, self.rho) + self.rho ** len(psi) * held[1]
            filtered = matrix_trace(psi, trace, self.kappa) + self.kappa ** len(psi) * held[2]
            return left, filtered
        _, adaptation, filtered = held
        for x, slope, kept in zip(trace, psi, keep, strict=True):
            e = slope[:, :, None] * (x[:, None, :] - self.beta * adaptation)
            filtered = self.kappa * filtered + e
            adaptation = kept[:, :, None] * adaptation + slope[:, :, None] * x[:, None, :]
        return adaptation, filtered


def _still_to_come(cost: Tensor, keep: Tensor) -> Tensor:
    """Return H[t] = Σ_{t'>t} cost[t'] Π_{t<s<t'} keep[s]: what ε after step t will count for."""
    ahead = torch.zeros_like(cost)
    if len(cost) > 1:
        ahead[:-1] = reverse_trace(cost[1:], keep[1:])
    return ahead


def _arriving(cost: Tensor, keep: Tensor, ahead: Tensor) -> Tensor:
    """Return what ε at the first step of the window counts for: H one step earlier."""
    return cost[0] + keep[0] * ahead[0]
