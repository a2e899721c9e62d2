"""Low-rank layers with an identity block: r (m + n - r) weights instead of r (m + n)."""

import torch
from torch import Tensor, nn


class IdentityBlock(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output."""
        h = self.head(x)
        return torch.cat([h, self.tail(h)], self.dim).index_select(self.dim, self.order)


def identity_factors(
    down: Tensor, up: Tensor, inner_bias: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns ``(head weight, head bias, tail weight, tail bias, order)`` of the same affine map.

    Gaussian elimination with partial pivoting on ``up`` chooses the rows ``p`` that become the
    identity: ``up = up[p'] up[p]^-1`` on the others has entries that stay small.

    Args:
        down: ``[r, n]``.
        up: ``[m, r]``, of full column rank, ``r < m``.
        inner_bias: ``[r]``.
        bias: ``[m]``.
    """
    m, r = up.shape
    permutation, lower, upper = torch.linalg.lu(up.double())
    rows = permutation.argmax(0)  # up = P L U: row i of L belongs to output rows[i]
    chosen, others = rows[:r], rows[r:]
    tail = torch.linalg.solve_triangular(
        lower[:r], lower[r:], upper=False, left=False, unitriangular=True
    )
    head = lower[:r] @ upper @ down.double()
    head_bias = up[chosen].double() @ inner_bias.double() + bias[chosen].double()
    tail_bias = bias[others].double() - tail @ bias[chosen].double()
    order = torch.empty_like(rows)
    order[rows] = torch.arange(m, device=rows.device)
    like = up.dtype
    return head.to(like), head_bias.to(like), tail.to(like), tail_bias.to(like), order
