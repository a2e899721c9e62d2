"""Streaming covariance of two streams in float64, the same for every split of the data."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

FEW = 256
"""Fewer rows than these are not worth a product."""


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
            products = gram(x_centred) if same else x_centred.T @ (y - y_mean)
            self.combine(len(x), x_mean.cpu(), y_mean.cpu(), products.cpu())

    def _check(self, x: Tensor, y: Tensor) -> None:
        want = f"[M, {len(self.x_mean)}] and [M, {len(self.y_mean)}]"
        shapes = tuple(x.shape), tuple(y.shape)
        if shapes != ((len(x), len(self.x_mean)), (len(x), len(self.y_mean))):
            raise ValueError(f"rows must have shapes {want}, got {list(x.shape)}, {list(y.shape)}")

    def combine(self, count: int, x_mean: Tensor, y_mean: Tensor, products: Tensor) -> None:
        """Adds rows by their number, their means and their products about them."""
        total = self.count + count
        dx, dy = x_mean - self.x_mean, y_mean - self.y_mean
        self.products += products
        if self.count:
            self.products.addr_(dx, dy, alpha=self.count * count / total)
        self.x_mean = self.x_mean + dx * (count / total)
        self.y_mean = self.y_mean + dy * (count / total)
        self.count = total

    def merge(self, other: "Comoments") -> None:
        """Adds what ``other`` has seen."""
        self.skipped += other.skipped
        if other.count:
            self.combine(other.count, other.x_mean, other.y_mean, other.products)

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
    finite = finite_rows(x) if x is y else finite_rows(x, y)
    if finite is None:
        return x, y, 0
    return x[finite], y[finite], len(x) - int(finite.sum())


def wide(tensor: Tensor) -> Tensor:
    """Returns a tensor in float64, where it is if its device has that."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def gram(rows: Tensor) -> Tensor:
    """Returns ``rows^T rows``, ``[D, D]``."""
    if rows.device.type != "cpu":
        return rows.T @ rows
    array = rows.numpy()  # which sees that the product is symmetric, and does half of the work
    return torch.from_numpy(array.T @ array)


def column_squares(rows: Tensor) -> Tensor:
    """Returns the sum of squares of every column, ``[D]``."""
    if rows.device.type != "cpu":
        return rows.square().sum(0)
    array = rows.numpy()
    return torch.from_numpy(np.einsum("md,md->d", array, array))  # without the squares in memory


def finite_rows(*sides: Tensor) -> Tensor | None:
    """Returns which rows are finite in all of ``sides``; ``None`` if all are."""
    # a sum is finite where all its terms are; that it overflows does not happen to activations
    if all(bool(side.sum().isfinite()) for side in sides):
        return None
    return torch.stack([side.sum(1).isfinite() for side in sides]).all(0)


class Waiting:
    """Rows that wait until there are enough of them to be worth a product of ``[D, D]``.

    Args:
        enough: how many; a bounded number, whatever the size of batches.
    """

    def __init__(self, enough: int) -> None:
        self._enough, self._count = enough, 0
        self._rows: list[tuple[Tensor, ...]] = []

    def add(self, *rows: Tensor) -> bool:
        """Adds rows of one number and returns whether there are enough now."""
        self._rows.append(rows)
        self._count += len(rows[0])
        return self._count >= self._enough

    def state(self) -> dict[str, Tensor]:
        """Returns the rows that wait, side by side, by the number of the side."""
        rows = zip(*self._rows, strict=True)
        return {str(side): torch.cat(parts).cpu().double() for side, parts in enumerate(rows)}

    def restored(self, state: Mapping[str, Tensor]) -> None:
        """Takes the rows of a state."""
        if state:
            self.add(*(state[str(side)] for side in range(len(state))))

    def join(self, other: "Waiting") -> bool:
        """Adds what waits there and returns whether there are enough now."""
        for rows in other._rows:
            self.add(*rows)
        return self._count >= self._enough

    def take(self) -> tuple[Tensor, ...] | None:
        """Returns them, and keeps none; ``None`` if there are none."""
        found, self._rows, self._count = self._rows, [], 0
        if len(found) < 2:
            return found[0] if found else None
        return tuple(torch.cat(side) for side in zip(*found, strict=True))


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
