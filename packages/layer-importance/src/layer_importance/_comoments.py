"""Streaming covariance of two streams in float64, the same for every split of the data."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Comoments:
    """Means of ``x`` and ``y`` and the sum of ``(x - mean x)(y - mean y)^T`` over rows.

    Batches are combined by Chan, Golub and LeVeque (1983), for products of two variables. Rows
    with an entry that is not finite in either are left out and counted in ``skipped``.

    Args:
        x_width: features of ``x``.
        y_width: features of ``y``.

    Example:
        >>> import torch
        >>> moments = Comoments(1, 1)
        >>> moments.add(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
        >>> float(moments.products), float(moments.covariance)
        (2.0, 1.0)
    """

    def __init__(self, x_width: int, y_width: int) -> None:
        self.count = 0
        self.skipped = 0
        self.x_mean = torch.zeros(x_width, dtype=torch.float64)
        self.y_mean = torch.zeros(y_width, dtype=torch.float64)
        self.products = torch.zeros(x_width, y_width, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds rows ``[M, x_width]`` and ``[M, y_width]``.

        Raises:
            ValueError: if they have other widths or not as many rows as each other.
        """
        self._check(x, y)
        same = x is y
        x, y, skipped = _finite(x, y)
        self.skipped += skipped
        if len(x):
            x_mean, y_mean = x.mean(0), y.mean(0)
            x_centred = x - x_mean
            y_centred = x_centred if same else y - y_mean
            products = x_centred.T @ y_centred
            self._combine(len(x), x_mean.cpu(), y_mean.cpu(), products.cpu())

    def _check(self, x: Tensor, y: Tensor) -> None:
        want = f"[M, {len(self.x_mean)}] and [M, {len(self.y_mean)}]"
        shapes = tuple(x.shape), tuple(y.shape)
        if shapes != ((len(x), len(self.x_mean)), (len(x), len(self.y_mean))):
            raise ValueError(f"rows must have shapes {want}, got {list(x.shape)}, {list(y.shape)}")

    def _combine(self, count: int, x_mean: Tensor, y_mean: Tensor, products: Tensor) -> None:
        total = self.count + count
        dx, dy = x_mean - self.x_mean, y_mean - self.y_mean
        self.products += products
        self.products += torch.outer(dx, dy) * (self.count * count / total)
        self.x_mean = self.x_mean + dx * (count / total)
        self.y_mean = self.y_mean + dy * (count / total)
        self.count = total

    def merge(self, other: "Comoments") -> None:
        """Adds what ``other`` has seen."""
        self.skipped += other.skipped
        if other.count:
            self._combine(other.count, other.x_mean, other.y_mean, other.products)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance ``[x_width, y_width]``; NaN below two rows."""
        if self.count < 2:
            return torch.full_like(self.products, torch.nan)
        return self.products / (self.count - 1)

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        counts = torch.tensor([self.count, self.skipped], dtype=torch.float64)
        return {
            "counts": counts,
            "x_mean": self.x_mean.clone(),
            "y_mean": self.y_mean.clone(),
            "products": self.products.clone(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Comoments":
        """Returns what :meth:`state` was taken of."""
        moments = cls(len(state["x_mean"]), len(state["y_mean"]))
        moments.count, moments.skipped = (int(n) for n in state["counts"])
        moments.x_mean, moments.y_mean = state["x_mean"].clone(), state["y_mean"].clone()
        moments.products = state["products"].clone()
        return moments


def _finite(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
    x, y = wide(x), wide(y)
    # a sum is finite where all its terms are; that it overflows does not happen to activations
    finite = x.sum(1).isfinite() & (x is y or y.sum(1).isfinite())
    kept = int(finite.sum())
    if kept == len(x):
        return x, y, 0
    return x[finite], y[finite], len(x) - kept


def wide(tensor: Tensor) -> Tensor:
    """Returns a tensor in float64, where it is if its device has that."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state with ``prefix/`` before its names."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns a state by what stands before the first ``/`` of its names."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        prefix, _, rest = name.partition("/")
        found.setdefault(prefix, {})[rest] = tensor
    return found
