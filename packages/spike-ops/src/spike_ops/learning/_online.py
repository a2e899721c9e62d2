"""Gradients by presynaptic traces: what a step needs to know of the steps before."""

import torch
from torch import Tensor

from spike_ops.learning._base import Update, dense, fitting
from spike_ops.learning._geometry import Geometry, LinearGeometry
from spike_ops.learning._rates import activity
from spike_ops.learning._spikes import checked
from spike_ops.learning._traces import exactly, last_trace, reverse_trace


@torch.no_grad()
def trace_gradient(
    pre: Tensor,
    signal: Tensor,
    decay: float,
    weight: Tensor,
    initial: Tensor | None = None,
    *,
    geometry: Geometry | None = None,
) -> Update:
    """Return Σ_t g[t] x̄[t]ᵀ and x̄[T]: the gradient by a presynaptic trace, of the weight's shape.

        x̄[t] = λ x̄[t-1] + x[t]

    With g = ∂L/∂u at the step itself this is online training through time (OTTT); the trace is
    moved to the signal's side, so that the product has spikes as one operand.

    Args:
        pre: x, spikes or values [T, B, N_in].
        signal: g [T, B, N_out].
        decay: λ, the leak of the membrane.
        weight: [N_out, N_in]; gives shape and type.
        initial: x̄ before the window [B, N_in]; zeros if None.
        geometry: How pre and post meet in the weight.

    Raises:
        ValueError: Shapes do not fit.

    Source: M. Xiao et al., "Online Training Through Time for Spiking Neural Networks",
    NeurIPS 2022, eq. 6.

    Example:
        >>> x = torch.tensor([1.0, 0.0]).reshape(2, 1, 1)
        >>> trace_gradient(x, torch.ones(2, 1, 1), 0.5, torch.zeros(1, 1)).dw
        tensor([[1.5000]])
    """
    met = LinearGeometry() if geometry is None else geometry
    pre, signal = checked(pre, "pre", binary=False), checked(signal, "signal", binary=False)
    met.check(pre, signal, weight)
    start = fitting(None if initial is None else (initial,), (weight.new_zeros(pre.shape[1:]),))[0]
    with exactly(weight):
        ahead = reverse_trace(signal.to(weight.dtype), decay)
        dw = met.correlate(ahead, activity(pre, weight), weight)
        if initial is not None:
            dw = dw + met.correlate(decay * ahead[:1], start[None], weight)
        return Update(dw, (last_trace(dense(pre, weight), decay, start),))
