"""Leaky and perfect integrators that are called step by step and remember."""

from typing import Any

from torch import Tensor

from spike_ops.neuron._base import Neuron, State
from spike_ops.neuron._lif import IF, LIF
from spike_ops.neuron._node import BaseNode, backend_of, check_node
from spike_ops.surrogate import Sigmoid, Surrogate

NODE = (
    "neuronal_dynamics", "neuronal_fire", "neuronal_reset", "hard_reset", "soft_reset",
    "initial", "transition",
)  # fmt: skip


class RuleNode(BaseNode):
    """A node whose step is that of a LIF rule."""

    def neuronal_dynamics(self, x: Tensor) -> None:
        """Charge `self.v` with the currents of one step."""
        self.v = self.rule.charge(x, self.v)

    def transition(self, current: Tensor, state: State, *constants: Tensor) -> tuple[Tensor, State]:
        """Return the spikes of one step and the memories after it."""
        if self._is_plain:
            return LIF.transition(self, current, state, *constants)  # type: ignore[arg-type]
        return super().transition(current, state, *constants)

    @property
    def _is_plain(self) -> bool:
        """Whether a subclass changed nothing of the step."""
        own = type(self)
        kept = all(getattr(own, name) is getattr(RuleNode, name) for name in NODE)
        plain = kept and own.step is Neuron.step and own.fire is LIF.fire
        return plain and list(self._memories) == ["v"]

    def _is_a(self, kind: type[Neuron]) -> bool:
        return issubclass(LIF, kind) and self._is_plain

    @property
    def v_threshold(self) -> float:
        """θ."""
        return float(self.rule.threshold)

    @v_threshold.setter
    def v_threshold(self, v_threshold: float) -> None:
        self._change(threshold=v_threshold)

    @property
    def v_reset(self) -> float | None:
        """The membrane after a spike, and where it begins; None where θ is subtracted instead."""
        return float(self.rule.v_reset) if self.rule.reset == "hard" else None

    @v_reset.setter
    def v_reset(self, v_reset: float | None) -> None:
        start = 0.0 if v_reset is None else v_reset
        leak = {"offset": (1 - self.rule.beta) * start}
        self._change(reset="soft" if v_reset is None else "hard", v_reset=start, **leak)
        if "v" in self.__dict__.get("_memories", {}):
            self.set_reset_value("v", start)


class LIFNode(RuleNode, LIF):
    """Return the spikes of leaky integrate-and-fire neurons that remember from call to call.

    With v_r for `v_reset`, or 0 where it is None:

        h = v + (x - (v - v_r)) / τ      decay_input
        h = v - (v - v_r) / τ + x        otherwise
        s = Θ(h - θ);   v = (1 - s) h + s v_reset, or h - s θ where `v_reset` is None

    Args:
        tau: Time constant τ in steps, at least 1.
        decay_input: Whether the current is divided by τ.
        v_threshold: As for `BaseNode`, and so are those behind it.

    Raises:
        ValueError: An argument is outside its range.
        TypeError: `surrogate_function` is no `spike_ops.surrogate.Surrogate`.

    Example:
        >>> import torch
        >>> node = LIFNode()
        >>> [node(torch.full((1,), 1.5)).item() for _ in range(4)]
        [0.0, 1.0, 0.0, 1.0]
        >>> node.reset()
        >>> LIFNode(T=4, parallel_optim=True)(torch.full((4,), 1.5))
        tensor([0., 1., 0., 1.])
    """

    def __init__(
        self,
        tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Surrogate = Sigmoid(),  # noqa: B008
        detach_reset: bool = False,
        parallel_optim: bool = False,
        T: int = 1,
        spike_out: bool = False,
    ) -> None:
        check_node(v_threshold, v_reset, surrogate_function, T)
        LIF.__init__(
            self, tau, decay_input=decay_input, threshold=v_threshold, **_reset(v_reset),
            detach_reset=detach_reset, surrogate=surrogate_function, spike_out=spike_out,
            backend=backend_of(parallel_optim),
        )  # fmt: skip
        self._remember(v_threshold, v_reset, detach_reset, parallel_optim, T)


class IFNode(RuleNode, IF):
    """Return the spikes of perfect integrators that remember from call to call: h = v + x.

    Args:
        v_threshold: As for `BaseNode`, and so are those behind it.

    Raises:
        ValueError: An argument is outside its range.
        TypeError: `surrogate_function` is no `spike_ops.surrogate.Surrogate`.

    Example:
        >>> import torch
        >>> node = IFNode(v_reset=None)
        >>> [node(torch.full((1,), 0.75)).item() for _ in range(4)]
        [0.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Surrogate = Sigmoid(),  # noqa: B008
        detach_reset: bool = False,
        parallel_optim: bool = False,
        T: int = 1,
        spike_out: bool = False,
    ) -> None:
        check_node(v_threshold, v_reset, surrogate_function, T)
        IF.__init__(
            self, threshold=v_threshold, **_reset(v_reset), detach_reset=detach_reset,
            surrogate=surrogate_function, spike_out=spike_out, backend=backend_of(parallel_optim),
        )  # fmt: skip
        self._remember(v_threshold, v_reset, detach_reset, parallel_optim, T)


def _reset(v_reset: float | None) -> dict[str, Any]:
    return {"reset": "soft"} if v_reset is None else {"reset": "hard", "v_reset": v_reset}
