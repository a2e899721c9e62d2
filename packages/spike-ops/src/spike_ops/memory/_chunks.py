"""Training over long times in parts: checkpointed, or with gradients cut between the parts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spike_ops._checked import counted, tensor
from spike_ops.memory._carry import States, neurons_of, run_with
from spike_ops.neuron import Neuron
from spike_ops.nn import BatchNorm2d, TimeBatchNorm

# what normalises over time too, and what may without knowing
OVER_TIME = (TimeBatchNorm, BatchNorm2d)
NORMS = (nn.modules.batchnorm._BatchNorm, TimeBatchNorm)


class CheckpointedTime(nn.Module):
    """Return what a network returns, at the memory of a part of the time instead of all of it.

    Runs the network over `steps` steps at a time. Kept for the backward pass are the input and the
    states of the neurons at the borders; each part is run a second time when its gradients are
    computed. Output and gradients are those of the whole run.

    Args:
        module: The network, [T, B, ...] to [T, B, ...]; everything but the neurons must treat
            every step alike. Batch norm in training takes statistics over all steps and is refused,
            as torch knows it and over time (`spike_ops.nn.TimeBatchNorm` and its kin).
        steps: Steps of a part.

    Raises:
        ValueError: `steps` is below 1, or the network normalises over batches while it trains, or
            has neurons whose time cannot be cut: PSN and its kin, and those called step by step.

    Example:
        >>> from spike_ops.neuron import LIF
        >>> net = CheckpointedTime(nn.Sequential(nn.Linear(8, 16), LIF()), steps=4)
        >>> net(torch.randn(10, 2, 8)).shape
        torch.Size([10, 2, 16])
    """

    def __init__(self, module: nn.Module, *, steps: int) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        self.module, self.steps = module, counted("steps", steps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [T, B, ...] of an input [T, B, ...]."""
        refuse_norms(self.module, NORMS)
        neurons = neurons_of(self.module)
        states: list[States] = [[] for _ in neurons]
        outs = []
        for part in x.split(self.steps):
            out, states = self._part(neurons, part, states)
            outs.append(out)
        return torch.cat(outs)

    def _part(
        self, neurons: list[Neuron], part: Tensor, states: Sequence[States]
    ) -> tuple[Tensor, list[States]]:
        flat, sizes = _flat(states)
        counts: list[list[int]] = []

        def run(part: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
            out, after = run_with(self.module, neurons, part, _nested(flat, sizes))
            ended, counts[:] = _flat(after)
            return out, *ended

        out, *rest = checkpoint(run, part, *flat, use_reentrant=False)
        return out, _nested(rest, counts)


def refuse_norms(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Raise ValueError if a norm in a network would take its statistics over all steps."""
    for each in module.modules():
        # one without running statistics takes those of what it is given in evaluation too
        now = each.training or getattr(each, "running_mean", 0) is None
        if isinstance(each, kinds) and now:
            kind = type(each).__name__
            raise ValueError(f"{kind} in training needs all steps at once: move it out or eval()")


def _flat(states: Sequence[States]) -> tuple[list[Tensor], list[list[int]]]:
    """Return the tensors of all states, and how many there are of each call of each neuron."""
    tensors = [each for calls in states for state in calls for each in state]
    return tensors, [[len(state) for state in calls] for calls in states]


def _nested(tensors: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[States]:
    taken = iter(tensors)
    return [[tuple(next(taken) for _ in range(size)) for size in calls] for calls in sizes]


def backward_in_parts(
    module: nn.Module,
    x: Tensor,
    loss: Callable[[Tensor, slice], Tensor],
    *,
    steps: int = 1,
    keep: Sequence[bool] | None = None,
) -> float:
    """Add gradients part after part, none across the parts; return the sum of the losses.

    The states of the neurons go from part to part as constants, and the graph of a part is freed
    before the next one runs: memory does not grow with T. With `steps=1` this is spatial learning
    through time; `keep` names the parts that get gradients (SLTT-K keeps K of T), the others only
    move the states on.

    Source: Q. Meng et al., "Towards Memory- and Time-Efficient Backpropagation for Training Spiking
    Neural Networks", ICCV 2023, equation 8 and section 4.3.

    Args:
        module: The network, [T, B, ...] to [T, B, ...]. Torch's batch norms in training take the
            statistics of each part; those over time (`spike_ops.nn`) are refused.
        x: Inputs [T, B, ...].
        loss: From the output of a part and its span of time to a number; they are summed.
        steps: Steps of a part.
        keep: Whether each part gets gradients; None is all.

    Raises:
        ValueError: `steps` is below 1, or `keep` has not one entry for each part, or the network
            has neurons or norms whose time cannot be cut.

    Example:
        >>> from spike_ops.neuron import LIF
        >>> net = nn.Sequential(nn.Linear(8, 16), LIF())
        >>> total = backward_in_parts(net, torch.rand(10, 2, 8), lambda out, span: out.mean())
        >>> net[0].weight.grad.shape
        torch.Size([16, 8])
    """
    steps = counted("steps", steps)
    if len(tensor("x", x)) > steps:
        refuse_norms(module, OVER_TIME)
    spans = [slice(t, min(t + steps, len(x))) for t in range(0, len(x), steps)]
    if keep is not None and len(keep) != len(spans):
        raise ValueError(f"keep must have {len(spans)} entries, got {len(keep)}")
    neurons, total = neurons_of(module), 0.0
    states: list[States] = [[] for _ in neurons]
    for place, span in enumerate(spans):
        learned = keep is None or bool(keep[place])
        with torch.set_grad_enabled(learned):
            out, after = run_with(module, neurons, x[span], states)
            told = loss(out, span)
        if learned:
            told.backward()  # type: ignore[no-untyped-call,unused-ignore]
        total += float(told.detach())
        states = [[tuple(each.detach() for each in state) for state in calls] for calls in after]
    return total
