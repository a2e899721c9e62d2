"""Low-rank layers with an identity block: r (m + n - r) weights instead of r (m + n)."""

import torch
from torch import Tensor, nn

from adlrns_models._composed import ReadsAsDense, stacked_outputs
from lowrank_kernels import identity_block


class IdentityBlock(ReadsAsDense):
    """Returns ``[h, tail(h)]`` for ``h = head(x)``, its features put back into their order.

    Of the ``m`` outputs of a rank-``r`` layer some ``r`` determine the others. ``head`` computes
    those, ``tail`` the remaining ``m - r`` from them: the ``r x r`` block of the second factor
    that would be an identity is neither stored nor computed.

    Args:
        head: to the ``r`` chosen features.
        tail: from these to the ``m - r`` others.
        order: ``[m]``, where each output is found in ``[h, tail(h)]``.
        dim: axis of the features, ``-1`` (linear) or ``-3`` (convolution).

    Source: the junction matrix of LatentLLM (arXiv 2505.18413).
    """

    order: Tensor

    def __init__(self, head: nn.Module, tail: nn.Module, order: Tensor, dim: int):
        super().__init__()
        self.head, self.tail, self.dim = head, tail, dim
        self.register_buffer("order", order)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the layer's output."""
        h = self.head(input)
        return torch.cat([h, self.tail(h)], self.dim).index_select(self.dim, self.order)

    def _dense(self) -> tuple[Tensor, Tensor]:
        return stacked_outputs(self.head, self.tail, self.order)


def identity_factors(
    down: Tensor, up: Tensor, inner_bias: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns ``(head weight, head bias, tail weight, tail bias, order)`` of the same affine map.

    The outputs that become the identity are chosen so that no entry of the tail exceeds 2.

    Args:
        down: ``[r, n]``.
        up: ``[m, r]``, ``r < m``.
        inner_bias: ``[r]``.
        bias: ``[m]``.
    """
    block = identity_block(down, up, bias, inner_bias=inner_bias)
    assert block.head_bias is not None
    assert block.tail_bias is not None
    return block.head, block.head_bias, block.tail, block.tail_bias, block.order


def grouped_order(orders: list[Tensor], rank: int) -> Tensor:
    """Returns where each output is found when heads of all groups come before all tails.

    Args:
        orders: of each group, ``[m]``: the numbers below ``rank`` are of its head.
        rank: of each group.
    """
    rest = orders[0].shape[0] - rank
    places = []
    for g, order in enumerate(orders):
        tails = (len(orders) - 1) * rank + g * rest + order
        places.append(torch.where(order < rank, g * rank + order, tails))
    return torch.cat(places)
