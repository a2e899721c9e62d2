"""Embeddings: a row of the table a token."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_importance._per_sample._formula import Aside, Formula, Norms, tokens, total


class EmbeddingFormula(Formula):
    """``|g_i|^2 = sum_ts [token_t = token_s] <G_it, G_is>``: rows that a sample reads add up."""

    def fits(self, module: Any) -> bool:
        """A plain look-up."""
        table = module
        return table.max_norm is None and not table.scale_grad_by_freq and not table.sparse

    def rows(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> tuple[Tensor, ...]:
        """Which row each token reads, ``[n, T]``, and its gradient."""
        return x.reshape(samples, -1), tokens(grad, samples)

    def norms(
        self,
        module: Any,
        names: Sequence[str],
        x: Tensor,
        grad: Tensor,
        y: Tensor | None,
        aside: Aside,
    ) -> Norms:
        """Of the table; the row of padding has no gradient."""
        table = module
        if table.padding_idx is not None:
            grad = torch.where((x == table.padding_idx)[..., None], torch.zeros_like(grad), grad)
        count, width = len(x), grad.shape[2]
        # one row a pair of sample and token that occurs, however large the table is
        pairs = x + table.num_embeddings * torch.arange(count, device=x.device)[:, None]
        kinds, place = pairs.flatten().unique(return_inverse=True)
        sums = grad.new_zeros(len(kinds), width).index_add_(0, place, grad.flatten(0, 1))
        squares = torch.zeros(count, dtype=torch.float64, device=x.device)
        squares.index_add_(
            0, kinds // table.num_embeddings, sums.square().sum(1, dtype=torch.float64)
        )
        return squares, total(grad * F.embedding(x, table.weight.detach()).to(grad.dtype))

    def gives_sum(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> bool:
        """The table is larger than the rows that are read."""
        return False

    def size(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> int:
        """The rows that are read."""
        return 2 * grad.numel() // max(samples, 1)
