"""What a formula for per-sample gradients is: two matrices a sample, and sums over them."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LIMIT = 2**22
"""Numbers that a formula may hold at once beyond its operands."""

Norms = tuple[Tensor, Tensor]
"""``|g_i|^2`` and ``<g_i, theta>`` of every sample, ``[N]``, float64."""


@dataclass(slots=True)
class Aside:
    """What is worked out beside the norms, or was for another backward pass.

    Attributes:
        sums: sum over samples of the gradient of each parameter, by name; ``None`` if nobody asks.
        kept: what depends on inputs alone, by name; ``None`` if no other pass comes.
        asks: whether it is to be settled if the sums come cheaply.
    """

    sums: dict[str, Tensor] | None = None
    kept: dict[str, Tensor] | None = None
    asks: bool = False

    def add(self, name: str, grads: Tensor) -> None:
        """Adds the gradients of samples, ``[n, *shape]``."""
        if self.sums is not None:
            total = grads.sum(0)
            self.sums[name] = self.sums[name] + total if name in self.sums else total


class Formula(abc.ABC):
    """Norms of the per-sample gradients of one type of module, without the gradients.

    ``rows`` brings input and output gradient of a call into the form ``[n, T, ...]``: samples, and
    what a gradient is a sum over. Several calls of one module are concatenated along ``T``, since
    their gradients add up before the norm is taken.
    """

    def fits(self, module: Any) -> bool:
        """Whether the formula holds for this module's settings."""
        del module
        return True

    @abc.abstractmethod
    def rows(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> tuple[Tensor, ...]:
        """Returns input and output gradient as ``[n, T, ...]``."""

    @abc.abstractmethod
    def norms(
        self,
        module: Any,
        names: Sequence[str],
        x: Tensor,
        grad: Tensor,
        y: Tensor | None,
        aside: Aside,
    ) -> Norms:
        """Returns the norms for what ``rows`` gave; ``y`` is the output in the form of ``grad``."""

    @abc.abstractmethod
    def size(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> int:
        """Returns how many numbers one sample needs beyond the operands."""

    def gives_sum(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> bool:
        """Whether the sum over samples costs less beside the norms than in the backward pass."""
        del module, x, grad, samples
        return True

    def uses_output(self, module: Any, x: Tensor, grad: Tensor, samples: int) -> bool:
        """Whether ``y`` spares work."""
        del module, x, grad, samples
        return False


def tokens(tensor: Tensor, samples: int) -> Tensor:
    """Returns ``[n * m, ..., D]`` as ``[n, T, D]`` of at least single precision."""
    flat = tensor.reshape(samples, -1, tensor.shape[-1])
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()


def total(values: Tensor) -> Tensor:
    """Returns the sum over all but the samples: rows as they are, the sum of rows in float64."""
    # casting all of it first would cost more than the sum
    rows = values.sum(-1) if values.ndim > 2 else values
    return rows.flatten(1).sum(1, dtype=torch.float64)


def squared(values: Tensor) -> Tensor:
    """Returns the squared norm over all but the samples, in float64."""
    # short rows, as of kernels, are slow
    values = values.flatten(2) if values.ndim > 3 else values
    rows = torch.linalg.vector_norm(values, dim=-1).double()
    if rows.ndim == 1:
        return rows.square()
    rows = rows.flatten(1)
    return torch.linalg.vecdot(rows, rows)


def of_vector(grads: Tensor, parameter: Tensor) -> Norms:
    """Returns the norms of gradients that are there: ``[n, *shape]``."""
    theta = parameter.detach().to(grads.dtype).flatten()
    return squared(grads), torch.mv(grads.flatten(1), theta).double()


def summed(parts: Sequence[Norms]) -> Norms:
    """Returns the norms of several parameters together; there must be one."""
    squares, products = parts[0]
    for more, others in parts[1:]:
        squares, products = squares + more, products + others
    return squares, products
