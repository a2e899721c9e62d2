"""STDP that waits for a reward: eligibility, dopamine, any third factor."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spike_ops._checked import tensor
from spike_ops.learning._apply import Bounds, apply_, check_rate
from spike_ops.learning._base import Update, check_weight, dense, fitting
from spike_ops.learning._geometry import Geometry, LinearGeometry, geometry_of
from spike_ops.learning._pair import PairSTDP
from spike_ops.learning._spikes import Spikes, checked
from spike_ops.learning._traces import exactly, exponential_trace, matrix_trace, reverse_trace
from spike_ops.neuron._lif_settings import decay


class _Start(NamedTuple):
    traces: tuple[Tensor, ...]
    dopamine: Tensor
    eligibility: Tensor | None


@dataclass(frozen=True)
class RewardSTDP:
    """Return the change by STDP gated by a reward (a third factor), without a matrix a step.

        e[t] = λ_e e[t-1] + ζ[t]          eligibility; ζ[t] the change by `stdp` at step t
        d[t] = λ_d d[t-1] + r[t]          dopamine
        ΔW = Σ_{t,b} d[t] e[t]

    As ΔW = Σ_t' D[t'] ζ[t'] with D[t'] = Σ_{t>=t'} d[t] λ_e^(t-t'), a window is a product or two of
    spikes with traces weighted by D. With a reward for every neuron d[t] belongs to rows of e.

    Args:
        stdp: The rule of ζ.
        tau_eligibility: Time constant in steps of e; None forgets at once: e[t] = ζ[t].
        tau_dopamine: That of d; None takes the reward itself.
        carry: Keep e [B, N_out, N_in] in the state, so that a reward in a later window finds it.
            Otherwise eligibility ends with the window, as with an episode.

    Raises:
        ValueError: A time constant is below 1.

    Source: R. Florian, "Reinforcement Learning Through Modulation of Spike-Timing-Dependent
    Synaptic Plasticity", Neural Computation 2007, eqs. 20-25 (without and with eligibility);
    E. Izhikevich, "Solving the Distal Reward Problem through Linkage of STDP and Dopamine
    Signaling", Cerebral Cortex 2007 (dopamine).

    Example:
        >>> rule = RewardSTDP(PairSTDP(tau_pre=2.0), tau_eligibility=2.0)
        >>> spikes = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
        >>> reward = torch.tensor([0.0, 0.0, 1.0])  # comes two steps late
        >>> rule(spikes, spikes, torch.zeros(1, 1), reward).dw
        tensor([[0.]])
        >>> rule = RewardSTDP(PairSTDP(a_minus=0.0), tau_eligibility=2.0)
        >>> rule(spikes, spikes, torch.zeros(1, 1), reward).dw
        tensor([[0.2500]])
    """

    stdp: PairSTDP = field(default_factory=PairSTDP)
    tau_eligibility: float | None = 20.0
    tau_dopamine: float | None = None
    carry: bool = False

    def __post_init__(self) -> None:
        _ = self.decays

    @property
    def decays(self) -> tuple[float, float]:
        """λ_e and λ_d."""
        kind = self.stdp.discretization
        slow, gate = (
            0.0 if tau is None else decay(tau, kind)
            for tau in (self.tau_eligibility, self.tau_dopamine)
        )
        return slow, gate

    def __call__(
        self,
        pre: Tensor,
        post: Tensor,
        weight: Tensor,
        reward: Tensor,
        state: tuple[Tensor, ...] | None = None,
        *,
        geometry: Geometry | None = None,
    ) -> Update:
        """Return the change of a weight over a window, and the state after it.

        Args:
            pre: Spikes before the weight [T, B, N_in].
            post: Spikes after it [T, B, N_out].
            weight: [N_out, N_in].
            reward: r: [T], [T, B] or, a factor for each neuron, [T, B, N_out].
            state: That of the window before; None begins anew.
            geometry: How pre and post meet in the weight.

        Raises:
            ValueError: Shapes do not fit, or `carry` is asked of a convolution.
        """
        met = LinearGeometry() if geometry is None else geometry
        start, reward = self._begin(pre, post, weight, reward, state, met)
        with torch.no_grad(), exactly(weight):
            return self._update(pre.detach(), post.detach(), weight.detach(), reward, start, met)

    def step(
        self,
        connection: nn.Module,
        pre: Tensor,
        post: Tensor,
        reward: Tensor,
        state: tuple[Tensor, ...] | None = None,
        *,
        lr: float = 1.0,
        bounds: Bounds = (None, None),
    ) -> tuple[Tensor, ...]:
        """Change a layer's weight in place by `lr` times the rule, clipped; return the state."""
        check_rate(lr)
        weight: Tensor = connection.weight  # type: ignore[assignment]
        update = self(pre, post, weight, reward, state, geometry=geometry_of(connection))
        apply_(connection, lr * update.dw, bounds=bounds)
        return update.state

    def reference(
        self,
        pre: Tensor,
        post: Tensor,
        weight: Tensor,
        reward: Tensor,
        state: tuple[Tensor, ...] | None = None,
    ) -> Update:
        """Return the same with the eligibility of every step written out: the specification."""
        start, reward = self._begin(pre, post, weight, reward, state, LinearGeometry())
        with torch.no_grad(), exactly(weight):
            w = weight.detach()
            changes, traces = self.stdp.pairs_reference(
                dense(pre, w), dense(post, w), w, start.traces
            )
            e, d, dw = torch.zeros_like(changes[0]), start.dopamine, torch.zeros_like(w)
            e = e if start.eligibility is None else start.eligibility
            slow, gate = self.decays
            for zeta, r in zip(changes, reward, strict=True):
                e, d = slow * e + zeta, gate * d + r
                dw = dw + (d.reshape(*d.shape, *[1] * (3 - d.ndim)) * e).sum(0)
            return Update(dw, (*traces, d, e) if self.carry else (*traces, d))

    def _begin(
        self, pre: Tensor, post: Tensor, weight: Tensor, reward: Tensor,
        state: tuple[Tensor, ...] | None, geometry: Geometry,
    ) -> tuple[_Start, Tensor]:  # fmt: skip
        check_weight(weight)
        pre, post = checked(pre, "pre"), checked(post, "post")
        geometry.check(pre, post, weight)
        shapes = [tuple(post.shape[:axes]) for axes in (1, 2)] + [tuple(post.shape)]
        if tuple(tensor("reward", reward).shape) not in shapes:
            known = ", ".join(str(shape) for shape in shapes)
            raise ValueError(f"reward must be one of {known}, got {tuple(reward.shape)}")
        if self.carry and not isinstance(geometry, LinearGeometry):
            raise ValueError("carry needs a weight [out, in]: eligibility of kernels is not kept")
        reward = reward.detach().to(weight.dtype)
        fresh = (*self.stdp.initial(pre, post, weight), torch.zeros_like(reward[0]))
        if self.carry:
            fresh = (*fresh, weight.new_zeros(pre.shape[1], *weight.shape))
        held = fitting(state, fresh)
        return _Start(held[:2], held[2], held[3] if self.carry else None), reward

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, reward: Tensor, start: _Start,
        geometry: Geometry,
    ) -> Update:  # fmt: skip
        before, after = Spikes(pre, weight.dtype), Spikes(post, weight.dtype)
        slow, gate = self.decays
        dopamine = exponential_trace(reward, gate, initial=start.dopamine)
        ahead = reverse_trace(dopamine, slow)
        gain = ahead.reshape(*ahead.shape, *[1] * (post.ndim - ahead.ndim))
        if ahead.ndim < 3 and self.stdp.pairing == "all":
            dw, traces = self.stdp.by_one_side(before, after, weight, start.traces, geometry, gain)
        else:
            each = ahead.ndim >= 3
            dw, traces = self._by_both_sides(before, after, weight, gain, each, start, geometry)
        if start.eligibility is None:
            return Update(dw, (*traces, dopamine[-1].clone()))
        early = slow * ahead[0]
        dw += (early.reshape(*early.shape, *[1] * (3 - early.ndim)) * start.eligibility).sum(0)
        left = self._left(before, after, weight, start)
        return Update(dw, (*traces, dopamine[-1].clone(), left))

    def _by_both_sides(
        self, before: Spikes, after: Spikes, weight: Tensor, gain: Tensor, each: bool,
        start: _Start, geometry: Geometry,
    ) -> Update:  # fmt: skip
        p, q, traces = self.stdp.traces(before, after, start.traces)
        plus, minus = self.stdp.factors(weight)
        # a factor for each neuron goes with the spikes behind the weight
        grown = (after.scaled(gain), p) if each else (after, p * gain)
        dw = geometry.correlate(*grown, weight).mul_(plus)
        dw.sub_(geometry.correlate(q * gain, before, weight).mul_(minus))
        return Update(dw, traces)

    def _left(self, before: Spikes, after: Spikes, weight: Tensor, start: _Start) -> Tensor:
        """Return the eligibility e [B, N_out, N_in] after the window."""
        p, q, _ = self.stdp.traces(before, after, start.traces)
        plus, minus = self.stdp.factors(weight)
        slow = self.decays[0]
        left = matrix_trace(after.dense, p, slow).mul_(plus)
        left -= matrix_trace(q, before.dense, slow).mul_(minus)
        assert start.eligibility is not None
        return left.add_(start.eligibility, alpha=slow ** len(p))
