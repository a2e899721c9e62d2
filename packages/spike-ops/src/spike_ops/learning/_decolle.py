"""Deep continuous local learning: every layer learns by a fixed random readout of its own."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spike_ops._checked import finite
from spike_ops.learning._apply import as_gradient_
from spike_ops.learning._base import dense, fitting
from spike_ops.learning._geometry import LinearGeometry
from spike_ops.learning._rates import activity
from spike_ops.learning._spikes import checked
from spike_ops.learning._traces import exactly, exponential_trace, last_trace, reverse_trace
from spike_ops.neuron._lif_settings import decay
from spike_ops.surrogate import Sigmoid, Surrogate, heaviside
from spike_ops.surrogate._base import check_surrogate


class DecolleOutput(NamedTuple):
    """What a layer returns: spikes [T, B, N], u [T, B, N], y [T, B, K], the state before it."""

    spikes: Tensor
    membrane: Tensor
    readout: Tensor
    before: tuple[Tensor, ...]
    state: tuple[Tensor, ...]


class DecolleLayer(nn.Module):
    """Return a layer that learns by itself, from the loss of its own random readout.

        q[t] = α_s q[t-1] + (1 - α_s) x[t],   p[t] = α_m p[t-1] + (1 - α_m) q[t]
        u[t] = W p[t] + b - δ r[t],   s = Θ(u),   r[t+1] = α_r r[t] + (1 - α_r) s[t]
        y[t] = G s[t],   ΔW = -Σ (Gᵀ ∂L/∂y ⊙ σ'(u)) pᵀ

    Nothing flows back in time or between layers: `learn_` puts the change into the gradients of
    `weight` and `bias`, and any optimiser carries it out. The filters are moved from the input to
    what the weight makes of it (forward) and to the error (backward), so that both products have
    spikes as one operand.

    Args:
        in_features: Neurons before the layer.
        out_features: Neurons of the layer.
        readouts: K, values read out.
        tau_mem: Time constant of p in steps (`α = e^(-1/τ)`).
        tau_syn: That of q.
        tau_ref: That of r.
        refractory: δ, how much a spike lowers the membrane.
        surrogate: σ'.
        seed: Seed of weights and readout.

    Raises:
        ValueError: A time constant is not positive.

    Source: J. Kaiser, H. Mostafa, E. Neftci, "Synaptic Plasticity Dynamics for Deep Continuous
    Local Learning (DECOLLE)", Front. Neurosci. 2020, eqs. 1-10.

    Example:
        >>> layer = DecolleLayer(8, 16, 4)
        >>> x = torch.ones(5, 2, 8)
        >>> out = layer(x)
        >>> loss = layer.learn_(x, out, lambda y: y.square().sum())
        >>> layer.weight.grad.shape
        torch.Size([16, 8])
    """

    readout: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        readouts: int,
        *,
        tau_mem: float = 20.0,
        tau_syn: float = 7.5,
        tau_ref: float = 3.5,
        refractory: float = 1.0,
        surrogate: Surrogate | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        taus = ("tau_syn", tau_syn), ("tau_mem", tau_mem), ("tau_ref", tau_ref)
        self.decays = tuple(decay(tau, "exponential", name) for name, tau in taus)
        finite(refractory=refractory)
        self.surrogate = Sigmoid() if surrogate is None else surrogate
        check_surrogate(self.surrogate)
        self.refractory = refractory
        drawn = torch.Generator().manual_seed(seed)
        scale = 1 / math.sqrt(in_features), 1 / math.sqrt(out_features)
        self.weight = nn.Parameter(_uniform((out_features, in_features), scale[0], drawn))
        self.bias = nn.Parameter(_uniform((out_features,), scale[0], drawn))
        self.register_buffer("readout", _uniform((readouts, out_features), scale[1], drawn))

    @torch.no_grad()
    def forward(self, spikes: Tensor, state: tuple[Tensor, ...] | None = None) -> DecolleOutput:
        """Return the outputs of a window of spikes [T, B, in], from a state if one is given."""
        spikes = checked(spikes, "spikes")
        with exactly(self.weight):
            return self._over_time(spikes, self._begin(spikes, state))

    def _over_time(self, spikes: Tensor, held: tuple[Tensor, ...]) -> DecolleOutput:
        weight, (synapse, membrane, refractory) = self.weight.detach(), self.decays
        rows = spikes.to(weight.dtype).flatten(0, 1)
        drive = (rows @ weight.t()).unflatten(0, spikes.shape[:2])
        q = exponential_trace((1 - synapse) * drive, synapse, initial=held[0] @ weight.t())
        u = exponential_trace((1 - membrane) * q, membrane, initial=held[1] @ weight.t())
        u += self.bias
        fired, r = torch.empty_like(u), held[2]
        for potential, out in zip(u, fired, strict=True):
            potential.sub_(r, alpha=self.refractory)
            out.copy_(heaviside(potential))
            r = refractory * r + (1 - refractory) * out
        x = dense(spikes, weight)
        traces = exponential_trace((1 - synapse) * x, synapse, initial=held[0])
        p = last_trace((1 - membrane) * traces, membrane, held[1])
        state = traces[-1].clone(), p, r
        return DecolleOutput(fired, u, fired @ self.readout.t(), held, state)

    def learn_(
        self, spikes: Tensor, output: DecolleOutput, loss: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Add the local gradients to `weight.grad` and `bias.grad`; return the loss.

        Args:
            spikes: What the layer was given [T, B, in].
            output: What it returned.
            loss: A function of the readout [T, B, K], such as a cross-entropy at every step.
        """
        y = output.readout.detach().requires_grad_()
        with torch.enable_grad():
            told = loss(y)
        (error,) = torch.autograd.grad(told, y)
        with torch.no_grad(), exactly(self.weight):
            g = (error @ self.readout) * self.surrogate.derivative(output.membrane)
            as_gradient_(self.weight, -self._gradient(spikes, g, output.before))
            as_gradient_(self.bias, -g.sum((0, 1)))
        return told.detach()

    def reference(self, spikes: Tensor, state: tuple[Tensor, ...] | None = None) -> DecolleOutput:
        """Return what `forward` returns, by the equations step by step: the specification."""
        synapse, membrane, refractory = self.decays
        held = self._begin(spikes, state)
        (q, p, r), us, fired = held, [], []
        for x in dense(spikes, self.weight):
            q = synapse * q + (1 - synapse) * x
            p = membrane * p + (1 - membrane) * q
            u = p @ self.weight.t() + self.bias - self.refractory * r
            s = self.surrogate(u)
            r = refractory * r + (1 - refractory) * s.detach()
            us.append(u)
            fired.append(s)
        s = torch.stack(fired)
        return DecolleOutput(s, torch.stack(us), s @ self.readout.t(), held, (q, p, r))

    def _begin(self, spikes: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        if spikes.ndim != 3 or spikes.shape[-1] != self.weight.shape[1]:
            needed = f"[T, B, {self.weight.shape[1]}]"
            raise ValueError(f"spikes must be {needed}, got {tuple(spikes.shape)}")
        batch, new = spikes.shape[1], self.weight.new_zeros
        wide, narrow = new(batch, self.weight.shape[1]), new(batch, self.weight.shape[0])
        return fitting(state, (wide, wide, narrow))

    def _gradient(self, spikes: Tensor, g: Tensor, before: tuple[Tensor, ...]) -> Tensor:
        synapse, membrane, _ = self.decays
        slow = reverse_trace(g, membrane)
        fast = reverse_trace((1 - membrane) * slow, synapse)
        met, weight = LinearGeometry(), self.weight.detach()
        x = activity(checked(spikes, "spikes"), weight)
        gradient = met.correlate((1 - synapse) * fast, x, weight)
        gradient = gradient + (synapse * fast[0]).t() @ before[0]
        return gradient + (membrane * slow[0]).t() @ before[1]

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        sizes = self.weight.shape[1], self.weight.shape[0], self.readout.shape[0]
        return f"{sizes[0]}, {sizes[1]}, readouts={sizes[2]}"


def _uniform(shape: tuple[int, ...], limit: float, drawn: torch.Generator) -> Tensor:
    values: Any = torch.rand(shape, generator=drawn)
    return (2 * values - 1) * limit
