"""Other windows of pair-based STDP: symmetric, anti-Hebbian."""

from typing import Any

from spike_ops.learning._pair import PairSTDP


def symmetric_stdp(amplitude: float = 1.0, tau: float = 20.0, **options: Any) -> PairSTDP:
    """Return STDP whose window does not know which spike came first: ΔW = A Σ λ^|Δt|.

    Spikes of one step count twice with the order `"update_then_use"`, and not at all with the
    other. A negative amplitude makes it anti-Hebbian.

    Args:
        amplitude: A.
        tau: Time constant of both traces.
        options: Others of `PairSTDP`.

    Example:
        >>> import torch
        >>> rule = symmetric_stdp(tau=2.0)
        >>> early = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
        >>> late = torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1)
        >>> W = torch.zeros(1, 1)
        >>> rule(early, late, W).dw == rule(late, early, W).dw
        tensor([[True]])
    """
    return PairSTDP(tau, tau, amplitude, -amplitude, **options)


def anti_hebbian_stdp(
    a_plus: float = 1.0, a_minus: float = 1.0, tau_pre: float = 20.0, tau_post: float = 20.0,
    **options: Any,
) -> PairSTDP:  # fmt: skip
    """Return STDP with its sign turned: before-after pairs depress, after-before pairs potentiate.

    Args:
        a_plus: Depression by a pair of spikes before and after.
        a_minus: Potentiation by a pair after and before.
        tau_pre: Time constant of the trace before the weight.
        tau_post: That behind it.
        options: Others of `PairSTDP`.

    Source: C. C. Bell et al., "Synaptic plasticity in a cerebellum-like structure depends on
    temporal order", Nature 1997.
    """
    return PairSTDP(tau_pre, tau_post, -a_plus, -a_minus, **options)
