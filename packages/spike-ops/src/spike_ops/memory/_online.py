"""Gradients that do not go back through time: SLTT neurons and OTTT layers."""

from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._checked import flag, number
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron import PSN, Neuron, SlidingPSN
from spike_ops.neuron._base import State
from spike_ops.neuron._wrapper import Wrapper


class SLTT(Wrapper):
    """Return the spikes of neurons whose gradient stays within each step.

    s[t], state[t] = neuron.step(x[t], state[t - 1] as a constant)

    Source: Q. Meng et al., ICCV 2023, equation 8; M. Xiao et al., "Online Training Through Time for
    Spiking Neural Networks", NeurIPS 2022, for use with `OTTT`.

    Args:
        neuron: The neurons, of which the step is used.
        options: `steps`, `stateful`, `spike_out`, `backend` of `Neuron`; those of the neurons where
            they are not given.

    Raises:
        TypeError: `neuron` is no neuron, or a surrogate is given: the neurons fire by their own.

    Example:
        >>> from spike_ops.neuron import LIF
        >>> x = torch.full((3, 1, 1), 0.9, requires_grad=True)
        >>> SLTT(LIF())(x)[2].sum().backward()
        >>> (x.grad != 0).flatten()
        tensor([False, False,  True])
    """

    def __init__(self, neuron: Neuron, **options: Any) -> None:
        super().__init__(neuron, **options)
        self.forgets = neuron.forgets

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return one step of the neurons from their state as a constant."""
        return self._inner(current, tuple(each.detach() for each in state), *constants)


class OTTT(nn.Module):
    """Return what a layer returns, with weight gradients by traces of its inputs.

        y[t] = layer(s[t]);   â[t] = λ â[t - 1] + s[t];   dW = Σ_t (∂L/∂y[t]) â[t]ᵀ

    Inputs get their ordinary gradient. With `SLTT` neurons, ∂L/∂y[t] needs nothing of other steps,
    and with inputs in parts (`backward_in_parts`, `stateful=True`) memory does not grow with T.

    Source: M. Xiao et al., "Online Training Through Time for Spiking Neural Networks", NeurIPS
    2022, equations 5 and 9.

    Args:
        layer: A linear or convolutional layer, or another that is linear in its input but for a
            bias; runs on [T · B, ...].
        decay: λ, the decay of the neurons behind it, 0 to 1.
        stateful: Keep the trace from call to call, until `reset()`.

    Raises:
        ValueError: `decay` is outside 0..1, inputs have no time axis, or the layer has nothing to
            learn, has neurons in it, or takes spikes alone, which traces are not.
        TypeError: `layer` is no module.

    Example:
        >>> layer = OTTT(nn.Linear(4, 2, bias=False), decay=0.5)
        >>> layer(torch.ones(2, 1, 4)).sum().backward()
        >>> layer.layer.weight.grad[0]
        tensor([2.5000, 2.5000, 2.5000, 2.5000])
    """

    def __init__(self, layer: nn.Module, *, decay: float, stateful: bool = False) -> None:
        super().__init__()
        number(decay=decay)
        flag(stateful=stateful)
        check_layer(layer)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in 0..1, got {decay}")
        self.layer, self.decay, self.stateful = layer, decay, stateful
        self._trace: Tensor | None = None

    def reset(self) -> None:
        """Forget the trace kept by `stateful=True`."""
        self._trace = None

    def forward(self, spikes: Tensor) -> Tensor:
        """Return the output [T, B, ...] of spikes [T, B, ...]."""
        spikes = spikes.to_dense() if isinstance(spikes, SpikeTensor) else spikes
        if spikes.ndim < 3:
            raise ValueError(f"inputs must be [T, B, ...], got {tuple(spikes.shape)}")
        if not torch.is_grad_enabled():
            if self.stateful:
                self._traces(spikes)
            return self._layer(spikes)
        traced = self._layer(self._traces(spikes.detach()))
        held = {name: each.detach() for name, each in self.layer.named_parameters()}
        ordinary = torch.func.functional_call(self.layer, held, (spikes.flatten(0, 1),))
        # the value of the one, the weight gradient of the other
        return ordinary.unflatten(0, spikes.shape[:2]) + (traced - traced.detach())

    def _layer(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(0, 1))
        return out.unflatten(0, x.shape[:2])

    def _traces(self, spikes: Tensor) -> Tensor:
        kept = self._trace if self.stateful else None
        fits = kept is not None and kept.shape == spikes.shape[1:]
        trace = kept if fits and kept is not None else torch.zeros_like(spikes[0])
        traces = torch.empty_like(spikes)
        for t, now in enumerate(spikes):
            trace = torch.add(now, trace, alpha=self.decay, out=traces[t])
        if self.stateful:
            self._trace = trace.clone()
        return traces


def check_layer(layer: nn.Module) -> None:
    """Raise unless a layer can learn by traces: linear in inputs that need not be spikes."""
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer must be a torch.nn.Module, got {type(layer).__name__}")
    for each in layer.modules():
        kind = type(each).__name__
        if isinstance(each, Neuron | PSN | SlidingPSN):
            raise ValueError(f"layer must be linear, got {kind}: neurons come behind it")
        if getattr(each, "spike_in", False):
            told = f"{kind} takes spikes alone: without spike_in (mask=... for synapses) it does"
            raise ValueError(f"layer must take traces, which are no spikes; {told}")
    if next(layer.parameters(), None) is None:
        raise ValueError(f"layer must have parameters to learn, got {type(layer).__name__}")
