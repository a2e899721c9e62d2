"""What a gate is: it decides how many directions of a dynamic layer an input gets."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer, DynamicOptions


class Decision(NamedTuple):
    """What a gate decided for one call, and what the call took.

    Attributes:
        rank: directions that ran; an int, a 0-dim tensor in a compiled graph, ``[N]`` for a layer
            that decides for each sample.
        expected: the mean rank that the penalty counts; with a gradient where the gate learns.
        share: FLOPs of the call, the gate's included, as a share of the dense layer's.
        rows: rows (tokens, positions) of the call.
    """

    rank: int | Tensor
    expected: float | Tensor
    share: float | Tensor
    rows: int

    def without_graph(self) -> "Decision":
        """Returns the decision with a mean rank that has no gradient."""
        if not isinstance(self.expected, Tensor):
            return self
        return self._replace(expected=self.expected.detach())


class Gate(nn.Module):
    """Decides the rank of a dynamic layer's call and runs the call at it.

    Subclasses say so in ``forward``. State that moves from call to call belongs in buffers, or in
    attributes that are numbers: activation checkpointing, which runs a call twice, then finds it as
    it was at the first run, and leaves it as the first run did. (Not in compiled graphs: there
    checkpointing needs a gate whose calls leave its state alone.)

    Attributes:
        is_steady: whether it decides by input, factors and ceiling alone in training too, without
            random numbers or a state: checkpointing can then run any call again.
    """

    is_steady: ClassVar[bool] = False

    def forward(
        self, layer: "DynamicLayer", x: Tensor, ceiling: int | Tensor
    ) -> tuple[Tensor, Decision]:
        """Returns the layer's output for a batch, and what was decided.

        Args:
            layer: whose factors run.
            x: a batch, as the layer takes it; the first axis counts samples.
            ceiling: the largest rank allowed; a 0-dim tensor in a compiled graph.
        """
        raise TypeError(f"{type(self).__name__} must say how it decides")

    @property
    def learns(self) -> bool:
        """Whether it has parameters that are trained."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def forget(self) -> None:
        """Drops what the gate keeps of a layer's factors from call to call, if it keeps any."""


def make_gate(options: "DynamicOptions", max_rank: int, r_min: int, like: Tensor) -> Gate:
    """Returns the gate that a layer's options ask for, on the device of its factors."""
    from adlrns_models._gate_block import BlockGate
    from adlrns_models._gate_learned import LearnedGate, even_choices
    from adlrns_models._gate_spectral import SpectralGate

    gate, hidden = options.gate, options.scorer_hidden
    if isinstance(gate, Gate):
        return gate
    if gate == "spectral":
        return SpectralGate()
    if gate == "learned":
        return LearnedGate(even_choices(r_min, max_rank), hidden=hidden, like=like)
    if gate == "block":
        return BlockGate(max_rank, options.num_gate_blocks, hidden=hidden, like=like)
    raise ValueError(f'gate must be "spectral", "learned", "block" or a Gate, got {options.gate!r}')


def smallest_rank(tails: Tensor, r_min: int, share: float) -> Tensor:
    """Returns for each row of ``tails [N, c + 1]`` the least ``r >= r_min`` within the bound.

    The bound is ``tails[:, r] <= share * tails[:, 0]``; ``c`` where no other rank keeps it, and
    for tails that are no numbers.
    """
    fits = tails <= share * tails[:, :1]
    places = torch.arange(tails.shape[1], device=tails.device)
    fits = (fits & (places >= r_min)) | (places == tails.shape[1] - 1)
    return fits.long().argmax(1)


def complexity(tails: Tensor) -> Tensor:
    """Returns ``s(x) [N]`` in 0..1: the mean over ranks of the share of energy truncation loses.

    ``s(x) = mean_{r=1..R-1} |y_R - y_r|^2 / |y_R|^2`` without the outer bias: 0 for inputs that one
    direction carries, near 1 for those that need the last. Rank ``r`` loses at most
    ``s(x) (R - 1) / r`` of the energy where ``up`` has orthonormal columns (Markov's inequality).
    """
    inside = tails[:, 1:-1] / tails[:, :1]
    inside = inside.nan_to_num(nan=0.0, posinf=1.0).clamp(0.0, 1.0)
    return inside.mean(1) if inside.shape[1] else tails.new_zeros(tails.shape[0])


def at_rank(layer: "DynamicLayer", x: Tensor, rank: int) -> tuple[Tensor, Decision]:
    """Returns the output of the first ``rank`` directions, whatever the input is."""
    return layer.outer(layer.inner(x, 0, rank)), plain_decision(layer, x, rank)


def plain_decision(layer: "DynamicLayer", x: Tensor, rank: int) -> Decision:
    """Returns the record of a call at one rank for all samples."""
    m, n = layer.sizes
    ranks = torch.full((len(x),), rank, device=x.device) if layer.granularity == "sample" else rank
    return Decision(ranks, float(rank), rank * (m + n) / (m * n), layer.row_count(x))
