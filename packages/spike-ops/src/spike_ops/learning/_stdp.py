"""A layer, its neurons and their plasticity in one call, step by step."""

import torch
from torch import Tensor, nn

from spike_ops._checked import number, tensor
from spike_ops.learning._dependence import Proportional
from spike_ops.learning._pair import PairSTDP
from spike_ops.neuron import BaseNode, Neuron


class STDP(nn.Module):
    """Return the spikes of a layer and the change of its weight: `(spike, dw)` of one step.

    A face over `PairSTDP` with time constants of 2 steps, traces updated before use, and changes
    in proportion to the clipped weight, f(w) = clip(w, -1, 1). Nothing is changed by the call:
    hand `dw`, times a learning rate, to `connection.update` or `apply_`. Given a window
    [T, B, N_in] it returns the spikes of all steps and the sum of their changes.

    Args:
        node: The neurons; where input comes step by step they must keep their state
            (`stateful=True`).
        connection: A layer with a weight [N_out, N_in].
        trace_pre: Trace of the neurons before the weight at the beginning.
        trace_post: That of the neurons behind it.
        tau_pre: Time constant of the first, in steps.
        tau_post: That of the second.

    Raises:
        ValueError: A time constant is below 1.
        TypeError: `node` is no module, or `connection` has no weight [N_out, N_in].

    Example:
        >>> from spike_ops.learning import apply_
        >>> from spike_ops.neuron import IF
        >>> layer = torch.nn.Linear(4, 3, bias=False)
        >>> learner = STDP(IF(stateful=True), layer)
        >>> for spikes in (torch.rand(10, 2, 4) > 0.7).float():
        ...     spike, dw = learner(spikes)
        ...     apply_(layer, 0.01 * dw)
        >>> spike.shape, dw.shape
        (torch.Size([2, 3]), torch.Size([3, 4]))
        >>> learner.reset()  # traces and neurons; not the time constants
    """

    def __init__(
        self,
        node: nn.Module,
        connection: nn.Module,
        trace_pre: float = 0.0,
        trace_post: float = 0.0,
        tau_pre: float = 2.0,
        tau_post: float = 2.0,
    ) -> None:
        super().__init__()
        for name, given in (("node", node), ("connection", connection)):
            if not isinstance(given, nn.Module):
                raise TypeError(f"{name} must be a torch.nn.Module, got {type(given).__name__}")
        weight = getattr(connection, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            got = f"{type(connection).__name__}: STDP(node, connection, ...)"
            raise TypeError(f"connection must be a layer with a weight [out, in], got {got}")
        number(trace_pre=trace_pre, trace_post=trace_post)
        self.node, self.connection = node, connection
        self.tau_pre, self.tau_post = tau_pre, tau_post
        self._start = trace_pre, trace_post
        self.trace_pre: float | Tensor = trace_pre
        self.trace_post: float | Tensor = trace_post
        _ = self.rule

    @property
    def rule(self) -> PairSTDP:
        """The rule that the traces follow."""
        return PairSTDP(self.tau_pre, self.tau_post, dependence=Proportional(1.0))

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's spikes for input spikes [B, N_in] or [T, B, N_in], and ΔW.

        Raises:
            ValueError: The input has neither of these shapes.
        """
        if tensor("x", x).ndim not in {2, 3}:
            raise ValueError(f"x must be [B, N_in] or [T, B, N_in], got {tuple(x.shape)}")
        current = self.connection(x)
        spike = self._fired(current)
        return spike, self.cal_trace(x, spike)

    @torch.no_grad()
    def cal_trace(self, in_spike: Tensor, out_spike: Tensor) -> Tensor:
        """Return ΔW of spikes on both sides, and go on with the traces."""
        if in_spike.ndim == 2:
            in_spike, out_spike = in_spike[None], out_spike[None]
        weight: Tensor = self.connection.weight  # type: ignore[assignment]
        state = self._trace(self.trace_pre, in_spike), self._trace(self.trace_post, out_spike)
        dw, (self.trace_pre, self.trace_post) = self.rule(in_spike, out_spike, weight, state)
        return dw

    def _fired(self, current: Tensor) -> Tensor:
        if isinstance(self.node, BaseNode):  # is called step by step
            steps = [
                self.node.simple_forward(each) for each in current.view(-1, *current.shape[-2:])
            ]
            return torch.stack(steps).view(current.shape)
        timed = isinstance(self.node, Neuron) and current.ndim == 2
        fired: Tensor = self.node(current[None])[0] if timed else self.node(current)
        return fired

    def reset(self) -> None:
        """Set the traces back to where they began, and the neurons too; time constants stay."""
        self.trace_pre, self.trace_post = self._start
        if callable(forget := getattr(self.node, "reset", None)):
            forget()

    def _trace(self, value: float | Tensor, spikes: Tensor) -> Tensor:
        weight: Tensor = self.connection.weight  # type: ignore[assignment]
        shape = spikes.shape[1:]
        if isinstance(value, Tensor) and value.shape == shape:
            return value
        if isinstance(value, Tensor) and value.ndim:
            got = f"{tuple(value.shape)} for spikes {tuple(shape)}"
            raise ValueError(f"traces are of another batch, {got}; call reset() first")
        return torch.full(shape, float(value), dtype=weight.dtype, device=weight.device)
