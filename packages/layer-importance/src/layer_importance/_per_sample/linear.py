"""Linear layers, and those that are one in other words."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from layer_importance._per_sample._formula import (
    Aside,
    Formula,
    Norms,
    of_vector,
    squared,
    summed,
    tokens,
    total,
)


class LinearFormula(Formula):
    """``g_i = G_i^T A_i`` for inputs ``A_i [T, in]`` and output gradients ``G_i [T, out]``.

    One token: ``|g|^2 = |a|^2 |g|^2``. Else the cheaper of ``<A A^T, G G^T>``, which costs
    ``T^2 (in + out)``, and the gradient itself, ``T in out``.

    Source: Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679, eq. 3; the choice: Bu et
    al., arXiv 2205.10683.

    Args:
        transposed: whether the weight is ``[in, out]``.
    """

    def __init__(self, *, transposed: bool = False) -> None:
        self._transposed = transposed

    def rows(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> tuple[Tensor, ...]:
        """Tokens are whatever is between samples and features."""
        return tokens(x, samples), tokens(grad, samples)

    def norms(
        self,
        module: Any,
        names: Sequence[str],
        x: Tensor,
        grad: Tensor,
        y: Tensor | None,
        aside: Aside,
    ) -> Norms:
        """Of weight and bias."""
        parts = []
        for name in names:
            if name == "bias":
                grads = grad.sum(1)
                aside.add(name, grads)
                parts.append(of_vector(grads, module.bias))
            else:
                parts.append(self._weight(module, x, grad, y, aside))
        return summed(parts)

    def _weight(
        self, module: Any, x: Tensor, grad: Tensor, y: Tensor | None, aside: Aside
    ) -> Norms:
        weight = module.weight.detach().to(x.dtype)
        if aside.sums is not None or not _by_tokens(x.shape[1], *weight.shape):
            left, right = (x, grad) if self._transposed else (grad, x)
            grads = left.transpose(1, 2) @ right
            aside.add("weight", grads)
            return of_vector(grads, weight)
        weight = weight.T if self._transposed else weight
        if y is None:
            y = x @ weight.T
        elif module.bias is not None:
            y = y - module.bias.detach().to(y.dtype)
        products = total(grad * y)
        if x.shape[1] == 1:
            return squared(x) * squared(grad), products
        inputs = (aside.kept or {}).get("inputs")
        if inputs is None:
            inputs = x @ x.transpose(1, 2)
            if aside.kept is not None:
                aside.kept["inputs"] = inputs
        return total(inputs * (grad @ grad.transpose(1, 2))), products

    def size(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> int:
        """Two Gram matrices or one gradient."""
        count, wide, high = _counts(x, grad, samples)
        if count == 1:
            return wide + high
        return 3 * count**2 if _by_tokens(count, high, wide) else 2 * wide * high

    def gives_sum(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> bool:
        """Where a sample's gradient is not much larger than what its norm needs."""
        count, wide, high = _counts(x, grad, samples)
        return count > 1 and 3 * count * (wide + high) >= wide * high

    def uses_output(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> bool:
        """Where the gradient itself is not made."""
        count, wide, high = _counts(x, grad, samples)
        return _by_tokens(count, high, wide)


def _by_tokens(count: int, high: int, wide: int) -> bool:
    return count == 1 or count * (wide + high) < wide * high


def _counts(x: Tensor, grad: Tensor, samples: int) -> tuple[int, int, int]:
    wide, high = x.shape[-1], grad.shape[-1]
    return x.numel() // max(samples * wide, 1), wide, high
