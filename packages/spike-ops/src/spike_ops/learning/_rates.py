"""Rules of rates: Hebb, Oja, Bienenstock-Cooper-Munro."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.learning._base import State, SynapticRule, Update, dense as dense_values, slow_dtype
from spike_ops.learning._geometry import Activity, Geometry
from spike_ops.learning._spikes import Spikes, values_of
from spike_ops.learning._traces import exponential_trace
from spike_ops.neuron._lif_settings import decay


@dataclass(frozen=True)
class Hebbian(SynapticRule):
    """Return Hebb's change: ΔW = Σ y xᵀ, activity before times activity after the weight.

    Activities may be spikes or rates.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0]]])
        >>> Hebbian()(x, torch.ones(1, 1, 1), torch.zeros(1, 2)).dw
        tensor([[1., 0.]])
    """

    binary = False

    def initial(self, pre: Tensor, post: Tensor, weight: Tensor) -> State:
        """Return nothing: the rule has no memory."""
        del pre, post, weight
        return ()

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update:
        y, x = activity(post, weight), activity(pre, weight)
        return Update(geometry.correlate(y, x, weight), state)

    def _update_reference(self, pre: Tensor, post: Tensor, weight: Tensor, state: State) -> Update:
        dw = torch.zeros_like(weight)
        for x, y in zip(pre.flatten(0, 1), post.flatten(0, 1), strict=True):
            dw += torch.outer(y, x)
        return Update(dw, state)


@dataclass(frozen=True)
class Oja(Hebbian):
    """Return Hebb's change with the decay that keeps weights bounded: ΔW = Σ y xᵀ - Σ y² ⊙ W.

    Where y = W x, each row goes to the first principal component of x, with length 1.
    Activities may be spikes or rates.

    Source: E. Oja, "A Simplified Neuron Model as a Principal Component Analyzer", J. Math. Biol.
    1982, eq. 3.

    Example:
        >>> x, y = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0]]])
        >>> Oja()(x, y, torch.tensor([[0.5, 0.5]])).dw
        tensor([[ 0., -2.]])
    """

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update:
        dw, state = super()._update(pre, post, weight, state, geometry)
        squares = dense_values(post, weight).square().transpose(0, 2).flatten(1).sum(1)
        return Update(dw - squares.reshape(-1, *[1] * (weight.ndim - 1)) * weight, state)

    def _update_reference(self, pre: Tensor, post: Tensor, weight: Tensor, state: State) -> Update:
        dw = torch.zeros_like(weight)
        for x, y in zip(pre.flatten(0, 1), post.flatten(0, 1), strict=True):
            dw += y[:, None] * (x[None, :] - y[:, None] * weight)
        return Update(dw, state)


@dataclass(frozen=True)
class BCM(SynapticRule):
    """Return the change by Bienenstock, Cooper and Munro: a threshold that slides with the rate.

        y[t] = λ y[t-1] + (1 - λ) post[t],   θ[t] = κ θ[t-1] + (1 - κ) <y[t]²>_batch
        ΔW = Σ y (y - θ) preᵀ

    Neurons more active than θ learn, those less active unlearn. Activities may be spikes or rates.

    Args:
        tau_rate: Time constant in steps of the rate y; 1 takes the activity itself.
        tau_threshold: That of θ, slower.

    Raises:
        ValueError: A time constant is below 1.

    Source: E. Bienenstock, L. Cooper, P. Munro, J. Neurosci. 1982; θ = <y²> after N. Intrator,
    L. Cooper, Neural Networks 1992.

    Example:
        >>> rule = BCM(tau_rate=1.0, tau_threshold=2.0)
        >>> x, y = torch.ones(1, 1, 1), torch.full((1, 1, 1), 4.0)
        >>> rule(x, y, torch.zeros(1, 1)).dw  # θ = 8: 4 (4 - 8)
        tensor([[-16.]])
    """

    tau_rate: float = 10.0
    tau_threshold: float = 1000.0

    binary = False

    def __post_init__(self) -> None:
        _ = self._decays

    @property
    def _decays(self) -> tuple[float, float]:
        fast = decay(self.tau_rate, "euler", "tau_rate")
        return fast, decay(self.tau_threshold, "euler", "tau_threshold")

    def initial(self, pre: Tensor, post: Tensor, weight: Tensor) -> State:
        """Return y [B, N_out, ...] and θ [N_out, ...], both 0."""
        del pre
        kind = slow_dtype(weight)
        shapes = post.shape[1:], post.shape[2:]
        return tuple(weight.new_zeros(shape, dtype=kind) for shape in shapes)

    def _update(
        self, pre: Tensor, post: Tensor, weight: Tensor, state: State, geometry: Geometry
    ) -> Update:
        fast, slow = self._decays
        y = dense_values(post, state[0])
        rate = exponential_trace((1 - fast) * y, fast, initial=state[0])
        power = rate.square().sum(1).mul_((1 - slow) / max(rate.shape[1], 1))
        threshold = exponential_trace(power, slow, initial=state[1])
        phi = (rate * (rate - threshold[:, None])).to(weight.dtype)
        dw = geometry.correlate(phi, activity(pre, weight), weight)
        return Update(dw, (rate[-1].clone(), threshold[-1].clone()))

    def _update_reference(self, pre: Tensor, post: Tensor, weight: Tensor, state: State) -> Update:
        (rate, threshold), dw = state, torch.zeros_like(weight)
        fast, slow = self._decays
        for x, y in zip(pre, post, strict=True):
            rate = fast * rate + (1 - fast) * y
            threshold = slow * threshold + (1 - slow) * (rate * rate).mean(0)
            for b in range(len(x)):
                dw += torch.outer(rate[b] * (rate[b] - threshold), x[b])
        return Update(dw, (rate, threshold))


def activity(given: Tensor, weight: Tensor) -> Activity:
    """Return spikes with their places if they are packed, values otherwise."""
    if isinstance(given, SpikeTensor):
        return Spikes(given, weight.dtype)
    return values_of(given.to(weight.dtype))
